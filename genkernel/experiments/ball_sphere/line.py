"""Two sides of a line: who is near by the kernel, and how the kernel stretches the plane across and along the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.ball_sphere.metric import kernel_metric
from genkernel.experiments.ball_sphere.setting import Setting
from genkernel.experiments.ball_sphere.training import Descent, descended, nearest, nearest_euclidean
from genkernel.experiments.plane_maps import outputs_on, square
from genkernel.experiments.plane_points import beside_a_line

Array = NDArray[np.float64]

HALF = 1.1  # of the map of decisions
FRESH = 100_000  # added to the seeds of points that no network is trained on


@dataclass
class Line:
    """What the networks on two sides of a line did, over R seeds; "across" is along its normal.

    Attributes:
        descent: their training.
        fresh: accuracy on fresh points ``[R]``.
        own: name of the neighbours (``kernel``, ``untrained``, ``Euclidean``) → part with the side of x0 ``[R, s]``.
        across, along: likewise, standard deviation of their places in that direction ``[R, s]``.
        metric, metric_before: turn of the tangent feature per unit of length, across and along, at every point of a
            lattice, after and before training ``[R, 2, L, A]`` (places along × places across); NaN outside of the disk.
        tilt: angle in degrees between the normal and the direction in which it turns fastest ``[R, L, A]``.
        lattice: places across ``[A]``, and along ``[L]``.
        normals: of every seed ``[R, 2]``.
        regions: outputs of the first network on a square.
        nearest, nearest_euclidean: of the first seed, on the side of the normal ``[s, k]``.
    """

    descent: Descent
    fresh: Array
    own: dict[str, Array]
    across: dict[str, Array]
    along: dict[str, Array]
    metric: Array
    metric_before: Array
    tilt: Array
    lattice: tuple[Array, Array]
    normals: Array
    regions: Array
    nearest: NDArray[np.int64]
    nearest_euclidean: NDArray[np.int64]


def line(setting: Setting, seed: int) -> Line:
    """Train on two sides of lines of random direction and look."""
    draws = [beside_a_line(setting.samples, setting.gap, seed + r) for r in range(setting.seeds)]
    descent = descended([(x, y) for x, y, _ in draws], setting, seed)
    distances = torch.tensor(setting.distances, dtype=torch.float64)
    rows: dict[str, list[Array]] = {}
    fresh, metrics, first = [], [], None
    for r, (x, y, normal) in enumerate(draws):
        start, end = descent.start[r], descent.end[r]
        asked = torch.cat([distances[:, None] * normal, -distances[:, None] * normal])
        found = {
            "kernel": nearest(end, x, asked, setting.neighbours),
            "untrained": nearest(start, x, asked, setting.neighbours),
            "Euclidean": nearest_euclidean(x, asked, setting.neighbours),
        }
        for name, near in found.items():
            for measure, values in spreads(x, y, near, normal).items():
                rows.setdefault(f"{measure}, {name}", []).append(values)
        fresh.append(_right(end, normal, setting, seed + r))
        metrics.append([lattice_metric(net, normal, setting.lattice) for net in (end, start)])
        if first is None:
            half = len(distances)
            first = found["kernel"][:half].numpy(), found["Euclidean"][:half].numpy()
    assert first is not None

    def gathered(measure: str) -> dict[str, Array]:
        return {name: np.array(rows[f"{measure}, {name}"]) for name in ("kernel", "untrained", "Euclidean")}

    after, before = (torch.stack([one[which] for one in metrics]) for which in (0, 1))
    return Line(
        descent, np.array(fresh), gathered("own"), gathered("across"), gathered("along"), turns(after), turns(before),
        tilt(after), (places(setting.lattice[0]).numpy(), places(setting.lattice[1]).numpy()),
        torch.stack([normal for _, _, normal in draws]).numpy(),
        outputs_on(descent.end[0], square(HALF, 70)), *first,
    )  # fmt: skip


def spreads(x: Tensor, y: Tensor, near: Tensor, normal: Tensor) -> dict[str, Array]:
    """Of neighbours ``[2s, k]`` of points at distances s on the side of the normal, then on the other.

    Returns:
        ``own``, the part on the point's side, ``across`` and ``along``, their standard deviations in the direction of
        the normal and of the line; each ``[s]``, mean of both sides.
    """
    half = len(near) // 2
    side = torch.cat([torch.ones(half), torch.zeros(half)]).long()[:, None]
    places = x[near]
    tangent = torch.stack([-normal[1], normal[0]])
    found = {
        "own": (y[near] == side).double().mean(1),
        "across": (places @ normal).std(1, correction=0),
        "along": (places @ tangent).std(1, correction=0),
    }
    return {name: values.reshape(2, half).mean(0).numpy() for name, values in found.items()}


def places(count: int) -> Tensor:
    """Coordinates of the lattice, across or along."""
    return torch.linspace(-0.9, 0.9, count, dtype=torch.float64)


def lattice_metric(net: torch.nn.Module, normal: Tensor, counts: tuple[int, int]) -> Tensor:
    """The kernel's metric in the frame of normal and line ``[L, A, 2, 2]``, rows along it; NaN beyond the disk."""
    along, across = torch.meshgrid(places(counts[1]), places(counts[0]), indexing="ij")
    tangent = torch.stack([-normal[1], normal[0]])
    points = across[..., None] * normal + along[..., None] * tangent
    inside = points.norm(dim=2) <= 1
    found = torch.full((*along.shape, 2, 2), torch.nan, dtype=torch.float64)
    found[inside] = kernel_metric(net, points[inside], torch.stack([normal, tangent]))
    return found


def turns(metric: Tensor) -> Array:
    """Radians per unit of length across and along ``[R, 2, L, A]`` of metrics ``[R, L, A, 2, 2]``."""
    return metric.diagonal(dim1=3, dim2=4).sqrt().permute(0, 3, 1, 2).numpy()


def tilt(metric: Tensor) -> Array:
    """Degrees between the normal and the direction of fastest turning ``[R, L, A]``, 0 to 90."""
    a, b, c = metric[..., 0, 0], metric[..., 0, 1], metric[..., 1, 1]
    return (0.5 * torch.atan2(2 * b, a - c)).abs().rad2deg().numpy()


def _right(net: torch.nn.Module, normal: Tensor, setting: Setting, seed: int) -> float:
    """Accuracy on fresh points of the same line, as far from it."""
    draw = torch.Generator().manual_seed(seed + FRESH)
    points = 2 * torch.rand(8 * setting.fresh, 2, generator=draw, dtype=torch.float64) - 1
    points = points[(points.norm(dim=1) <= 1) & ((points @ normal).abs() > setting.gap)][: setting.fresh]
    return float(((outputs_on(net, points) > 0) == (points @ normal > 0).numpy()).mean())

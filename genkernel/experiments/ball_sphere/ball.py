"""Ball against sphere: the boundary that is found, neighbours at several radii, linear machines on tangent features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.ball_sphere.setting import Setting
from genkernel.experiments.ball_sphere.training import Descent, descended, nearest, nearest_euclidean, overlap
from genkernel.experiments.domingos import ball_and_sphere
from genkernel.experiments.plane_maps import outputs_on, square
from genkernel.experiments.plane_networks import of_layers, tangent_kernel
from genkernel.experiments.support_vectors import Machine, on_features, on_points

Array = NDArray[np.float64]

BALL, SPHERE = 0.5, 1.0  # radii
MIDDLE = (BALL + SPHERE) / 2
HALF = 1.3  # of the square on which decisions are compared
FRESH = 100_000  # added to the seeds of points that no network is trained on
RAYS = 180
TANGENT, UNTRAINED, REST, RBF = "tangent", "untrained tangent", "tangent, no last layer", "RBF on the points"
MACHINES = (TANGENT, UNTRAINED, REST, RBF)
HARD = 1e6  # C of machines that are to have the largest margin, on features divided by their root mean square


@dataclass
class Ball:
    """What the networks on ball and sphere did, over R seeds.

    Attributes:
        descent: their training.
        fresh: accuracy on fresh points ``[R]``.
        radius, spread: mean and standard deviation over rays of the radius of the boundary ``[R]``; closed: part of the
            rays that cross it once between the centre and 1.5 ``[R]``.
        shared, shared_before: part of the nearest points by kernel and by distance in common, for every radius, after
            and before training ``[R, r]``.
        own, own_euclidean: part of the nearest points with the label of x0 (sphere beyond the middle) ``[R, r]``.
        machines: name → of the machine with the largest margin ``in-sample``, ``held out``, part of the square where it
            is not the network's decision, and ``hard``, 1 where it was solved and no sample has the weight C ``[R]``.
        soft: name → the same for machines with every penalty of the setting ``[R, C]``.
        directions: u of every seed ``[R, 2]``.
        maps: of the first seed: what decides on the square, ``network`` and machines.
        nearest, nearest_euclidean: of the first seed ``[r, k]``.
    """

    descent: Descent
    fresh: Array
    radius: Array
    spread: Array
    closed: Array
    shared: Array
    shared_before: Array
    own: Array
    own_euclidean: Array
    machines: dict[str, dict[str, Array]]
    soft: dict[str, dict[str, Array]]
    directions: Array
    maps: dict[str, Array]
    nearest: NDArray[np.int64]
    nearest_euclidean: NDArray[np.int64]


def direction(seed: int) -> Tensor:
    """A unit vector of the plane."""
    turn = 2 * math.pi * torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([turn.cos(), turn.sin()])


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of ball (0) and sphere (1)."""
    points, signs = ball_and_sphere(n, seed)
    return points, (signs[:, 0] > 0).long()


def ball(setting: Setting, seed: int) -> Ball:
    """Train on ball and sphere and look."""
    descent = descended([drawn(setting.samples, seed + r) for r in range(setting.seeds)], setting, seed)
    radii = torch.tensor(setting.radii, dtype=torch.float64)
    answer = (radii > MIDDLE).long()[:, None]
    rows, machines, soft, first = [], [], [], None
    for r, (x, y, start, end) in enumerate(
        zip(descent.points, descent.labels, descent.start, descent.end, strict=True)
    ):
        asked = radii[:, None] * direction(seed + r + FRESH)
        by_kernel, by_distance = (
            nearest(end, x, asked, setting.neighbours),
            nearest_euclidean(x, asked, setting.neighbours),
        )
        before = nearest(start, x, asked, setting.neighbours)
        new, new_y = drawn(setting.fresh, seed + r + FRESH)
        right = float(((outputs_on(end, new) > 0) == new_y.bool().numpy()).mean())
        rows.append((
            right, *boundary(end), overlap(by_kernel, by_distance), overlap(before, by_distance),
            (y[by_kernel] == answer).double().mean(1).numpy(), (y[by_distance] == answer).double().mean(1).numpy(),
        ))  # fmt: skip
        scores, softer, maps = _machines(x, y, new, new_y, start, end, setting)
        machines.append(scores)
        soft.append(softer)
        if first is None:
            first = maps, by_kernel.numpy(), by_distance.numpy()
    assert first is not None
    fresh, radius, spread, closed, shared, shared_before, own, own_euclidean = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    maps, by_kernel_first, by_distance_first = first
    return Ball(
        descent, fresh, radius, spread, closed, shared, shared_before, own, own_euclidean,
        {name: {m: np.array([one[name][m] for one in machines]) for m in machines[0][name]} for name in MACHINES},
        {name: {m: np.array([[each[m] for each in one[name]] for one in soft]) for m in machines[0][name]}
         for name in MACHINES},
        torch.stack([direction(seed + r + FRESH) for r in range(setting.seeds)]).numpy(),
        maps, by_kernel_first, by_distance_first,
    )  # fmt: skip


def boundary(net: nn.Module) -> tuple[float, float, float]:
    """Mean and standard deviation of the radius at which rays cross the boundary, and the part that cross it once."""
    r = torch.linspace(0, 1.5, 301, dtype=torch.float64)
    turn = 2 * math.pi * torch.arange(RAYS, dtype=torch.float64) / RAYS
    rays = torch.stack([turn.cos(), turn.sin()], 1)
    values = outputs_on(net, (rays[:, None] * r[:, None]).flatten(0, 1)).reshape(RAYS, len(r))
    crossed = (values[:, :-1] < 0) & (values[:, 1:] >= 0)
    found = []
    for ray, at in zip(values, crossed, strict=True):
        if at.any():
            j = int(at.argmax())
            found.append(float(r[j] + (r[j + 1] - r[j]) * -ray[j] / (ray[j + 1] - ray[j])))
    once = (np.diff(values >= 0, axis=1)).sum(1) == 1
    if not found:
        return math.nan, math.nan, 0.0
    return float(np.mean(found)), float(np.std(found)), float(once.mean())


def _machines(
    x: Tensor, y: Tensor, new: Tensor, new_y: Tensor, start: nn.Module, end: nn.Module, setting: Setting
) -> tuple[dict[str, dict[str, float]], dict[str, list[dict[str, float]]], dict[str, Array]]:
    """Machines on the unnormalised tangent features and on the points, beside the network's decisions.

    Returns:
        name → scores of the machine with the largest margin, name → scores for every penalty, and the decision values
        on the square of the former.
    """
    cells = square(HALF, setting.side)
    asked = torch.cat([new, cells])
    after, before = ((tangent_kernel(net, x), tangent_kernel(net, asked, x)) for net in (end, start))

    def tangent(pair: tuple[object, object], last: bool = True) -> Callable[[float], Machine]:
        own, cross = (of_layers(kernel, last) for kernel in pair)
        return lambda C: on_features((own, cross), y, C, scaled=True, exact=True)

    made = {
        TANGENT: tangent(after),
        UNTRAINED: tangent(before),
        REST: tangent(after, last=False),
        RBF: lambda C: on_points(x, y, asked, C, scaled=True, exact=True),
    }
    network = outputs_on(end, cells)

    def scored(one: Machine) -> dict[str, float]:
        fresh, on_square = one.values[: len(new)], one.values[len(new) :]
        return {
            "in-sample": one.in_sample,
            "held out": float(((fresh > 0) == new_y.bool().numpy()).mean()),
            "unlike the network": float(((on_square > 0) != (network > 0)).mean()),
            "hard": float(one.hard),
        }

    hard = {name: machine(HARD) for name, machine in made.items()}
    return (
        {name: scored(one) for name, one in hard.items()},
        {name: [scored(machine(C)) for C in setting.penalties] for name, machine in made.items()},
        {"network": network, **{name: one.values[len(new) :] for name, one in hard.items()}},
    )

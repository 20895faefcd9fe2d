"""Targets of one variable, networks that learn them, and how similar two inputs are in gradient space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genkernel.experiments.fitting import fit
from genkernel.experiments.side_by_side import SideBySide, squared, summed

END = math.pi  # inputs are in [-END, END]
SMOOTH, AT_ZERO, AT_SIDES = "sin x", "square wave, jump at 0", "square wave, jumps at ±π/2"
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    SMOOTH: torch.sin,
    AT_ZERO: lambda x: x.sin().sign(),
    AT_SIDES: lambda x: x.cos().sign(),
}
# each wave jumps where the other one is in the middle of a plateau
PLACES: dict[str, tuple[float, ...]] = {AT_ZERO: (0.0,), AT_SIDES: (-math.pi / 2, math.pi / 2)}
OTHER = {AT_ZERO: AT_SIDES, AT_SIDES: AT_ZERO}


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        seeds: starts, each of which learns all three targets.
        width: of the hidden layer.
        points: training inputs, equidistant.
        steps: of full-batch Adam.
        rate: of Adam.
        near: distance of inputs that are close.
        distances: over which similarity is followed, of inputs around one place; the last one is the largest.
    """

    seeds: int = 8
    width: int = 100
    points: int = 200
    steps: int = 5000
    rate: float = 5e-3
    near: float = 0.2
    distances: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0)


QUICK = Setting(seeds=3, width=60, steps=1500)


def inputs(points: int) -> Tensor:
    """Equidistant inputs ``[n]``, float64; an even number of them has none at 0."""
    return torch.linspace(-END, END, points, dtype=torch.float64)


def networks(width: int, seeds: Sequence[int]) -> list[nn.Sequential]:
    """Two-layer tanh networks of one variable, float64, each from its seed."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            found.append(nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).double())
    return found


def learn(starts: Sequence[nn.Sequential], x: Tensor, y: Tensor, steps: int, rate: float) -> list[nn.Module]:
    """Networks after full-batch Adam on the mean squared error, trained side by side.

    Args:
        starts: of one width; left as they are.
        x, y: samples ``[n]``.
        steps, rate: of Adam.
    """
    stack = SideBySide(starts)
    points, aims = (v[:, None].expand(-1, len(starts)) for v in (x, y))
    optimizer = torch.optim.Adam(stack.parameters(), lr=rate)
    fit(stack, points[..., None], aims, summed(squared), optimizer, steps)
    return stack.networks()


@torch.no_grad()
def predictions(net: nn.Module, x: Tensor) -> Tensor:
    """Outputs ``[n]`` at inputs ``[n]``."""
    return net(x[:, None])[:, 0]


def similarities(net: nn.Module, x: Tensor) -> Tensor:
    """The normalised kernel ``[n, n]`` of inputs ``[n]``."""
    import genkernel as gk

    return gk.kernel(net, x[:, None], cotangents=gk.total(), progress=False, distributed=False).normalized().values


def across(net: nn.Module, centres: Tensor, distance: float | Tensor) -> Tensor:
    """Cosine ``[n]`` of the tangent features on the two sides of every centre ``[n]``, at a distance of one another."""
    import genkernel as gk

    half = torch.as_tensor(distance, dtype=centres.dtype) / 2
    left, right = (gk.tangent_features(net, side[:, None])[:, 0] for side in (centres - half, centres + half))
    return nn.functional.cosine_similarity(left, right, dim=1)

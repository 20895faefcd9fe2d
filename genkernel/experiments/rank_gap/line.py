"""Five ReLUs trained on an interval and tested on a larger one: their gaps, thresholds and errors over training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.rank_gap.setting import Setting

Array = NDArray[np.float64]

UNITS, RATE, WITHIN, BEYOND = 5, 0.1, 1.0, 2.0
TRAINED, TESTED = 100, 200  # points of the two intervals
THRESHOLDS = {"all inside": (-0.9, -0.5, 0.0, 0.3, 0.7), "one at 1.5": (-0.9, -0.5, 0.0, 0.3, 1.5)}
INSIDE, DEAD = THRESHOLDS
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "cos 2x": lambda x: (2 * x).cos(),
    "three ReLUs": lambda x: 0.6 * (x + 0.8).relu() - 0.9 * (x + 0.1).relu() + 0.7 * (x - 0.4).relu(),
    "x²": lambda x: x.square(),
}


@dataclass(frozen=True)
class Descent:
    """Trainings of five ReLUs from several heights, and their gaps.

    Attributes:
        steps: at which things were measured ``[t]``.
        heights, biases: a and b ``[t, seeds, 5]``.
        trained, tested: mean squared errors ``[t, seeds]``; ``silenced``: tested with the last unit left out.
        gaps: ``[t, seeds]``; ``ranks`` of the training features, ``stable``, ``held``: how much of the last unit's two
            coordinates the new directions hold, 0 to 2.
        moved: the largest |b_5 - b_5(0)| of all steps ``[seeds]``.
    """

    steps: tuple[int, ...]
    heights: Tensor
    biases: Tensor
    trained: Array
    tested: Array
    silenced: Array
    gaps: Array
    ranks: Array
    stable: Array
    held: Array
    moved: Array


def features(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Tangent features in (a, b) of Σ_j a_j relu(x + b_j) ``[n, 2m]``; the derivative of relu at its kink is 0."""
    z = x[:, None] + b
    return torch.cat([z.relu(), a * (z > 0)], 1)


def outputs(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """f at x for several networks ``[seeds, n]``."""
    return ((x[None, :, None] + b[:, None]).relu() * a[:, None]).sum(2)


def intervals() -> tuple[Tensor, Tensor]:
    """Training and test points."""
    return tuple(torch.linspace(-end, end, n, dtype=torch.float64) for end, n in ((WITHIN, TRAINED), (BEYOND, TESTED)))  # type: ignore[return-value]


def descend(target: str, regime: str, setting: Setting, seed: int) -> Descent:
    """Full-batch gradient descent on half the mean squared error, from several heights at once."""
    from genkernel.spectra import tangent_rank_gap

    x, new = intervals()
    y, answers = TARGETS[target](x), TARGETS[target](new)
    draw = torch.Generator().manual_seed(seed)
    a = 0.5 * torch.randn(setting.seeds, UNITS, generator=draw, dtype=torch.float64)
    b = -torch.tensor(THRESHOLDS[regime], dtype=torch.float64).expand(setting.seeds, -1)
    first, moved = b[:, -1].clone(), torch.zeros(setting.seeds, dtype=torch.float64)
    rows: list[list[Any]] = []
    for step in range(setting.steps[-1] + 1):
        if step in setting.steps:
            found = [tangent_rank_gap(features(x, p, q), features(new, p, q)) for p, q in zip(a, b, strict=True)]
            silent = a.clone()
            silent[:, -1] = 0
            errors = [
                (outputs(at, w, b) - to).square().mean(1)
                for at, w, to in ((x, a, y), (new, a, answers), (new, silent, answers))
            ]
            held = [
                0.0 if g.directions is None else float(g.coordinates[[UNITS - 1, 2 * UNITS - 1]].sum()) for g in found
            ]
            rows.append([
                a.clone(), b.clone(), *errors, [g.gap for g in found], [g.trained.value for g in found],
                [g.stable for g in found], held,
            ])  # fmt: skip
        z = x[None, :, None] + b[:, None]
        r = ((z.relu() * a[:, None]).sum(2) - y) / len(x)
        slope_a = (z.relu() * r[:, :, None]).sum(1)
        slope_b = ((z > 0) * a[:, None] * r[:, :, None]).sum(1)
        a, b = a - RATE * slope_a, b - RATE * slope_b
        moved = torch.maximum(moved, (b[:, -1] - first).abs())
    heights, biases, *others = zip(*rows, strict=True)
    trained, tested, silenced, gaps, ranks, stable, held_by = (
        np.stack([np.asarray(v, dtype=np.float64) for v in c]) for c in others
    )
    return Descent(
        setting.steps, torch.stack(heights), torch.stack(biases), trained, tested, silenced, gaps, ranks, stable,
        held_by, moved.numpy(),
    )  # fmt: skip


def activity(d: Descent) -> tuple[Array, Array]:
    """Share of the training points, and of the test points, at which each unit is active at the end ``[seeds, 5]``."""
    b = d.biases[-1]
    trained, tested = (((x[:, None, None] + b) > 0).double().mean(0).numpy() for x in intervals())
    return trained, tested


@dataclass(frozen=True)
class Detail:
    """One network at the end, for the figure.

    Attributes:
        trained, mixed: singular values of the features of training points, and with test points, relative to the
            largest of the mixture.
        tolerance: likewise.
        line, distance: x and d(x).
    """

    trained: Array
    mixed: Array
    tolerance: float
    line: Array
    distance: Array


def detail(d: Descent) -> Detail:
    """The first start's network."""
    from genkernel.spectra import projection_distance, tangent_rank_gap

    a, b = d.heights[-1, 0], d.biases[-1, 0]
    x, new = (features(points, a, b) for points in intervals())
    gap = tangent_rank_gap(x, new)
    top = float(gap.mixed.singular_values[0])
    line = torch.linspace(-BEYOND, BEYOND, 801, dtype=torch.float64)
    return Detail(
        trained=gap.trained.singular_values.numpy() / top,
        mixed=gap.mixed.singular_values.numpy() / top,
        tolerance=gap.tolerance / top,
        line=line.numpy(),
        distance=projection_distance(x, features(line, a, b)).numpy(),
    )

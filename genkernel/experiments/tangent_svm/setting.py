"""Sizes of the study of linear machines on tangent features, and its two tasks."""

from __future__ import annotations

from dataclasses import dataclass

# half-axes; of the same area, so that only the shape differs
TASKS = {"circle": (0.5, 0.5), "ellipse": (0.9, 0.25 / 0.9)}


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        samples: training points, half of them inside; as many others are there to choose constants by.
        fresh: points that neither network nor machine saw and nothing was chosen by, half of them inside.
        width: of both hidden layers.
        steps: of full-batch Adam.
        permuted_steps: the same, on permuted labels, which take longer.
        rate: of Adam.
        seeds: draws of points and weights.
        folds: in which permuted labels are held out.
        side: cells along the square on which areas are measured.
    """

    samples: int = 200
    fresh: int = 1000
    width: int = 48
    steps: int = 1000
    permuted_steps: int = 2000
    rate: float = 5e-3
    seeds: int = 10
    folds: int = 5
    side: int = 60


QUICK = Setting(samples=100, fresh=400, width=32, steps=300, permuted_steps=600, seeds=2, side=40)

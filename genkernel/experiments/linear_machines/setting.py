"""Sizes of the study of machines that are linear in their weights, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        seeds: draws of points and weights.
        inputs: dimensions of the regression's points, which are normal.
        samples, queries: training points of the regressions, and fresh ones at which outputs are followed.
        hidden: units of the regressions' networks.
        speeds: step sizes, as parts of 2/λ with the largest eigenvalue λ of the kernel at the start over the samples;
            above 1 gradient descent on a linear machine diverges.
        horizon: step size (as such a part) times steps.
        points: of the disk and the circle that networks tell apart.
        radius: of the disk; the circle's is 1.
        width: of both hidden layers; parameters are less than half of the points, so that labels drawn at random are
            not separable (Cover).
        steps: of full-batch Adam on the points.
    """

    seeds: int = 6
    inputs: int = 5
    samples: int = 40
    queries: int = 20
    hidden: int = 12
    speeds: tuple[float, ...] = (1.25, 0.8, 0.4, 0.2, 0.1, 0.05)
    horizon: float = 3.0
    points: int = 200
    radius: float = 0.8
    width: int = 4
    steps: int = 1000


QUICK = Setting(seeds=2, speeds=(1.25, 0.4, 0.2, 0.1), horizon=2.0, points=120, steps=500)

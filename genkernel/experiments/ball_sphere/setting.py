"""Sizes of the study of ball and sphere, and of two sides of a line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        samples: training points of either task.
        fresh: points that no network saw.
        width: of both hidden layers.
        rate: of full-batch gradient descent.
        steps: of it.
        moments: steps at which accuracies are taken, from 0 to ``steps``.
        seeds: draws of points, weights and directions.
        neighbours: k.
        radii: r of the points x0 = r u, u a random direction.
        distances: from the line, of the points x0.
        gap: no training point is nearer to the line.
        side: cells along the square on which decisions are compared.
        lattice: points across and along the line at which the kernel's metric is taken.
        penalties: C of softer machines, of features divided by their root mean square.
    """

    samples: int = 400
    fresh: int = 1000
    width: int = 64
    rate: float = 0.05
    steps: int = 2500
    moments: tuple[int, ...] = (0, 10, 30, 100, 200, 300, 500, 1000, 2500)
    seeds: int = 10
    neighbours: int = 100
    radii: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9, 1.2)
    distances: tuple[float, ...] = (0.05, 0.2, 0.4, 0.6, 0.8)
    gap: float = 0.05
    side: int = 60
    lattice: tuple[int, int] = (41, 11)
    penalties: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


QUICK = Setting(
    samples=160, fresh=300, width=32, steps=600, moments=(0, 30, 100, 300, 600), seeds=2, neighbours=40, side=30,
    lattice=(13, 5), penalties=(0.1, 1.0, 100.0),
)  # fmt: skip

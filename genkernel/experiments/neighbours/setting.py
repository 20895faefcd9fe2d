"""Sizes of the study of neighbours, its optimizers and the points that it looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOMENTUM = 0.9
RADIUS = 0.9  # of the disk; the circle's is 1
SGD, SGDM, RMSPROP, ADAM = "SGD", "SGD with momentum", "RMSprop", "Adam"
OPTIMIZERS = (SGD, SGDM, RMSPROP, ADAM)
FIRST = {SGD: 0.3, SGDM: 0.03, RMSPROP: 0.003, ADAM: 0.01}  # where the search for the best of them begins
SAME_RATE = 0.01  # of SGD and of SGD with momentum; SGD also gets it divided by 1 - momentum
SQUARED, LOGISTIC = "squared", "logistic"


def at(radius: float, degrees: float) -> tuple[float, float]:
    """A point of the plane."""
    turn = math.radians(degrees)
    return radius * math.cos(turn), radius * math.sin(turn)


# points whose neighbours are looked at, and their class (1: the circle)
ANCHORS = {
    "on the circle, 0°": (at(1.0, 0), 1),
    "on the circle, 240°": (at(1.0, 240), 1),
    "at the disk's rim, 120°": (at(0.85, 120), 0),
    "at the centre": (at(0.0, 0), 0),
}
# K̃(x0, x) of x0 = (1, 0), on the circle
PARTNERS = {
    "itself": (at(1.0, 0), 1),
    "circle, 30° away": (at(1.0, 30), 1),
    "circle, 180° away": (at(1.0, 180), 1),
    "disk, 0.2 away": (at(0.8, 0), 0),
    "disk, centre": (at(0.0, 0), 0),
}
SAME = ("circle, 30° away", "circle, 180° away")
OTHER = ("disk, 0.2 away", "disk, centre")


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        samples: training points, half of them on the circle; as many fresh ones.
        width: of both hidden layers.
        batch: points per step.
        steps: of every optimizer.
        moments: steps at which the kernel is looked at, from 0 to ``steps``.
        neighbours: k.
        seeds: draws of points and weights.
        tuning_seeds: further ones, with which learning rates are chosen.
        losses: that are trained with.
        levels: training losses at which optimizers are compared, relative to that of the untrained network.
    """

    samples: int = 400
    width: int = 48
    batch: int = 32
    steps: int = 1000
    moments: tuple[int, ...] = (0, 5, 15, 30, 60, 100, 175, 300, 500, 750, 1000)
    neighbours: int = 100
    seeds: int = 8
    tuning_seeds: int = 2
    losses: tuple[str, ...] = (SQUARED, LOGISTIC)
    levels: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)


QUICK = Setting(
    samples=200, width=32, steps=300, moments=(0, 15, 60, 150, 300), neighbours=50, seeds=2, tuning_seeds=1,
    levels=(0.5, 0.25),
)  # fmt: skip

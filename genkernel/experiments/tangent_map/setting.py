"""Sizes of the study of tangent maps, full and quick, and what is compared in it."""

from __future__ import annotations

from dataclasses import dataclass

LOWER, HIGHER = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
ALL = LOWER + HIGHER
PIXELS, UNTRAINED = "pixels", "untrained"
ON_LOWER, ON_HIGHER, ON_ALL = "trained on 0 to 4", "trained on 5 to 9", "trained on all"
CASES = {ON_LOWER: LOWER, ON_HIGHER: HIGHER, ON_ALL: ALL}  # case → digits that the network learns


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        per_class: training images of every digit that is learned.
        shown: held-out images of every digit.
        seeds: of weights, batches and images.
        steps, batch, rate: of Adam, the same for all networks.
        dropout: after the hidden fully connected layer.
        neighbours: k.
        folds: of cross-validation.
        starts: of k-means.
    """

    per_class: int = 600
    shown: int = 30
    seeds: int = 5
    steps: int = 250
    batch: int = 64
    rate: float = 1e-3
    dropout: float = 0.3
    neighbours: int = 10
    folds: int = 5
    starts: int = 10


QUICK = Setting(per_class=100, shown=12, seeds=2, steps=60, neighbours=5, folds=2, starts=4)

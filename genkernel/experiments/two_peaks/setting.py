"""Sizes of the study of sequences with peaks, full and quick."""

from __future__ import annotations

from dataclasses import dataclass

Case = tuple[int, int]  # peaks, and training sequences


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        length: of the sequences.
        samples: sequences with two peaks that networks are trained on.
        unseen: other sequences at most; with two peaks all there are.
        width: of both hidden layers.
        seeds: draws of sequences and weights, of two peaks.
        rate, steps: of full-batch gradient descent.
        adam_rate, adam_steps: of full-batch Adam.
        by_descent, by_adam: what the optimizers are compared on.
        case_seeds: draws for each.
        recorded: trainings with Adam that are taken apart.
        recorded_seeds, recorded_steps: draws for each, and steps.
        followed: unseen sequences whose outputs are taken apart.
        rule: of the replay, for the mean Jacobian of a step.
        neighbours: in the map of tangent features.
        shown: sequences in the map.
        maps: seeds with a map.
    """

    length: int = 30
    samples: int = 200
    unseen: int = 1000
    width: int = 32
    seeds: int = 8
    rate: float = 0.1
    steps: int = 3000
    adam_rate: float = 5e-3
    adam_steps: int = 500
    by_descent: tuple[Case, ...] = ((2, 200), (3, 200), (3, 800), (4, 800))
    by_adam: tuple[Case, ...] = ((2, 200), (3, 200), (3, 800), (3, 2400), (4, 800), (4, 3200))
    case_seeds: int = 5
    recorded: tuple[Case, ...] = ((2, 200), (3, 200), (3, 800))
    recorded_seeds: int = 4
    recorded_steps: int = 250
    followed: int = 40
    rule: str = "midpoint"
    neighbours: int = 10
    shown: int = 435
    maps: int = 4


QUICK = Setting(
    length=20, samples=90, unseen=200, width=16, seeds=3, steps=1500, adam_steps=200, by_descent=((2, 90), (3, 90)),
    by_adam=((2, 90), (3, 90), (3, 400)), case_seeds=3, recorded=((2, 90), (3, 90)), recorded_seeds=2,
    recorded_steps=60, followed=20, shown=120, maps=2,
)  # fmt: skip

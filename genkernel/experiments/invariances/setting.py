"""Sizes of the study of invariances, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        seeds: networks of each case, each with its own task.
        samples: of the kernels.
        moves: random transformations; the largest deviation over them counts.
        trained, tested: samples of the tasks.
        steps: of Adam; ``augmented_steps`` where transformed samples are learned as well.
        starts: over which kernels of untrained networks are averaged.
        replicates: of such averages.
    """

    seeds: int = 5
    samples: int = 8
    moves: int = 6
    trained: int = 256
    tested: int = 200
    steps: int = 300
    augmented_steps: int = 1000
    starts: tuple[int, ...] = (1, 4, 16, 64, 256)
    replicates: int = 8


QUICK = Setting(seeds=2, moves=3, steps=100, augmented_steps=300, starts=(1, 8, 64), replicates=4)

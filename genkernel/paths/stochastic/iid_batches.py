"""Batches that are independent from step to step.

Every statement about stochastic differential equations assumes that the batches of different
steps are independent. Shuffling once per epoch is not: at frozen weights the gradient noise of
an epoch sums to zero.

Batches are keyed by (seed, step) through a counter-based generator (SplitMix64, Steele, Lea &
Flood 2014), so no state is kept, no global generator is touched, and many runs are drawn at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from genkernel.errors import InputError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class IIDBatchSampler(Sampler[list[int]]):
    """A ``batch_sampler`` for a ``DataLoader``: every step an independent uniform subset.

    Each pass over it goes on where the one before ended, so that epochs do not repeat each other's batches;
    ``set_epoch`` takes up a run that was interrupted.

    Args:
        population: number of samples in the data set.
        batch_size: samples per batch.
        steps: batches per pass.
        seed: batches of different seeds are independent.
        replacement: draw the samples of one batch with replacement.

    Raises:
        InputError: a number is not positive, or a batch without replacement exceeds the data set.

    Example:
        >>> sampler = IIDBatchSampler(6, 2, steps=3, seed=0)
        >>> [len(batch) for batch in sampler]
        [2, 2, 2]
    """

    def __init__(self, population: int, batch_size: int, *, steps: int, seed: int = 0, replacement: bool = False):
        check_batch(population, batch_size, replacement)
        if steps < 1:
            raise InputError(f"steps={steps}: a pass needs at least one batch")
        self.population = population
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.replacement = replacement
        self.epoch = 0  # of the pass that comes next

    def set_epoch(self, epoch: int) -> None:
        """The next pass is number ``epoch``: its first step is ``epoch · steps``."""
        self.epoch = epoch

    def batch(self, step: int) -> list[int]:
        """The sample numbers ``[B]`` of one step, counted over all passes."""
        drawn = batch_indices(
            [self.seed], step, population=self.population, batch_size=self.batch_size, replacement=self.replacement
        )
        return [int(i) for i in drawn[0]]

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.steps
        self.epoch += 1
        return (self.batch(step) for step in range(first, first + self.steps))

    def __len__(self) -> int:
        return self.steps


def batch_indices(
    seeds: Sequence[int] | NDArray[np.integer],
    step: int,
    *,
    population: int,
    batch_size: int,
    replacement: bool = False,
) -> NDArray[np.int64]:
    """The batches of one step of many runs.

    Args:
        seeds: one per run ``[R]``.
        step: number of the step, from 0.
        population, batch_size, replacement: as for :class:`IIDBatchSampler`.

    Returns:
        Sample numbers ``[R, B]``, in random order; a row depends on its own seed and the step alone.

    Raises:
        InputError: as for :class:`IIDBatchSampler`, or the step is negative.
    """
    check_batch(population, batch_size, replacement)
    if step < 0:
        raise InputError(f"step={step}: steps are counted from 0")
    # two's complement: a negative seed is a seed like any other
    keys = _mixed(np.asarray(seeds, dtype=np.int64).astype(np.uint64) + _GOLDEN)
    with np.errstate(over="ignore"):
        keys = _mixed(keys + np.uint64(step + 1) * _GOLDEN)
        counter = np.arange(1, batch_size + 1, dtype=np.uint64) * _GOLDEN
        uniform = (_mixed(keys[:, None] + counter) >> np.uint64(11)) * 2.0**-53  # [R, B] in [0, 1)
    if replacement:
        return (uniform * population).astype(np.int64)
    left = np.arange(batch_size)
    picked = left + (uniform * (population - left)).astype(np.int64)  # Fisher and Yates, the first B swaps
    deck = np.tile(np.arange(population), (len(keys), 1))
    rows = np.arange(len(keys))
    for k in range(batch_size):
        deck[rows, k], deck[rows, picked[:, k]] = deck[rows, picked[:, k]], deck[rows, k].copy()
    return deck[:, :batch_size]


def check_batch(population: float, batch_size: int, replacement: bool) -> None:
    """Refuse batches that cannot be drawn.

    Raises:
        InputError: a number is not positive, or a batch without replacement exceeds the population.
    """
    if population < 1:
        raise InputError(f"population={population}: there has to be at least one sample")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: a batch needs at least one sample")
    if not replacement and batch_size > population:
        raise InputError(
            f"batch_size={batch_size} of {population} samples: without replacement a batch holds at most {population}"
        )


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

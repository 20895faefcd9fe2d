"""Batches that are uniform, independent over steps and seeds, and keyed by both."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.utils.data import DataLoader, TensorDataset

from genkernel.errors import InputError
from genkernel.paths.stochastic.iid_batches import IIDBatchSampler, batch_indices

LEVEL = 1e-4  # of every statistical test below; seeds are fixed


def uniform(counts: Counter[tuple[int, ...]], cells: list[tuple[int, ...]], chances: list[float]) -> float:
    """The p-value of Pearson's test that the cells have these chances."""
    assert set(counts) <= set(cells)
    total = sum(counts.values())
    statistic = sum((counts[c] - total * p) ** 2 / (total * p) for c, p in zip(cells, chances, strict=True))
    return float(chi2.sf(statistic, len(cells) - 1))


def subsets(drawn: np.ndarray) -> Counter[tuple[int, ...]]:
    return Counter(tuple(sorted(map(int, row))) for row in drawn)


@pytest.mark.parametrize("along", ["steps", "seeds"])
def test_every_subset_is_equally_likely(along: str) -> None:
    count, cells = 30_000, list(itertools.combinations(range(6), 2))
    if along == "steps":
        sampler = IIDBatchSampler(6, 2, steps=count, seed=3)
        drawn = np.array(list(sampler))
    else:
        drawn = batch_indices(range(count), 5, population=6, batch_size=2)
    assert uniform(subsets(drawn), cells, [1 / 15] * 15) > LEVEL


def test_order_within_a_batch_is_uniform_too() -> None:
    drawn = batch_indices(range(30_000), 0, population=4, batch_size=3)
    cells = list(itertools.permutations(range(4), 3))
    assert uniform(Counter(map(tuple, drawn.tolist())), cells, [1 / 24] * 24) > LEVEL


def test_with_replacement_draws_are_independent() -> None:
    drawn = batch_indices(range(30_000), 0, population=4, batch_size=2, replacement=True)
    cells = list(itertools.product(range(4), repeat=2))
    assert uniform(Counter(map(tuple, drawn.tolist())), cells, [1 / 16] * 16) > LEVEL


@pytest.mark.parametrize("neighbour", ["next step", "next seed"])
def test_neighbouring_batches_are_independent(neighbour: str) -> None:
    """Pairs of batches fall uniformly on pairs of subsets: epoch shuffling would leave disjoint pairs only."""
    count = 40_000
    first = batch_indices(range(count), 7, population=4, batch_size=2)
    second = (
        batch_indices(range(count), 8, population=4, batch_size=2)
        if neighbour == "next step"
        else batch_indices(range(1, count + 1), 7, population=4, batch_size=2)
    )
    single = list(itertools.combinations(range(4), 2))
    pairs = Counter((tuple(sorted(a)), tuple(sorted(b))) for a, b in zip(first.tolist(), second.tolist(), strict=True))
    cells = list(itertools.product(single, repeat=2))
    assert uniform(pairs, cells, [1 / 36] * 36) > LEVEL  # type: ignore[arg-type]


def test_noise_of_an_epoch_does_not_cancel() -> None:
    """What epoch shuffling gets wrong: the sum over n/B batches of a sum-free quantity has variance, not 0."""
    values = np.array([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0])
    means = np.stack([values[batch_indices(range(20_000), k, population=6, batch_size=2)].mean(1) for k in range(3)])
    single = (1 - 2 / 6) / 2 * values.var(ddof=1)
    assert means.sum(0).var() == pytest.approx(3 * single, rel=0.03)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    alone = batch_indices([11], 4, population=50, batch_size=8)
    among = batch_indices([3, 11, -5], 4, population=50, batch_size=8)
    assert (among[1] == alone[0]).all()
    assert (among[0] != among[2]).any()
    assert IIDBatchSampler(50, 8, steps=1, seed=11).batch(4) == alone[0].tolist()


def test_passes_go_on_and_can_be_taken_up() -> None:
    sampler = IIDBatchSampler(20, 3, steps=4, seed=1)
    first, second = list(sampler), list(sampler)
    assert len(sampler) == 4 and first != second
    other = IIDBatchSampler(20, 3, steps=4, seed=1)
    other.set_epoch(1)
    assert list(other) == second


def test_in_a_data_loader_without_touching_global_generators() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    sampler = IIDBatchSampler(10, 4, steps=5, seed=0)
    drawn = [sampler.batch(k) for k in range(5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_sampler=sampler)
    assert [batch.tolist() for (batch,) in loader] == drawn
    assert all(len(set(batch)) == 4 for batch in drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population": 0, "batch_size": 1}, "at least one sample"),
        ({"population": 4, "batch_size": 0}, "at least one sample"),
        ({"population": 4, "batch_size": 5}, "at most 4"),
        ({"population": 4, "batch_size": 2, "steps": 0}, "at least one batch"),
    ],
)
def test_refusals(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IIDBatchSampler(**{"steps": 1, **arguments})


def test_a_batch_with_replacement_may_exceed_the_data_set() -> None:
    assert len(IIDBatchSampler(2, 5, steps=1, replacement=True).batch(0)) == 5
    with pytest.raises(InputError, match="counted from 0"):
        batch_indices([0], -1, population=2, batch_size=1)

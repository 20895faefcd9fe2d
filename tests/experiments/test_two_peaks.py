"""Sequences with peaks, on short ones."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments.outcome import experiment
from genkernel.experiments.two_peaks import experiment as study
from genkernel.experiments.two_peaks import task
from genkernel.experiments.two_peaks.setting import Setting
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    length=10, samples=25, unseen=30, width=6, seeds=2, steps=30, adam_steps=20, by_descent=((2, 25), (3, 30)),
    by_adam=((2, 25), (3, 30)), case_seeds=2, recorded=((2, 25),), recorded_seeds=2, recorded_steps=12, followed=5,
    neighbours=3, shown=30, maps=2,
)  # fmt: skip


def test_sequences_are_different_and_have_their_peaks() -> None:
    for length, peaks, count in ((8, 2, 100), (12, 4, 40)):
        x = task.sequences(length, peaks, count, 0)
        assert len(x) == min(count, comb(length, peaks)) == len(x.unique(dim=0))
        assert (x.sum(1) == peaks).all() and set(x.unique().tolist()) == {0, 1}
        assert torch.equal(x, task.sequences(length, peaks, count, 0))
    with pytest.raises(InputError, match="places have"):
        task.sequences(3, 4, 1, 0)
    with pytest.raises(InputError, match="leave no unseen"):
        task.drawn(TINY, 2, 45, 0)


def test_the_centre_is_inside_between_two_peaks() -> None:
    """By walking along the sequence, as the text has it: i1 <= centre < i2."""
    x = task.sequences(10, 2, 45, 0)
    first, last = (x * torch.arange(10)).argmax(1), x.argmax(1)
    low, high = torch.minimum(first, last), torch.maximum(first, last)
    assert torch.equal(task.inside(x), ((low <= 4) & (high > 4)).long())
    assert torch.equal(task.inside(x), (task.regions(x) == 1).long())
    assert task.inside(torch.tensor([[1.0, 1, 1, 0, 0, 0]])).tolist() == [1]


def test_networks_trained_together_are_those_trained_alone() -> None:
    data = [task.drawn(TINY, 2, 25, seed) for seed in (0, 1)]
    nets = [task.network(10, 6, seed) for seed in (0, 1)]
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        together = [task.network(10, 6, seed) for seed in (0, 1)]
        found = task.train_together(together, data, optimizer, 0.05, 10)
        for seed, net in enumerate(nets):
            alone = task.network(10, 6, seed)
            task.train_together([alone], data[seed : seed + 1], optimizer, 0.05, 10)
            assert all(
                torch.allclose(a, b, atol=1e-12)
                for a, b in zip(alone.parameters(), together[seed].parameters(), strict=True)
            )
            right = ((alone(data[seed].x)[:, 0] > 0).long() == data[seed].y).double().mean()
            assert found[seed]["seen"] == pytest.approx(float(right))
            assert not torch.equal(net[0].weight, alone[0].weight)


def test_neighbours_that_share_a_peak() -> None:
    x = task.sequences(8, 2, 28, 0)
    similarity = task.shared(x, x).double() / 2
    share, chance = task.nearest_share(similarity, x, 2)
    assert share == 1 and chance == pytest.approx(2 * 6 / 27)  # each of two peaks with six other places
    share, _ = task.nearest_share(-similarity, x, 2)
    assert share == 0  # the 12 nearest of 27 are among the 15 that share none
    assert task.nearest_share(similarity, x, 2, 3)[0] == 1 and task.nearest_share(-similarity, x, 2, 3)[0] == 0
    pairs = task.by_pair(similarity, x)
    assert pairs["same label"] == [0, 0.5] and pairs["other label"] == [0, 0.5]


def test_first_neighbours_count_ties_by_their_share() -> None:
    similarity = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.2, 0.9]])
    accuracy = task.first_neighbour_accuracy(similarity, torch.tensor([0, 1, 1]), torch.tensor([1, 1]))
    assert accuracy == pytest.approx((0.5 + 1) / 2)
    K = torch.eye(3, dtype=torch.float64)
    found = task.regression_accuracy(K, K[:2], torch.tensor([0, 1, 1]), torch.tensor([0, 0]))
    assert found == 0.5


def test_parts_of_adam_sum_to_the_outputs() -> None:
    parts = task.recorded(TINY, 2, 25, 0)
    data = task.drawn(TINY, 2, 25, 0)
    net = task.network(10, 6, 0)
    task.train_together([net], [data], torch.optim.Adam, TINY.adam_rate, TINY.recorded_steps)
    signs = 2.0 * data.new_y[:5] - 1
    with torch.no_grad():
        margin = float((net(data.new[:5])[:, 0] * signs).mean())
    assert parts.margin.sum() == pytest.approx(margin, abs=1e-4) and parts.gap < 1e-3
    assert parts.counts.sum() == pytest.approx(25)
    expected = np.nansum(parts.each * np.array([[1, 1], [1, 1]]))
    assert np.isfinite(expected) and 0 <= parts.sharing <= 1


def test_the_whole_of_it() -> None:
    assert experiment("two-peaks") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 13 and found.claims[-3].holds == "yes"
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json.dumps(json_ready(found.numbers))
    assert set(found.figures) == {"two-peaks", "two-peaks-map"}
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())

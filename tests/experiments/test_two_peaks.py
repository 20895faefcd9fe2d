"""Sequences with peaks, on short ones."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments.registry import experiment
from genkernel.experiments.two_peaks import experiment as study
from genkernel.experiments.two_peaks import outcome, task
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


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_networks_trained_together_are_those_trained_alone(optimizer: type[torch.optim.Optimizer]) -> None:
    """Against full-batch steps of each network by itself, written out."""
    data = [task.drawn(TINY, 2, 25, seed) for seed in (0, 1)]
    together, found = task.train_together([task.network(10, 6, seed) for seed in (0, 1)], data, optimizer, 0.05, 10)
    for seed, (net, fit) in enumerate(zip(together, found, strict=True)):
        alone, one = task.network(10, 6, seed), data[seed]
        moving = optimizer(alone.parameters(), lr=0.05)
        for _ in range(10):
            moving.zero_grad()
            (alone(one.x)[:, 0] - (2.0 * one.y - 1)).square().mean().backward()
            moving.step()
        for a, b in zip(alone.parameters(), net.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)
        with torch.no_grad():
            for key, x, y in (("seen", one.x, one.y), ("unseen", one.new, one.new_y)):
                assert fit[key] == pytest.approx(float(((alone(x)[:, 0] > 0).long() == y).double().mean()))
            assert fit["loss"] == pytest.approx(float((alone(one.x)[:, 0] - (2.0 * one.y - 1)).square().mean()))
        assert not torch.equal(net[0].weight, task.network(10, 6, seed)[0].weight)


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


def _jacobian(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gradients of the outputs, one sequence after the other ``[n, P]``."""
    rows = [torch.autograd.grad(net(one[None])[0, 0], list(net.parameters())) for one in x]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def _by_hand(data: task.Data, queries: torch.Tensor, steps: int, rate: float) -> tuple[torch.Tensor, torch.nn.Module]:
    """What each training sequence did to each query under Adam ``[n, m]``, and the network.

    A sequence's own first moments, with the preconditioner of all, are its part of every step; the gradients of outputs
    are those halfway between the steps.
    """
    net = task.network(10, 6, 0)
    targets, n = 2.0 * data.y - 1, len(data.x)
    own, second, found = 0.0, 0.0, torch.zeros(n, len(queries), dtype=torch.float64)
    for t in range(1, steps + 1):
        with torch.no_grad():
            slope = 2 * (net(data.x)[:, 0] - targets)
        gradients = slope[:, None] * _jacobian(net, data.x) / n
        own = 0.9 * own + 0.1 * gradients
        second = 0.999 * second + 0.001 * gradients.sum(0).square()
        moves = -rate * (own / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        before = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
        torch.nn.utils.vector_to_parameters(before + moves.sum(0) / 2, net.parameters())
        found += moves @ _jacobian(net, queries).T
        torch.nn.utils.vector_to_parameters(before + moves.sum(0), net.parameters())
    return found, net


def test_parts_of_adam_are_those_of_a_replay_by_hand() -> None:
    parts = task.recorded(TINY, 2, 25, 0)
    data = task.drawn(TINY, 2, 25, 0)
    followed, signs = data.new[: TINY.followed], 2.0 * data.new_y[: TINY.followed] - 1
    moved, net = _by_hand(data, followed, TINY.recorded_steps, TINY.adam_rate)
    moved = moved * signs
    sums, each = np.zeros((2, TINY.followed)), {(label, k): [] for label in (0, 1) for k in (0, 1)}
    counts = np.zeros(2)
    for i in range(25):
        for q in range(TINY.followed):
            k = int((data.x[i] * followed[q]).sum())
            sums[k, q] += float(moved[i, q])
            counts[k] += 1 / TINY.followed
            each[int(data.y[i] != data.new_y[q]), k].append(float(moved[i, q]))
    with torch.no_grad():
        start = float((task.network(10, 6, 0)(followed)[:, 0] * signs).mean())
        margin = float((net(followed)[:, 0] * signs).mean())
    assert parts.margin == pytest.approx([*sums.mean(1), start], abs=1e-9)
    assert parts.margin.sum() == pytest.approx(margin, abs=1e-4) and parts.gap < 1e-3
    assert all(len(v) > 0 for v in each.values()) and np.isfinite(parts.each).all()
    assert parts.each == pytest.approx(np.array([[np.mean(each[label, k]) for k in (0, 1)] for label in (0, 1)]))
    assert parts.counts == pytest.approx(counts) and parts.counts.sum() == pytest.approx(25)
    assert parts.alone == pytest.approx((sums > 0).mean(1))
    assert parts.none == parts.alone[0] and parts.sharing == parts.alone[1]
    right = [
        float(((net(x)[:, 0] > 0).long() == y).double().mean()) for x, y in ((data.x, data.y), (data.new, data.new_y))
    ]
    assert [parts.seen, parts.unseen] == pytest.approx(right)


def _draw(unseen: float, none: float, sharing: float, rise: float = 1.0) -> task.Parts:
    margin, each = np.array([none, sharing / 2, sharing / 2, 0.0]), rise * np.arange(6.0).reshape(2, 3)
    return task.Parts(1e-4, 1.0, unseen, margin, each, np.ones(3), 1.0, 0.0, np.ones(3))


def test_draws_that_are_right_decide_which_sequences_made_them_so() -> None:
    """By draw, also where the mean over draws is below the level."""

    def holds(*cases: list[task.Parts]) -> str:
        return outcome._part_claims({(3, 100 * k): each for k, each in enumerate(cases, 1)})[-1].holds

    right = [_draw(1.0, 0.0, gap) for gap in (1.0, 1.1, 1.2)]
    wrong, guess = _draw(0.5, 0.0, -50.0), [_draw(0.5, 0.0, -1.0)] * 3
    assert holds(right) == holds([*right, wrong]) == holds(right, guess) == "yes"
    assert holds(right, [_draw(1.0, 0.0, gap) for gap in (-2.7, 1.84, 1.69)] + [wrong]) == "partly"
    assert holds([_draw(1.0, gap, 0.0) for gap in (1.0, 1.1, 1.2)]) == "no"
    assert holds(guess) == holds(right[:1]) == "undecided"
    claim = outcome._part_claims({(3, 800): [*right, wrong]})[-1]
    assert "3 of 4 draws" in claim.measured and "1.10" in claim.measured
    rises = outcome._part_claims({(3, 800): [_draw(1.0, 0.0, 1.0, rise) for rise in (1.0, 1.1)]})[1]
    assert rises.holds == "yes"
    assert outcome._part_claims({(3, 800): [_draw(1.0, 0.0, 1.0, rise) for rise in (-1.0, -1.1)]})[1].holds == "no"


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

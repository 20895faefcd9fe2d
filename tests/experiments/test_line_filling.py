"""Filling lines: the exact network on all inputs, and the whole of it on short ones."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.experiments.line_filling import experiment as study
from genkernel.experiments.line_filling import outcome, task
from genkernel.experiments.line_filling.setting import Setting
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    sizes=(2, 4, 8), ones=(0.5,), other_sizes=(4,), wide_sizes=(4,), detailed=4, noises=(0.01,), channels=3,
    replicates=3, batch=8, steps=5, tested=6, verified=(2, 4),
)  # fmt: skip


def test_filling_is_between_pairs_of_ones() -> None:
    line = torch.tensor([0.0, 1, 0, 0, 1, 0, 1, 0])
    assert task.filled(line).tolist() == [0, 1, 1, 1, 0, 0, 1, 1]
    shifted = task.shifted(line)
    assert shifted.shape == (8, 8) and shifted[7].tolist() == line.tolist()
    assert shifted[2].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]  # the first three places, at the end
    lines = task.lines(16, 5, 30, torch.Generator().manual_seed(0))
    assert (lines.sum(1) == 5).all() and len(lines.unique(dim=0)) > 20


@pytest.mark.parametrize("length", [2, 4, 8])
def test_the_network_by_hand_fills_every_line(length: int) -> None:
    every = task.all_lines(length)
    assert len(every.unique(dim=0)) == 2**length
    net = task.exact()
    assert sum(p.numel() for p in net.parameters()) == 9
    with torch.no_grad():
        out = net(every)[0]
    for line, found in zip(every.tolist(), out.tolist(), strict=True):  # walking along, in plain Python
        inside = 0
        for one, value in zip(line, found, strict=True):
            inside ^= int(one)
            assert value == inside
    assert task.largest_error(task.exact(activation=nn.GELU()), length) < 1e-14
    assert task.largest_error(task.exact(noise=0.1, seed=1), length) > 0.01


def test_structures_are_what_they_say() -> None:
    with pytest.raises(InputError, match="halves"):
        task.exact()(torch.zeros(1, 6, dtype=torch.float64))
    z = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    wide = task.Filler(1, task.Structure(reach=3), 0)
    with torch.no_grad():
        narrow = task.Filler(1, task.Structure(), 0)
        wide.first[:, :, 0] = 0  # the place before the pair
        wide.first[:, :, 1:] = narrow.first
        wide.last.copy_(narrow.last)
        assert torch.allclose(wide.halved(z), narrow.halved(z))
        wide.first[:, :, 0] = 1
        changed = wide.halved(z)
        assert torch.allclose(changed[:, :, 0], narrow.halved(z)[:, :, 0])  # nothing before the first pair
        assert not torch.allclose(changed, narrow.halved(z))
    assert sum(p.numel() for p in task.Filler(1, task.Structure(between=3), 0).parameters()) == 9 + 2 * 30 + 4


def test_replicates_train_as_if_alone_each_on_its_own_sequences() -> None:
    """Against a loop written out, for one replicate after the other."""
    both = task.Filler(2, task.Structure(), 3)
    starts = copy.deepcopy(both)
    task.train(both, 4, 2, 20, 8, 1e-2, 0)
    draw = torch.Generator().manual_seed(0)
    batches = [task.lines(4, 2, 16, draw).reshape(2, 8, 4) for _ in range(20)]
    assert not torch.equal(batches[0][0], batches[0][1])
    for r in range(2):
        alone = task.Filler(1, task.Structure(), 0)
        with torch.no_grad():
            for p, q in zip(alone.parameters(), starts.parameters(), strict=True):
                p.copy_(q[r : r + 1])
        optimizer = torch.optim.Adam(alone.parameters(), lr=1e-2)
        for step, x in enumerate(batches):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * step / 20)) / 2
            optimizer.zero_grad()
            (alone(x[r])[0] - task.filled(x[r])).square().mean().backward()
            optimizer.step()
        for p, q in zip(alone.parameters(), both.parameters(), strict=True):
            assert torch.allclose(p[0], q[r], atol=1e-6)


def test_no_start_is_in_two_cases() -> None:
    drawn = [study.seeds(*case, 0) for case in study.cases(TINY)]
    assert len({one for three in drawn for one in three}) == 3 * len(drawn)
    assert study.seeds("exact structure", "random", 8, 4, 0) != study.seeds("exact structure", "random", 8, 4, 1)
    starts = [
        study.started(TINY, case[0], case[1], seeds[0]).last.detach().flatten(1)[:, :2]
        for case, seeds in zip(study.cases(TINY), drawn, strict=True)
    ]
    every = torch.cat(starts)
    assert len(every) == TINY.replicates * len(starts) == len(every.unique(dim=0))


def test_verdicts_are_of_every_length() -> None:
    """Of cases with 20 starts: how many of them are right everywhere decides."""

    def case(structure: str, start: str | float, length: int, good: int, wrong: float = 0.5) -> study.Trained:
        values = torch.full((length + 1, 20), wrong, dtype=torch.float64)
        values[:, :good] = 0
        return study.Trained(structure, start, length, 1, 9, values, values)

    def holds(found: list[study.Trained]) -> list[str]:
        return [one.holds for one in outcome._claims(Setting(), {"ReLU": [0.0]}, found)]

    exact, wide, between = outcome.SHAPE, outcome.WIDE, outcome.BETWEEN
    found = [case(exact, "random", 4, 20), case(exact, "random", 8, 1), case(exact, "random", 16, 0)]
    found += [case(exact, 0.1, 16, 20), case(exact, 1.0, 16, 0), case(wide, "random", 4, 0)]
    found += [case(outcome.OTHERS[0], "random", 4, 0), case(outcome.OTHERS[1], "random", 4, 10)]
    low = case(between, "random", 16, 0, 0.2)
    low.wrong[1] = 0.01
    assert holds([*found, low]) == ["yes", "partly", "yes", "yes", "yes", "yes", "partly", "partly"]
    refuted = [case(exact, "random", 4, 1), case(exact, "random", 8, 1), case(exact, 0.1, 16, 10)]
    assert holds([*refuted, case(wide, "random", 4, 1)]) == [
        "yes", "no", "no", "undecided", "no", "undecided", "yes", "undecided",
    ]  # fmt: skip


def test_errors_are_by_the_number_of_ones() -> None:
    squares, wrong = task.errors(task.exact(2), 4, 10, 0)
    assert squares.shape == wrong.shape == (5, 2) and float(wrong.max()) == 0 and float(squares.max()) < 1e-12
    silent = task.exact(2)
    with torch.no_grad():
        silent.last.zero_()  # says 0 everywhere: right where no place is inside
    _, wrong = task.errors(silent, 4, 200, 0)
    assert wrong[0].tolist() == [0, 0] and wrong[4].tolist() == [0.5, 0.5]
    assert float(wrong[1, 0]) == pytest.approx(2.5 / 4, abs=0.05)  # from the one on: 1 to 4 places


def test_the_whole_of_it() -> None:
    assert experiment("line-filling") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 8 and found.claims[0].holds == "yes"
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert len(found.numbers["trained"]) == len(study.cases(TINY)) == 8
    json.dumps(json_ready(found.numbers))
    assert to_bytes(found.figures["line-filling"], "png")[:4] == b"\x89PNG"

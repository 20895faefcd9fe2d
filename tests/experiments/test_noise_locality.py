"""The experiment on locality in noise level, on few points."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import MissingError
from genkernel.experiments.noise_locality import experiment as study
from genkernel.experiments.noise_locality import measures, networks
from genkernel.experiments.noise_locality import outcome as read
from genkernel.experiments.noise_locality.setting import (
    ADAM,
    CASES,
    DIGITS,
    PLAIN_STEPS,
    POINTS,
    SGD,
    UNAWARE,
    UNTOLD,
    VARIANTS,
    Setting,
    Sizes,
)
from genkernel.experiments.noise_locality.training import best, chosen_rates, optimizer_of, samples, train
from genkernel.experiments.registry import experiment
from genkernel.plots.noise_locality import controls
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = Sizes(seeds=1, steps=10, batch=24, width=6, depth=1, train=60, queries=1, images=2, probes=0)
TINY = Setting(tuning_seeds=1, levels=4, dim=8, pixels=6, points=FEW, digits=replace(FEW, steps=3, width=4, probes=2))


@pytest.mark.parametrize("blocks", [4, 5, 8, 10])
def test_exchanged_blocks_keep_every_time_and_no_neighbours(blocks: int) -> None:
    order = networks.block_order(blocks)
    assert sorted(order) == list(range(blocks))
    assert all(abs(a - b) > 1 for a, b in itertools.pairwise(order))
    t = torch.arange(1000)
    told = networks.permuted(t, 1000, blocks)
    assert torch.equal(told.sort().values, t)
    edges = [round(1000 * k / blocks) for k in range(blocks + 1)]
    for k in range(blocks):
        assert bool((told[edges[k] : edges[k + 1]].diff() == 1).all())  # within a block nothing changes
        assert int(told[edges[k]]) == edges[order[k]]


def test_embeddings_tell_what_they_say() -> None:
    linear, cosine = (NoiseSchedule.vp(beta_schedule=name) for name in ("linear", "cosine"))
    t = torch.arange(0, 1000, 37)

    def cosines(kind: str, schedule: NoiseSchedule) -> torch.Tensor:
        e = torch.nn.functional.normalize(networks.embedding(kind, schedule, 32, 8)(t).double(), dim=1)
        return e @ e.T

    assert torch.allclose(cosines("constant", linear), torch.ones(len(t), len(t), dtype=torch.float64))
    assert torch.equal(cosines("sinusoidal", linear), cosines("sinusoidal", cosine))
    # of log-SNR: a function of its differences alone, in either schedule
    rates = 2 * np.pi * 2.0 ** np.linspace(-1, 3, 16) / 40
    for schedule in (linear, cosine):
        apart = schedule.log_snr(t)[:, None] - schedule.log_snr(t)[None]
        wanted = torch.cos(apart[..., None] * torch.from_numpy(rates)).mean(2)
        assert torch.allclose(cosines("log-SNR Fourier", schedule), wanted, atol=1e-5)


def test_rescaled_inputs_have_one_scale_at_all_levels() -> None:
    schedule = networks.rescaled(NoiseSchedule.vp(), 2.0)
    t = torch.tensor([0.0, 300.0, 999.0])
    size = schedule.alpha(t) ** 2 * 2.0 + schedule.sigma(t) ** 2
    assert torch.allclose(schedule.input_scale(t) ** 2 * size, torch.ones(3, dtype=torch.float64))


def test_the_index_is_one_for_neighbours_alone_and_zero_for_what_is_everywhere() -> None:
    apart = np.abs(np.arange(8)[:, None] - np.arange(8)[None])
    near = (apart <= 1).astype(float)
    assert measures.index(near) == pytest.approx(1) and measures.index(np.ones((8, 8))) == pytest.approx(0)
    assert measures.index(near - 5 * (apart > 1)) == pytest.approx(1)  # negative entries count as nothing
    early = np.tile(np.eye(8)[0], (8, 1))  # all levels learn from the first one, which has one neighbour
    for alike in (early, np.tile(np.arange(1.0, 9), (8, 1)), np.outer(np.arange(1.0, 9), np.arange(8.0))):
        assert measures.index(alike) == pytest.approx(0, abs=1e-12)  # the same rows, however loud some columns are
        assert measures.index(measures.in_told_order(alike)) == pytest.approx(0, abs=1e-12)
    assert measures.index(early, np.full(8, 1 / 8)) < -0.1  # the mass of the samples knows nothing of that
    silent = near.copy()
    silent[3] = 0  # a row of nothing counts for nothing
    assert measures.index(silent) == pytest.approx(1)
    order = np.array(networks.block_order(8))
    told = near[np.ix_(order, order)]  # near each other in the order that is told
    assert measures.index(measures.in_told_order(told)) == pytest.approx(1) and measures.index(told) < 0.5
    assert measures.profile(near).tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_trainings_of_one_seed_differ_in_nothing_but_their_variant(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (120, 9, 9), dtype=np.uint8)
    np.savez(
        tmp_path / "mnist.npz", x_train=images[:60], y_train=np.arange(60) % 10, x_test=images[60:],
        y_test=np.arange(60) % 10,
    )  # fmt: skip
    clean, held_out = samples(DIGITS, TINY, 3, tmp_path)
    assert clean.shape == (60, 1, 6, 6) and len(held_out) == 4 and -1 <= float(clean.min()) < float(clean.max()) <= 1
    few = replace(TINY, points=replace(FEW, steps=4))
    one, same, told = (train(POINTS, v, few, 3, None) for v in (CASES[0], CASES[0], UNTOLD["linear"]))
    assert one.parts.equals(same.parts)
    first = {k: v for k, v in one.weights[0].items() if "table" not in k}
    assert all(torch.equal(v, told.weights[0][k]) for k, v in first.items())
    assert one.parts.gap_rel < 0.01 and one.stretches[-1] == (0, 4)
    digits = train(DIGITS, CASES[0], TINY, 3, tmp_path)
    found = measures.all_kernels(digits, held_out[:2], probes=2, seed=3)
    assert digits.parts.gap_rel < 0.01 and found[0].matrix.shape == (4, 4) and np.isfinite(found[2].raw)
    assert [np.isfinite(one.input_only) for one in found] == [True, False, True]  # no controls in the middle
    assert not np.allclose(found[0].matrix, found[1].matrix) and not np.allclose(found[1].matrix, found[2].matrix)
    digits.weights = [digits.weights[2]] * 3
    again = measures.all_kernels(digits, held_out[:2], probes=2, seed=3)
    assert all(np.array_equal(one.matrix, found[2].matrix) for one in again)  # of the weights that it is given


def test_learning_rates_are_the_best_of_their_neighbours() -> None:
    few = replace(TINY, points=replace(FEW, steps=30))
    tried = chosen_rates(POINTS, few, 1, None)
    assert set(tried) == {ADAM, SGD}
    for losses in tried.values():
        rates = list(losses)
        at = rates.index(best(losses))
        assert rates == sorted(rates) and 0 < at < len(rates) - 1
    module = torch.nn.Linear(1, 1)
    assert optimizer_of(module, PLAIN_STEPS, few, 0.5).param_groups[0]["momentum"] == few.momentum
    assert isinstance(optimizer_of(module, CASES[0], few, 0.5), torch.optim.Adam)
    one, same, other = (train(POINTS, CASES[0], TINY, 1, None, rate).after for rate in (0.003, 0.003, 0.01))
    assert one == same != other


def test_verdicts_follow_the_intervals() -> None:
    up, down, none = np.array([0.4, 0.5, 0.45]), np.array([-0.4, -0.5, -0.45]), np.array([0.5, -0.4, 0.1])
    still = np.array([0.001, -0.002, 0.0])
    cases = ({"a": up}, {"a": down}, {"a": up, "b": down}, {"a": none, "b": down}, {"a": none}, {"a": up[:1]})
    wanted = ["yes", "no", "partly", "no", "undecided", "undecided"]
    assert [read.over(case) for case in cases] == wanted
    assert read.over({"a": up}, {"a": down}) == "partly" and read.over({"a": up}, level=0.6) == "no"
    near = ({"a": still}, {"a": still, "b": up}, {"a": up, "b": none}, {"a": none}, {"a": still[:1]})
    assert [read.same(case) for case in near] == ["yes", "partly", "no", "undecided", "undecided"]


def test_the_whole_of_it(tmp_path: Path) -> None:
    assert experiment("noise-locality") is study.run
    with pytest.raises(MissingError):
        study.run(data=tmp_path, setting=TINY)
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    digits = [claim for claim in found.claims if claim.claim.startswith("digits")]
    assert len(found.claims) == 2 * len(digits) + 2 and all("mnist.npz" in c.measured for c in digits)
    assert {claim.holds for claim in digits} == {"undecided"}
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert len(found.tables[0].rows) == 4 * len(VARIANTS[POINTS])
    numbers = json_ready(found.numbers)["points"]
    untold = numbers[UNTOLD["linear"].name][0]["kernels"]["end"]
    assert untold["embedding_only"] == pytest.approx(0, abs=1e-9)  # whatever it is told, it is told nothing
    assert untold["input_only"] == pytest.approx(untold["cosine"])
    assert UNAWARE in VARIANTS[POINTS] and len(numbers[UNAWARE.name]) == TINY.points.seeds
    assert set(json_ready(found.numbers)["rates"]["points"]) == {ADAM, SGD}
    assert set(found.figures) == {
        "noise-locality", "noise-locality-controls", "noise-locality-maps", "noise-locality-lags",
    }  # fmt: skip
    for figure in found.figures.values():
        assert to_bytes(figure, "png")[:4] == b"\x89PNG"


def test_controls_show_what_was_not_trained() -> None:
    few, more = np.array([0.1, 0.2]), np.array([0.3, 0.1, 0.2])
    figure = controls({"a": {"x": (more, None), "y": (more, more)}, "b": {"x": (few, few), "y": (None, None)}}, {}, "")
    assert to_bytes(figure, "png")[:4] == b"\x89PNG"
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes] == [[], ["not trained"]]

"""The experiments on rank gaps and null spaces, on few of their cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genkernel.cli.experiment import _inputs
from genkernel.errors import InputError, MissingError
from genkernel.experiments.null_space import experiment as null_space
from genkernel.experiments.null_space import line as null_space_line
from genkernel.experiments.null_space import outcome as null_space_outcome
from genkernel.experiments.outcome import Outcome
from genkernel.experiments.rank_gap import experiment as rank_gap
from genkernel.experiments.rank_gap import images as rank_gap_images
from genkernel.experiments.rank_gap import line as rank_gap_line
from genkernel.experiments.rank_gap import outcome as rank_gap_outcome
from genkernel.experiments.registry import experiment
from genkernel.experiments.shrunk_images import shrunk
from genkernel.plots.style import to_bytes

GAPS = replace(
    rank_gap.QUICK, seeds=3, steps=(0, 10, 60), size=4, width=9, few=8, many=40, new=4, image_seeds=2,
    image_steps=(4,),
)  # fmt: skip
ENERGIES = replace(
    null_space.QUICK, seeds=3, steps=(0, 50, 400), passes=300, population=100, size=4, width=9, images=(6, 40),
    image_steps=8, held=30, lanczos=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of made-up images: digits are spots that leave the upper row dark, the others light it."""
    place = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, top in (("mnist", 0), ("fashion-mnist", 1)):
        arrays: dict[str, np.ndarray] = {}
        for split, count in (("train", 420), ("test", 400)):
            y = np.arange(count) % 10
            x = draw.integers(0, 60, (count, 4, 4)) + 15 * y[:, None, None] * (np.arange(16).reshape(4, 4) % 3 == 0)
            x[:, 0] *= top
            arrays |= {f"x_{split}": x.astype(np.uint8), f"y_{split}": y.astype(np.uint8)}
        np.savez(place / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return place


# ----------------------------------------------------------------------------------- images


def test_images_are_chosen_by_seed_and_class(folder: Path) -> None:
    x, y = shrunk(folder, "mnist", 4, 12, split="train", seed=1, classes=(3, 5))
    assert tuple(x.shape) == (12, 16) and set(y.tolist()) == {3, 5} and x.dtype == torch.float64
    assert float(x.max()) <= 1 and float(x[:, :4].abs().max()) == 0
    assert torch.equal(x, shrunk(folder, "mnist", 4, 12, split="train", seed=1, classes=(3, 5))[0])
    assert not torch.equal(x, shrunk(folder, "mnist", 4, 12, split="train", seed=2, classes=(3, 5))[0])
    with pytest.raises(InputError, match="300 are needed"):
        shrunk(folder, "mnist", 4, 300, split="test", seed=0, classes=(1,))
    with pytest.raises(MissingError, match=r"has no kmnist\.npz"):
        shrunk(folder, "kmnist", 4, 2, split="test", seed=0)


@pytest.mark.parametrize("study", [rank_gap, null_space])
def test_a_folder_without_data_is_refused(study: object, tmp_path: Path) -> None:
    setting = {"setting": GAPS} if study is rank_gap else {"setting": ENERGIES}
    with pytest.raises(MissingError, match=r"has no mnist\.npz"):
        study.run(data=tmp_path, progress=False, **setting)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["rank-gap", "null-space"])
def test_the_command_passes_the_folder(name: str) -> None:
    assert _inputs(name, experiment(name), "there", None) == {"data": "there"}


# -------------------------------------------------------------------------------- rank gaps


def test_features_on_the_line_are_derivatives() -> None:
    x = torch.tensor([-0.4, 0.2, 0.7], dtype=torch.float64)
    a, b = (torch.randn(5, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    J = torch.autograd.functional.jacobian(lambda p, q: rank_gap_line.outputs(x, p[None], q[None])[0], (a, b))
    torch.testing.assert_close(rank_gap_line.features(x, a, b), torch.cat(J, 1))


def test_the_dead_unit_never_moves_and_the_others_descend() -> None:
    dead = rank_gap_line.descend("cos 2x", rank_gap_line.DEAD, GAPS, 0)
    assert (dead.moved == 0).all() and (dead.gaps >= 2).all() and dead.held.min() > 2 - 1e-9
    assert (dead.trained[-1] < dead.trained[0]).all() and dead.trained.shape == (3, 3)
    assert torch.equal(dead.biases[0, :, -1], dead.biases[-1, :, -1])
    assert not torch.equal(dead.biases[0, :, 0], dead.biases[-1, :, 0])
    inside = rank_gap_line.descend("cos 2x", rank_gap_line.INSIDE, GAPS, 0)
    assert (inside.gaps[0] == 0).all() and (inside.ranks[0] == 10).all() and (inside.moved > 0).all()
    torch.testing.assert_close(inside.heights[0], dead.heights[0])  # the same starts, so differences are paired


def test_who_is_active_at_the_end() -> None:
    start = rank_gap_line.descend("cos 2x", rank_gap_line.DEAD, replace(GAPS, steps=(0,)), 0)
    trained, tested = rank_gap_line.activity(start)
    for unit, threshold in enumerate(rank_gap_line.THRESHOLDS[rank_gap_line.DEAD]):  # shares of two even intervals
        assert trained[:, unit] == pytest.approx(max(0, (1 - threshold) / 2), abs=0.01)
        assert tested[:, unit] == pytest.approx((2 - threshold) / 4, abs=0.005)


def test_activated_units_with_gaps_are_told() -> None:
    """Of two starts one drives a threshold out to the left: all units are active, and there is a gap."""
    kept = rank_gap_line.descend("cos 2x", rank_gap_line.INSIDE, replace(GAPS, steps=(0,), seeds=2), 0)
    dead = rank_gap_line.descend("cos 2x", rank_gap_line.DEAD, replace(GAPS, steps=(0,), seeds=2), 0)
    claims = rank_gap_outcome.activity_claims({"cos 2x": {rank_gap_line.INSIDE: kept, rank_gap_line.DEAD: dead}})
    assert [one.holds for one in claims] == ["yes", "yes"]
    biases = kept.biases.clone()
    biases[-1, 1, 0] = 1.2
    left = replace(kept, biases=biases, gaps=np.array([[0.0, 1.0]]))
    claims = rank_gap_outcome.activity_claims({"cos 2x": {rank_gap_line.INSIDE: left, rank_gap_line.DEAD: dead}})
    assert claims[0].holds == "partly"
    assert "in 2 of 2 runs; in 1 of these there is a gap all the same, and in 1 of those" in claims[0].measured


def test_the_detail_of_the_figure_has_theorys_distance() -> None:
    found = rank_gap_line.detail(rank_gap_line.descend("cos 2x", rank_gap_line.DEAD, replace(GAPS, steps=(0,)), 0))
    assert found.distance[found.line < 1.5].max() == 0 < found.distance[found.line > 1.5].min()
    assert (found.trained[-2:] < found.tolerance).all() and (found.mixed > found.tolerance).all()


def test_gaps_of_images_that_light_what_was_dark(folder: Path) -> None:
    many = rank_gap_images.digits(folder, GAPS.many, GAPS, 0)
    assert many.rows == 360 and many.parameters == 16 * 9 + 9 + 90 and many.steps == (4,)
    assert many.gaps[rank_gap_images.HELD][-1] == 0 < many.gaps[rank_gap_images.FOREIGN][-1] <= 4 * 9
    assert many.unlit[rank_gap_images.FOREIGN] == pytest.approx(1) and math.isnan(many.unlit[rank_gap_images.HELD])
    assert many.areas[rank_gap_images.FOREIGN]["projection distance"] == 1
    few = rank_gap_images.digits(folder, GAPS.few, GAPS, 0)
    assert few.rows == 72 and all(few.gaps[name][-1] > 0 for name in rank_gap_images.SETS)


def test_whether_a_rise_is_owed_to_the_unit() -> None:
    up, none = np.array([0.9, 1.0, 1.1]), np.array([-0.1, 0.0, 0.1])
    owed = rank_gap_outcome._owed_to_the_unit
    assert owed({"a": up}, {"a": up + 0.1 * none}) == "yes" and owed({"a": up}, {"a": 0.1 * none}) == "no"
    assert owed({"a": up}, {"a": up / 2}) == "partly" and owed({"a": up}, {"a": 20 * none}) == "undecided"
    assert owed({"a": none}, {"a": none}) == "undecided"  # no rise to be explained
    assert owed({"a": up, "b": none}, {"a": up + 0.1 * none, "b": none}) == "yes"


def test_gaps_that_change_with_the_tolerance_are_no_findings() -> None:
    """Claims on made-up trainings: gaps of 30 to 32 with Fashion-MNIST, all of them or one of them settled."""

    def made(k: int, count: int, stable: bool) -> rank_gap_images.Digits:
        held, left, foreign = rank_gap_images.SETS
        gaps = {held: [0], left: [0], foreign: [30 + k]}
        flags = {name: [stable or name != foreign] for name in gaps}
        area = dict.fromkeys(rank_gap_images.SCORES, 0.9 + 0.01 * k)
        area[rank_gap_images.SCORES[2]] = 0.5 + 0.01 * k
        return rank_gap_images.Digits(
            seed=k, count=count, rows=9 * count, parameters=100, steps=(0,), ranks=[50], gaps=gaps,
            vacuous={key: [False] for key in gaps}, stable=flags, distances={key: [0.0] for key in gaps},
            areas={left: area, foreign: area}, first=dict.fromkeys(gaps, 1.0), unlit=dict.fromkeys(gaps, 1.0),
            accuracy=(1.0, 1.0),
        )  # fmt: skip

    for settled, said in ((3, "partly"), (1, "no")):
        found = [made(k, count, k < settled) for count in (GAPS.few, GAPS.many) for k in range(3)]
        claims = rank_gap_outcome.image_claims(found, GAPS)
        assert [one.holds for one in claims] == ["no", said, "yes", "yes", "no"]  # equal is not more
        assert f"in 3 and {settled} of 3 trainings" in claims[1].measured


def test_the_study_of_gaps(folder: Path) -> None:
    found = rank_gap.run(progress=False, data=folder, setting=GAPS)
    assert len(found.claims) == 12 and found.claims[0].holds == found.claims[6].holds == "yes"
    assert found.claims[9].holds in ("yes", "partly") and len(found.tables) == 2
    assert set(found.figures) == {"rank-gap", "rank-gap-activations", "rank-gap-images"}
    json.dumps(found.numbers)
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
    bare = rank_gap.run(progress=False, setting=GAPS)
    assert [claim.holds for claim in bare.claims[7:]] == ["undecided"] * 5
    assert set(bare.figures) == {"rank-gap", "rank-gap-activations"}
    assert bare.numbers["line"] == found.numbers["line"]


# ------------------------------------------------------------------------------ null spaces


def test_features_of_networks_on_a_line_are_derivatives() -> None:
    draw = torch.Generator().manual_seed(0)
    theta, (x, y) = null_space_line.start(2, draw), null_space_line.sample(2, 5, draw)
    J = torch.autograd.functional.jacobian(lambda w: null_space_line.evaluate(w, x)[0], theta)
    for k in range(2):
        torch.testing.assert_close(null_space_line.evaluate(theta, x)[1][k], J[k, :, k])
    gradient = torch.autograd.functional.jacobian(
        lambda w: ((null_space_line.evaluate(w, x)[0] - y).square().mean(1) / 2).sum(), theta
    )
    stepped, velocity = null_space_line.descend(theta, torch.zeros_like(theta), x, y, 0.1)
    torch.testing.assert_close(velocity, -0.1 * gradient)
    torch.testing.assert_close(
        null_space_line.descend(stepped, velocity, x, y, 0.0)[1], null_space_line.MOMENTUM * velocity
    )


def test_near_stationarity_the_training_residual_is_in_the_null_space() -> None:
    course = null_space_line.to_stationarity(ENERGIES, 0)
    assert list(course) == ["0", "50", "400", null_space_line.POLISHED]
    start, end = course["0"], course[null_space_line.POLISHED]
    there = end.gradient <= null_space_outcome.REACHED
    assert there.any() and (end.error < start.error).all()
    assert (
        null_space_outcome.at_tau(end.energy, 1e-2)[there].min()
        > 0.99
        > null_space_outcome.at_tau(start.energy, 1e-2).max()
    )
    for one in course.values():  # the stationarity condition bounds the curve
        assert ((1 - one.energy) <= one.rayleigh[:, None] / np.square(null_space_outcome.TAUS) + 1e-12).all()


def test_fitting_few_samples_leaves_learnable_residuals_on_the_population() -> None:
    setting = replace(ENERGIES, passes=1000, population=300)
    few, fresh = (null_space_line.on_population(n, setting, 0) for n in (20, None))
    assert fresh.trained is None and few.trained is not None
    np.testing.assert_allclose(few.before.energy, fresh.before.energy)  # the same networks and points
    gains = null_space_outcome.at_tau(fresh.after.energy, 1e-1) - null_space_outcome.at_tau(few.after.energy, 1e-1)
    assert gains.mean() > 0.1 and few.trained.rayleigh.mean() < 0.1 * few.after.rayleigh.mean()


def test_the_study_of_null_spaces(folder: Path) -> None:
    found = null_space.run(progress=False, data=folder, setting=ENERGIES)
    assert len(found.claims) == 11 and found.claims[2].holds == found.claims[10].holds == "yes"
    assert null_space_outcome.on_digits(bare := Outcome("null-space", {}), [], ENERGIES) is None  # type: ignore[func-returns-value]
    assert [claim.holds for claim in bare.claims] == ["undecided"] * 4
    names = [row[0] for row in found.tables[1].rows]
    assert names == ["20", "200", "fresh", "fresh, without the rough part"]
    assert len(found.tables) == 3 and set(found.figures) == {"null-space"}
    json.dumps(found.numbers)
    assert to_bytes(found.figures["null-space"], "png")[:4] == b"\x89PNG"
    rows = {row[0]: row for row in found.tables[2].rows}
    assert list(rows) == ["6", "40", "fresh"] and rows["fresh"][1] is None and rows["40"][1] == 400

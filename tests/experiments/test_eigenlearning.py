"""Eigenlearning and the lazy limit, on few and small cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.errors import InputError, MissingError
from genkernel.experiments import lazy_limit
from genkernel.experiments.eigenlearning import claims as eigenlearning_claims
from genkernel.experiments.eigenlearning import experiment as eigenlearning
from genkernel.experiments.eigenlearning.claims import Conserved, of_rings
from genkernel.experiments.eigenlearning.images import Sizes, labelled
from genkernel.experiments.eigenlearning.kernels import (
    Design,
    boolean_cube,
    circle,
    gaussian_design,
    in_dimensions,
    on_domain,
    parity,
    regress,
    scored,
)
from genkernel.experiments.eigenlearning.networks import RELU_1, RELU_4, TANH_1, train
from genkernel.experiments.equivalence import Agreement, Measured, agreement, pooled
from genkernel.experiments.lazy_limit import Rate
from genkernel.experiments.outcome import Outcome
from genkernel.plots import style
from genkernel.spectra import predict_risk

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(
    eigenlearning.QUICK,
    runs=5,
    draws=3,
    reference=60,
    dimensions=(1, 3),
    samples=(8, 128),
    network_samples=(8, 128),
    width=32,
    circle_draws=2,
    deep_draws=2,
    images=Sizes(60, 40, 30, (4, 8, 16), 2, (8,), 2, (8, 16)),
)


# ------------------------------------------------------------------------------------ parts


def test_modes_of_the_circle_and_parities_are_orthonormal_eigenfunctions() -> None:
    for points in (7, 10):
        x, modes, names = circle(points)
        torch.testing.assert_close(modes.T @ modes / points, torch.eye(points, dtype=torch.float64))
        assert len(set(names)) == points
        turned = modes.T @ RELU_1.kernel(x) @ modes / points**2
        torch.testing.assert_close(turned, torch.diag(turned.diagonal()), atol=1e-12, rtol=0)
    cube = boolean_cube(4)
    f = torch.stack([parity(cube, bits) for bits in (0, 1, 3)], 1)
    image = TANH_1.kernel(cube) @ f / 16
    torch.testing.assert_close(image, f * (image / f)[0])


def test_theory_is_at_home_with_gaussian_eigenfunctions() -> None:
    found = gaussian_design(Design(40, 1e-2, 0.05), 200, 100, 0)
    assert abs(found.risk.test_mse - float(found.test.mean)) < 0.05 * found.risk.test_mse + 3 * float(found.test.stderr)
    off = np.abs(found.learned.mean - found.risk.mean[:10]) / found.learned.stderr
    assert off.max() < 4 and found.learned.count == 100
    assert abs(found.variance_ratio.mean - 1) < 0.1 + 3 * found.variance_ratio.stderr


def test_in_one_dimension_it_is_not() -> None:
    one = in_dimensions(1, 40, 400, 20, 0)
    assert float(one.measured.mean) > 2 * one.predicted
    assert one.measured.count == 20 and float(one.measured.shared) > 0 and 0 < one.reference_stderr < one.predicted


def test_kernel_regression_on_the_cube_is_as_predicted_and_repeats_are_worse() -> None:
    cube = boolean_cube(8)
    functions = torch.stack([parity(cube, bits) for bits in (1, 3)], 1)
    K = RELU_4.kernel(cube)
    plain = on_domain(K, functions, 100, 30, 0)
    repeated = on_domain(K, functions, 100, 30, 0, replacement=True)
    predicted = [predict_risk(K, functions[:, k], 100) for k in range(2)]
    for k in range(2):
        assert float(plain.learnability.mean[k]) == pytest.approx(predicted[k].learnability, abs=0.03)
        assert float(repeated.mse.mean[k]) > float(plain.mse.mean[k]) + 2 * float(plain.mse.stderr[k])
    assert float(plain.mse.mean[1]) == pytest.approx(predicted[1].test_mse, rel=0.1)
    assert plain.distinct == 100 and repeated.distinct == pytest.approx(256 * (1 - (255 / 256) ** 100), abs=1.5)


def test_points_that_repeat_count_once() -> None:
    K = RELU_1.kernel(boolean_cube(3))
    f = boolean_cube(3)[:, :2]
    torch.testing.assert_close(
        regress(K, f, torch.tensor([0, 3, 3, 5])), regress(K, f, torch.tensor([5, 3, 0])), rtol=1e-8, atol=1e-8
    )


def test_trained_networks_come_to_kernel_regression() -> None:
    x, modes, _ = circle(10)
    places = torch.tensor([0, 3, 7])
    y = modes[places].T[:, :, None]
    shares = []
    for width in (64, 2048):
        run = train(RELU_1, width, x[places].expand(10, -1, -1), y, x, seed=0, tolerance=1e-5)
        line = regress(RELU_1.kernel(x), modes, places)
        shares.append(float((run.outputs[:, :, 0].T - line).norm() / line.norm()))
        assert float(run.train_mse.max()) < 1e-4
        assert scored(modes, run.outputs[:, :, 0].T)[1].sum() == pytest.approx(3, abs=0.4)
    assert shares[1] < 0.1 and shares[1] < 0.5 * shares[0]


def test_intervals_decide_and_noise_does_not() -> None:
    found = agreement([1.0, 1.0, 1.0, 1.0, 0.0], [1.05, 1.3, 1.3, 1.0, 0.004], [0.02, 0.1, 0.6, 0.2, 0.0005], 0.05)
    assert (found.yes, found.no, found.undecided, found.count) == (2, 1, 2, 5)
    assert agreement([1.0], [1.0], [math.nan]).holds == agreement([], [], []).holds == "undecided"
    draw = np.random.default_rng(0)
    for stderr in (0.02, 0.1, 0.3):  # the truth is 30 % off: noise may leave it open, and hardly ever confirms it
        one = agreement(np.ones(500), 1.3 + stderr * draw.normal(size=500), np.full(500, 2 * stderr))
        assert one.yes <= 0.01 * 500 and (stderr > 0.02 or one.holds == "no")
    assert agreement([1.0], [-1.0], [0.1]).holds == "no"  # the sign counts


def test_shares_hold_only_where_undecided_numbers_cannot_change_them() -> None:
    def said(yes: int, no: int, undecided: int) -> str:
        return Agreement(yes, no, undecided, 0.0).holds

    assert said(9, 1, 0) == said(9, 0, 1) == "yes" and said(4, 6, 0) == said(1, 6, 3) == "no"
    assert (
        said(5, 5, 0) == said(6, 2, 2) == "partly" and said(8, 0, 2) == said(4, 4, 2) == said(0, 0, 10) == "undecided"
    )


def test_parts_are_pooled() -> None:
    assert pooled(["yes", "yes"]) == "yes" and pooled(["no", "no"]) == "no" and pooled([]) == "undecided"
    assert pooled(["yes", "no", "undecided"]) == pooled(["partly", "undecided"]) == "partly"
    assert pooled(["yes", "undecided"]) == pooled(["no", "undecided"]) == "undecided"
    not_yes = Agreement(0, 2, 4, 0.0)  # "partly" or "no"
    assert pooled(["yes", not_yes]) == "partly" and pooled(["no", not_yes]) == pooled([not_yes]) == "undecided"


def test_errors_of_few_draws_are_student_and_shared_points_count() -> None:
    few = Measured.of([1.0, 2.0, 3.0])
    assert float(few.half) == pytest.approx(4.3027 / 3**0.5, rel=1e-4) and few.count == 3
    assert math.isnan(float(Measured.of([1.0]).half))
    draw = np.random.default_rng(0)
    found = []
    for _ in range(400):  # errors = training set + test point + both
        rows = 1 + draw.normal(size=(20, 1)) + 3 * draw.normal(size=(1, 50)) + draw.normal(size=(20, 50))
        found.append(Measured.on_points(rows))
    covered = np.mean([abs(float(m.mean) - 1) < float(m.half) for m in found])
    alone = np.mean([abs(float(m.mean) - 1) < 2.09 * float(m.stderr) for m in found])
    assert covered > 0.92 and alone < 0.8  # training sets alone know nothing of the test points


def test_networks_come_nearer_only_where_errors_show_it() -> None:
    def one(mean: float, stderr: float) -> Measured:
        return Measured(np.array(mean), np.array(stderr), 3, 0.5)

    nearer = eigenlearning_claims._nearer
    assert nearer(one(1.5, 0.01), one(1.2, 0.01), 1.0) == "yes"
    assert nearer(one(1.2, 0.01), one(1.5, 0.01), 1.0) == "no"
    assert nearer(one(1.5, 0.1), one(1.2, 0.1), 1.0) == "undecided"


def test_images_need_labels_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        labelled(str(tmp_path / "nothing.npz"), 10, 8, 0)
    np.savez(tmp_path / "bare.npz", x=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(InputError, match="needs labels"):
        labelled(tmp_path / "bare.npz", 4, 8, 0)
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=pixels, y_train=np.arange(9) % 3)
    found = labelled(tmp_path, 6, 8, 0)  # the folder of it
    assert found.x.shape == (6, 64) and found.y.shape == (6, 3) and found.y.sum(0).abs().max() < 1e-12
    assert float(found.x.square().mean()) == pytest.approx(1)


# ----------------------------------------------------------------------------------- verdicts


def test_verdicts_on_conservation_follow_what_is_measured() -> None:
    def said(exact: float, total: float) -> list[str]:
        outcome = Outcome("eigenlearning", {})
        one = Conserved(
            np.ones(10) * 0.3, np.ones(10) * total / 10, Measured(np.array(total), np.array(0.01), 5), exact
        )
        of_rings(outcome, {RELU_1: {3: one}}, 16)
        return [claim.holds for claim in outcome.claims]

    assert said(1e-14, 3.1) == ["yes", "yes"] and said(1e-3, 3.3) == ["no", "no"]
    assert said(1e-14, 3.13)[1] == "undecided"


def test_slopes_are_powers_only_where_their_error_says_so() -> None:
    assert Rate(-0.5, 0.05, 6).is_power(-0.5) is True and Rate(-0.5, 0.05, 6).is_power(-1) is False
    assert Rate(-0.95, 0.05, 6).is_power(-1) is True and Rate(-0.75, 0.1, 6).is_power(-1) is None
    assert Rate(-0.5, 0.11, 60).is_power(-0.5) is True and Rate(-0.5, 0.11, 6).is_power(-0.5) is None  # t, not 2 s.e.
    assert Rate(-0.9, 0.05, 6).at_most(-0.5) is True and Rate(-0.1, 0.05, 6).at_most(-0.5) is False
    assert Rate(-0.45, 0.1, 6).at_most(-0.5) is None and Rate(-1, math.nan, 1).at_most(-0.5) is None
    assert Rate(-0.42, 0.015, 6).at_most(-0.5) is None  # within the slack or not: open
    assert Rate(math.nan, math.nan, 6).is_power(-0.5) is None
    widths = (64, 128, 256)
    rows = np.array([[1.0, 2.0], [0.5, 1.0], [0.25, 0.5]])
    found = lazy_limit.rate_of(widths, rows)
    assert found.value == pytest.approx(-1) and found.stderr < 1e-9 and found.count == 2


def test_verdicts_on_the_lazy_limit_follow_the_slopes() -> None:
    def said(power: float, bias: float = 0.0, error: float = 0.001) -> list[str]:
        rates = {a: {q: Rate(power, 0.02, 6) for q in lazy_limit.QUANTITIES} for a in ("tanh", "relu")}
        one = Measured(np.array(bias), np.array(error), 6)
        return [claim.holds for claim in lazy_limit._claims(rates, rates, {"tanh": one, "relu": one})]

    assert said(-1.0) == ["yes", "yes", "no", "yes", "no", "partly", "no"]
    assert said(-0.75) == ["yes", "yes", "undecided", "undecided", "yes", "undecided", "undecided"]
    assert said(-0.5) == ["yes", "yes", "yes", "no", "no", "yes", "yes"]
    assert said(0.0)[:5] == ["no"] * 5
    assert said(-0.5, 0.05)[5] == said(-0.5, -0.05)[5] == "partly"
    assert said(-0.5, 0.0, 0.02)[5] == "undecided"  # noise shows no bias to be absent


# --------------------------------------------------------------------------------------- runs


def test_the_whole_study_on_tiny_cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(eigenlearning, "QUICK", TINY)
    monkeypatch.setattr(eigenlearning, "ARCHITECTURES", (RELU_1, TANH_1))
    monkeypatch.setattr(eigenlearning, "DESIGNS", (Design(20, 1e-2, 0.1),))
    draw = np.random.default_rng(0)
    labels = np.arange(140) % 4
    pixels = np.clip(60 * labels[:, None, None] + 40 * draw.normal(size=(140, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=labels)
    found = eigenlearning.run(quick=True, progress=False, images=tmp_path / "images.npz")
    assert len(found.claims) == 11 and {c.holds for c in found.claims} <= {"yes", "no", "partly", "undecided"}
    conserved = next(c for c in found.claims if "conservation law" in c.claim)
    assert conserved.holds == "yes"
    assert set(found.figures) == {"eigenlearning", "eigenlearning-conservation", "eigenlearning-images"}
    for figure in found.figures.values():
        assert len(style.to_bytes(figure, "png")) > 10_000
    assert any("taken as a sample of the density" in c.claim for c in found.claims)
    assert "| ReLU, 1 hidden | parity of 3 |" in found.markdown()
    assert len(found.numbers["cube"]["ReLU, 1 hidden"]["parity of 8"]["kernel"]) == 2


def test_widths_are_compared_with_frozen_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_limit, "WIDTHS", (32, 128, 512))
    monkeypatch.setattr(lazy_limit, "STEPS", 30)
    found = lazy_limit.run(quick=True, progress=False)
    for each in found.numbers["values"].values():
        for quantity in ("drift", "frozen"):
            assert np.mean(each[quantity][-1]) < 0.5 * np.mean(each[quantity][0])
    assert found.settings["largest share of the loss that is left"] < 0.5
    assert len(style.to_bytes(found.figures["lazy-limit"], "png")) > 10_000 and len(found.claims) == 7


def test_a_network_that_is_linear_does_not_drift(monkeypatch: Any) -> None:
    monkeypatch.setattr(lazy_limit, "DEPTH", 0)
    found = lazy_limit.trained(8, "relu", 0, 40).numbers
    assert max(found.values()) < 1e-5


def test_claims_module_names_functions() -> None:
    assert [eigenlearning_claims.function_name(bits) for bits in (0, 1, 3)] == ["constant", "one bit", "parity of 3"]

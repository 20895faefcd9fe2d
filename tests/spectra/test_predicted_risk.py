"""Errors predicted from kernels and targets, against regressions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import (
    LearningCurve,
    Mercer,
    dataset_learnabilities,
    expected_risk,
    infinite_width_ntk,
    measured_learnability,
    mercer_decomposition,
    predict_risk,
    solve_kappa,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simulated(
    features: Any, w: Tensor, n: int, ridge: float, noise: float, runs: int
) -> tuple[tuple[float, float], float]:
    """Test error with its standard error and train error of regressions on features ``[n, O, P]`` with f = Φ w."""
    draw = torch.Generator().manual_seed(5)
    tests, trains = [], []
    test = features(2000, draw)
    for _ in range(runs):
        J = features(n, draw)
        y = J @ w + math.sqrt(noise) * torch.randn(J.shape[:2], generator=draw, dtype=torch.float64)
        flat = J.reshape(-1, J.shape[2])
        alpha = torch.linalg.solve(flat @ flat.T + ridge * torch.eye(len(flat)), y.reshape(-1))
        v = flat.T @ alpha
        tests.append(float((test @ (v - w)).square().sum(1).mean()) + noise * J.shape[1])
        trains.append(float((flat @ v - y.reshape(-1)).square().sum()) / n)
    return (float(np.mean(tests)), float(np.std(tests) / runs**0.5)), float(np.mean(trains))


SCALES = 1 / torch.arange(1, 121).double() ** 0.75
WEIGHTS = normal(120, seed=9) / torch.arange(1, 121)


def exchangeable(k: int, draw: torch.Generator) -> Tensor:
    return torch.randn(k, 2, 120, generator=draw, dtype=torch.float64) * SCALES


def lopsided(k: int, draw: torch.Generator) -> Tensor:
    return exchangeable(k, draw) * torch.tensor([1.0, 0.1])[:, None]


def coupled(k: int, draw: torch.Generator) -> Tensor:
    one = exchangeable(k, draw)
    return torch.stack([one[:, 0], one[:, 0] + 0.2 * one[:, 1]], 1)


@pytest.mark.parametrize("reference", ["domain", "sample"])
@pytest.mark.parametrize(("ridge", "noise"), [(1e-2, 0.0), (1.0, 0.1)])
def test_n_samples_of_a_kernel_of_two_outputs_are_twice_n_equations(ridge: float, noise: float, reference: Any) -> None:
    J = exchangeable(700, torch.Generator().manual_seed(1))
    K = torch.einsum("iap,jbp->ijab", J, J)
    found = predict_risk(K, J @ WEIGHTS, 20, ridge=ridge, noise=2 * noise, reference=reference)
    assert not found.notes
    (test, error), train = simulated(exchangeable, WEIGHTS, 20, ridge, noise, 80)
    assert abs(found.test_mse - test) < 0.08 * test + 3 * error
    assert found.train_mse == pytest.approx(train, rel=0.1)
    assert found.learnabilities.sum() == pytest.approx(40 - 2 * ridge / found.kappa, abs=1e-8)  # nO - O δ / κ


@pytest.mark.parametrize("features", [lopsided, coupled])
def test_outputs_that_are_not_exchangeable_are_said(features: Any) -> None:
    J = features(200, torch.Generator().manual_seed(1))
    found = predict_risk(torch.einsum("iap,jbp->ijab", J, J), J @ WEIGHTS, 20, ridge=0.1)
    assert any("outputs take unequal shares" in note for note in found.notes)


def test_blocks_that_are_one_kernel_per_output_are_that_kernel() -> None:
    """Full blocks k(x, x') I with two targets, and k with two columns: the same theory."""
    x = normal(60, 3)
    k = torch.exp(-torch.cdist(x, x).square() / 4)
    y = torch.stack([x[:, 0], x[:, 1].sin()], 1)
    blocks = k[:, :, None, None] * torch.eye(2, dtype=torch.float64)
    one, two = (predict_risk(kernel, y, 12, ridge=0.05, noise=0.2) for kernel in (k, blocks))
    assert two.test_mse == pytest.approx(one.test_mse) and two.train_mse == pytest.approx(one.train_mse)
    assert two.learnability == pytest.approx(one.learnability) and (two.samples, two.ridge) == (12, 0.05)
    assert two.variance.sum() == pytest.approx(one.variance.sum())


def test_it_is_eigenlearning_of_the_kernels_modes() -> None:
    x, y = normal(80, 4), normal(80, 3, seed=1)
    K = torch.exp(-torch.cdist(x, x).square())
    modes = mercer_decomposition(K)
    plain = expected_risk(modes.values.numpy(), modes.coefficients(y).numpy(), 9, ridge=0.3, noise=0.1)
    for kernel in (K, K.numpy(), modes):
        found = predict_risk(kernel, y, 9, ridge=0.3, noise=0.1)
        assert found.test_mse == pytest.approx(plain.test_mse) and found.mean.shape == (80, 3)
        assert found.rest == pytest.approx(0, abs=1e-12)
    curve = predict_risk(K, y, [3, 9], ridge=0.3, noise=0.1)
    assert isinstance(curve, LearningCurve) and len(curve) == 2 and curve[1].test_mse == found.test_mse
    assert curve.learnabilities.shape == (2, 80) and len(curve[:1]) == 1 and curve.samples.tolist() == [3, 9]
    assert predict_risk(K, y).samples.tolist() == [1, 2, 4, 8, 16, 32]


def test_regressions_on_fresh_samples_come_to_it() -> None:
    """Ridge, label noise, and a density that is only seen through reference samples."""
    d = 10  # in few dimensions modes are too far from Gaussian for the theory: see docs/eigenlearning.md
    x = normal(1800, d)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * d))

    def target(z: Tensor) -> Tensor:
        return z[:, 0].sin() + z[:, 1] * z[:, 2] / 2

    ridge, noise, n = 0.05, 0.2, 30
    own = kernel(x[:1200], x[:1200])
    found = predict_risk(own, target(x[:1200]), n, ridge=ridge, noise=noise)
    draw, errors = torch.Generator().manual_seed(2), []
    for _ in range(60):
        z = torch.randn(n, d, generator=draw, dtype=torch.float64)
        y = target(z) + noise**0.5 * torch.randn(n, generator=draw, dtype=torch.float64)
        f = kernel(x[1200:], z) @ torch.linalg.solve(kernel(z, z) + ridge * torch.eye(n), y)
        errors.append(float((f - target(x[1200:])).square().mean()) + noise)
    assert found.test_mse == pytest.approx(np.mean(errors), rel=0.1)
    without = predict_risk(own, target(x[:1200]), n, ridge=ridge)
    assert without.test_mse == pytest.approx(found.test_mse - without.overfitting * noise)


def test_what_no_mode_can_hold_is_noise() -> None:
    """A linear kernel and a target with a quadratic part: a regression in r dimensions."""
    x = normal(1200, 3)
    y = x[:, 0] + x[:, 1] ** 2 - 1
    found = predict_risk(mercer_decomposition(x @ x.T, 3), y, 30)
    assert found.rest == pytest.approx(2, rel=0.2) and found.noise == 0
    assert found.test_mse == pytest.approx(found.rest * 30 / 27) and found.kappa == 0
    assert found.train_mse == pytest.approx(found.rest * 27 / 30)
    assert not found.notes


def test_modes_that_were_not_asked_for_act_as_a_ridge_in_kappa_alone() -> None:
    x = normal(300, 5)
    K = torch.exp(-torch.cdist(x, x).square() / 10)
    y = x[:, 0]
    whole, short = (predict_risk(K, y, 20, modes=modes) for modes in (None, 60))
    assert short.kappa == pytest.approx(whole.kappa, rel=0.05) and short.train_mse == 0 and len(short.mean) == 60
    assert any("of the trace" in note for note in predict_risk(K, y, 2, modes=1).notes)


def test_kernels_and_operators_of_networks() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = normal(40, 3).float()
    y = x[:, 0].double()
    K = gk.kernel(net, x, cotangents=gk.total(), progress=False)
    exact = predict_risk(K, y, 8, ridge=0.1)
    matrix_free = predict_risk(gk.operator(net, x), y[:, None], 8, ridge=0.1, modes=38)
    assert matrix_free.test_mse == pytest.approx(exact.test_mse, rel=0.02)
    assert any("cosines" in note for note in predict_risk(K.normalized(), y, 8, ridge=0.1).notes)
    wide = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    probed = gk.kernel(wide, x, cotangents=gk.probes(4, seed=0), progress=False)
    assert any("random probes" in note for note in predict_risk(probed, y, 8, ridge=0.1).notes)
    with pytest.raises(InputError, match="different samples"):
        predict_risk(gk.kernel(net, x, x[:5], cotangents=gk.total(), progress=False), y, 8)


def test_few_reference_samples_are_said() -> None:
    K = torch.eye(10).double() + 1
    curve = predict_risk(K, torch.arange(10.0), [5, 6], ridge=0.1)
    assert not curve[0].notes and "more than half of the m = 10" in curve[1].notes[0] and len(curve.notes) == 1


@pytest.mark.parametrize("reference", ["domain", "sample"])
def test_default_sizes_leave_out_those_of_infinite_error(reference: Any) -> None:
    J = normal(40, 4)  # 4 modes
    y = normal(40, 1)[:, 0]
    curve = predict_risk(J @ J.T, y, reference=reference)
    assert curve.samples.tolist() == [1, 2, 8, 16] and np.isfinite(curve.test_mse).all()
    assert sum("n = 4 is left out" in note for note in curve.notes) == 1
    with pytest.raises(InputError, match="infinite"):  # what was asked for is not passed over
        predict_risk(J @ J.T, y, [2, 4], reference=reference)
    with_ridge = predict_risk(J @ J.T, y, ridge=0.1, reference=reference)
    assert with_ridge.samples.tolist() == [1, 2, 4, 8, 16] and not any("left out" in n for n in with_ridge.notes)
    blocks = normal(40, 2, 8)  # 8 modes: 4 samples of 2 outputs
    K = torch.einsum("iap,jbp->ijab", blocks, blocks)
    assert predict_risk(K, normal(40, 2), reference=reference).samples.tolist() == [1, 2, 8, 16]


def test_variances_of_several_targets_are_summed() -> None:
    J, y = normal(40, 30), normal(40, 2)
    K = J @ J.T
    one, two = (predict_risk(K, y[:, k], 10, ridge=0.1) for k in range(2))
    np.testing.assert_allclose(predict_risk(K, y, 10, ridge=0.1).variance, one.variance + two.variance)


# ------------------------------------------------------- reference samples that are a sample

EIGENVALUES = np.arange(1, 801.0) ** -1.4


def gaussian(m: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel and targets of m samples with independent Gaussian eigenfunctions, and the target's coefficients."""
    draw = np.random.default_rng(seed)
    v = np.random.default_rng(99).normal(size=800) / np.arange(1, 801) ** 0.8
    X = draw.normal(size=(m, 800))
    return X * EIGENVALUES @ X.T, X @ v, v


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.0, 0.1), (0.5, 0.1)])
def test_a_sample_of_reference_samples_has_no_bias_where_the_truth_is_known(ridge: float, noise: float) -> None:
    sizes, m = [10, 25, 50, 100], 200
    found = {"domain": [], "sample": []}
    stated = []
    for seed in range(10):
        K, y, v = gaussian(m, seed)
        for reference, each in found.items():
            curve = predict_risk(K, y, sizes, ridge=ridge, noise=noise, reference=reference)
            each.append(curve.test_mse)
        stated.append(curve.stderr)
    truth = np.array([expected_risk(EIGENVALUES, v, n, ridge=ridge, noise=noise).test_mse for n in sizes])
    plain, corrected = (np.mean(each, 0) / truth - 1 for each in found.values())
    assert np.abs(plain[2:]).min() > 0.05 and np.abs(corrected[2:]).max() < 0.25 * np.abs(plain[2:]).max()
    spread = np.std(found["sample"], 0, ddof=1)
    assert (np.abs(corrected) * truth < 3 * spread / 10**0.5 + 0.01 * truth).all()
    assert (spread < 1.5 * np.mean(stated, 0)).all()  # the stated error is not too small


def test_a_sample_shows_kappa_and_overfitting_and_learnability() -> None:
    K, y, v = gaussian(300, 3)
    for n, ridge in ((20, 0.0), (60, 0.3), (150, 0.0), (300, 0.3)):
        found = predict_risk(K, y, n, ridge=ridge, reference="sample")
        true = expected_risk(EIGENVALUES, v, n, ridge=ridge)
        assert found.kappa == pytest.approx(true.kappa, rel=0.02)
        assert found.overfitting == pytest.approx(true.overfitting, rel=0.03)
        assert found.learnability == pytest.approx(true.learnability, abs=0.05)
        assert found.train_mse == pytest.approx(true.train_mse, rel=0.25)
        assert found.learnabilities.sum() == pytest.approx(n - ridge / found.kappa, abs=1e-6)


def test_at_all_samples_it_is_generalised_cross_validation() -> None:
    K, y, _ = gaussian(60, 0)
    inverse = np.linalg.inv(K + 0.4 * np.eye(60))
    found = predict_risk(K, y, 60, ridge=0.4, reference="sample")
    assert found.test_mse == pytest.approx(60 * np.sum((inverse @ y) ** 2) / np.trace(inverse) ** 2)
    assert "rests on the smallest" in found.notes[0]


def test_a_curve_of_a_sample_projects_targets_once(monkeypatch: pytest.MonkeyPatch) -> None:
    K, y, _ = gaussian(60, 0)
    sizes, calls, plain = [5, 10, 20], [], Mercer.coefficients
    expected = [predict_risk(K, y, n, reference="sample").test_mse for n in sizes]

    def counted(self: Mercer, targets: Tensor) -> Tensor:
        calls.append(1)
        return plain(self, targets)

    monkeypatch.setattr(Mercer, "coefficients", counted)
    assert predict_risk(K, y, sizes, reference="sample").test_mse.tolist() == expected
    few = len(calls)
    predict_risk(K, y, sizes * 4, reference="sample")
    assert len(calls) == 2 * few


def test_few_of_many_samples_are_the_same_either_way() -> None:
    K, y, _ = gaussian(500, 0)
    plain, corrected = (predict_risk(K, y, 1, ridge=0.2, noise=0.1, reference=r) for r in ("domain", "sample"))
    assert corrected.test_mse == pytest.approx(plain.test_mse, rel=0.01) and math.isnan(plain.stderr)
    assert corrected.kappa == pytest.approx(plain.kappa, rel=0.01)


def test_noise_in_the_targets_of_a_sample_counts_once() -> None:
    K, y, _ = gaussian(400, 1)
    noisy = y + 0.3**0.5 * np.random.default_rng(5).normal(size=400)
    given = predict_risk(K, y, 50, noise=0.3, reference="sample")
    seen = predict_risk(K, noisy, 50, reference="sample")
    assert abs(seen.test_mse - given.test_mse) < 2 * seen.stderr
    assert abs(predict_risk(K, noisy, 50).test_mse - given.test_mse) > 2 * seen.stderr


def test_fewer_modes_than_samples_leave_a_residual_with_its_degrees_of_freedom() -> None:
    x = normal(100, 3)
    y = x[:, 0] + x[:, 1] ** 2 - 1
    left = y - x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    level = float(left.square().sum()) / 97
    found = predict_risk(x @ x.T, y, 30, reference="sample")
    assert found.test_mse == pytest.approx(level * 30 / 27) and found.train_mse == pytest.approx(level * 27 / 30)
    assert found.kappa == 0 and found.learnabilities.tolist() == [1, 1, 1]
    nearly = predict_risk(x @ x.T, y, 30, ridge=1e-7, reference="sample")
    assert nearly.test_mse == pytest.approx(found.test_mse, rel=1e-5)
    assert nearly.stderr == pytest.approx(found.stderr, rel=1e-4)


def test_a_sample_of_blocks_that_are_one_kernel_per_output() -> None:
    x = normal(60, 3)
    k = torch.exp(-torch.cdist(x, x).square() / 4)
    y = torch.stack([x[:, 0], x[:, 1].sin()], 1)
    blocks = k[:, :, None, None] * torch.eye(2, dtype=torch.float64)
    one, two = (predict_risk(K, y, 12, ridge=0.05, noise=0.2, reference="sample") for K in (k, blocks))
    for name in ("test_mse", "train_mse", "kappa", "learnability", "overfitting", "stderr"):
        assert getattr(two, name) == pytest.approx(getattr(one, name)), name
    decomposed = predict_risk(mercer_decomposition(k), y, 12, ridge=0.05, noise=0.2, reference="sample")
    assert decomposed.test_mse == pytest.approx(one.test_mse)
    short = predict_risk(k, y, [4, 15], ridge=0.05, modes=14, reference="sample")
    whole = predict_risk(k, y, 4, ridge=0.05, reference="sample")
    assert short[0].test_mse == pytest.approx(whole.test_mse, rel=0.02)
    assert not short[0].notes and "ask for more modes" in short[1].notes[-1]


# ------------------------------------------------------------------------------ conservation


def cube(d: int = 5) -> Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=d)), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 12, 31])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_learnabilities_of_a_data_set_sum_to_its_size(n: int, activation: str) -> None:
    K = infinite_width_ntk(cube(), depth=2, activation=activation, bias_variance=0.1)
    places = torch.randperm(32, generator=torch.Generator().manual_seed(n))[:n]
    found = dataset_learnabilities(K, places)
    assert float(found.sum()) == pytest.approx(n, abs=1e-10)
    assert float(found.min()) > -1e-12 and float(found.max()) < 1 + 1e-12


def test_they_are_what_regressions_learn_of_every_mode() -> None:
    x = normal(25, 3)
    K = torch.exp(-torch.cdist(x, x).square() / 3)
    modes = mercer_decomposition(K).modes
    places = [3, 0, 14, 20, 7]
    for ridge in (0.0, 0.4):
        own = K[places][:, places] + ridge * torch.eye(5).double()
        fitted = K[:, places] @ torch.linalg.solve(own, modes[places])
        found = dataset_learnabilities(K, places, ridge=ridge)
        expected = [measured_learnability(f, g) for f, g in zip(modes.T, fitted.T, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        left = 5 - ridge * float(torch.linalg.inv(own).trace())  # n - δ tr (K + δ)⁻¹
        assert float(found.sum()) == pytest.approx(left, abs=1e-9)


def test_blocks_conserve_outputs_times_samples() -> None:
    J = normal(15, 2, 40)
    found = dataset_learnabilities(torch.einsum("iap,jbp->ijab", J, J), [0, 4, 9])
    assert len(found) == 30 and float(found.sum()) == pytest.approx(6, abs=1e-10)


def test_the_mean_over_data_sets_is_the_prediction() -> None:
    points = cube(8)
    K = infinite_width_ntk(points, depth=4, weight_variance=2.0, bias_variance=0.01)
    draw = torch.Generator().manual_seed(0)
    found = torch.stack([dataset_learnabilities(K, torch.randperm(256, generator=draw)[:50]) for _ in range(40)]).mean(
        0
    )
    predicted = predict_risk(K, points[:, 0], 50).learnabilities
    levels = np.cumsum([0, 1, 8, 28])
    for a, b in itertools.pairwise(levels):  # degenerate modes share
        assert float(found[a:b].mean()) == pytest.approx(predicted[a:b].mean(), abs=0.04)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda K, y: predict_risk(K, y, 11), "up to 10 training samples"),
        (lambda K, y: predict_risk(K, y, 0), "up to 10"),
        (lambda K, y: predict_risk(K, y, []), "empty"),
        (lambda K, y: predict_risk(K, y[:5], 3), "targets are of 5"),
        (lambda K, y: predict_risk(K, y * math.nan, 3), "NaN"),
        (lambda K, y: predict_risk(K, y[:, None, None], 3), "shape"),
        (lambda K, y: predict_risk(K, y, 3, ridge=-1.0), "ridge"),
        (lambda K, y: predict_risk(K, y, 3, noise=-1.0), "noise"),
        (lambda K, y: predict_risk(K[:5], y, 3), "square"),
        (lambda K, y: predict_risk(K + torch.triu(K), y, 3), "not symmetric"),
        (lambda K, y: predict_risk(-K, y, 3), "semi-definite"),
        (lambda K, y: predict_risk(0 * K, y, 3), "nothing to learn"),
        (lambda K, y: predict_risk(K, y, 10), "infinite"),
        (lambda K, y: predict_risk(mercer_decomposition(K), y, 3, modes=2), "leave it out"),
        (lambda K, y: predict_risk(K[:3, :3], y[:3]), "says nothing"),
        (lambda K, y: predict_risk(K, y, 3, reference="all"), "'domain'"),
        (lambda K, y: predict_risk(K, y, 11, reference="sample"), "up to 10 training samples"),
        (lambda K, y: predict_risk(K, y * math.nan, 3, reference="sample"), "NaN"),
        (lambda K, y: predict_risk(torch.outer(y, y), y, 1, reference="sample"), "infinite"),
        (lambda K, y: dataset_learnabilities(K, [1, 1]), "named twice"),
        (lambda K, y: dataset_learnabilities(K, [10]), "0 to 9"),
        (lambda K, y: dataset_learnabilities(K, []), "not empty"),
        (lambda K, y: dataset_learnabilities(K, [0.5]), "whole numbers"),
        (lambda K, y: dataset_learnabilities(torch.ones(10, 10), [0, 1]), "singular"),
        (lambda K, y: dataset_learnabilities(K, [0], ridge=-1.0), "ridge"),
        (lambda K, y: measured_learnability(y, y[:3]), "differ"),
        (lambda K, y: measured_learnability(0 * y, y), "zero everywhere"),
        (lambda K, y: measured_learnability(y, y * math.nan), "NaN"),
    ],
)
def test_what_makes_no_sense_is_said(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(torch.eye(10).double() + 1, torch.arange(10.0))


# ----------------------------------------------------------------------- rounding and extremes


def smooth(points: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(points, points).square() / 2)


def test_training_points_that_coincide_are_found_in_smooth_kernels_too() -> None:
    """Modes near the floor tell them apart, so that the leverages of all modes would sum to their number."""
    x = normal(60, 2)
    x[1] = x[0]
    K = smooth(x)
    assert float(dataset_learnabilities(K, [0, 2, 3, 4]).sum()) == pytest.approx(4, abs=1e-6)
    with pytest.raises(InputError, match="points coincide or nearly so"):
        dataset_learnabilities(K, [0, 1, 2, 3])
    assert 2.5 < float(dataset_learnabilities(K, [0, 1, 2, 3], ridge=1e-3).sum()) < 3
    x[1, 0] += 1e-5  # λ_min of 1e-10: distinct in float64
    near = smooth(x)
    assert float(dataset_learnabilities(near, [0, 1, 2, 3]).sum()) == pytest.approx(4, abs=1e-4)
    blocks = K[:, :, None, None] * torch.eye(2, dtype=torch.float64)
    with pytest.raises(InputError, match="points coincide or nearly so"):
        dataset_learnabilities(blocks, [0, 1, 2, 3])


@pytest.mark.parametrize("reference", ["domain", "sample"])
@pytest.mark.parametrize("size", [1e-160, 1e-80, 1e150, 1e160])
def test_the_unit_of_the_kernel_does_not_matter(size: float, reference: Any) -> None:
    K, y, _ = gaussian(40, 0)
    for kernel in (K, K + 0.3 * np.eye(40)):
        plain, scaled = (
            predict_risk(c * kernel, y, [5, 20], ridge=0.1 * c, noise=0.1, reference=reference) for c in (1.0, size)
        )
        for name in ("test_mse", "train_mse", "learnability", "overfitting", "stderr", "learnabilities"):
            np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(scaled.kappa, size * plain.kappa, rtol=1e-9)


@pytest.mark.parametrize("reference", ["domain", "sample"])
@pytest.mark.parametrize("rank", [40, 4])
def test_the_unit_of_the_targets_does_not_matter(rank: int, reference: Any) -> None:
    J, y = normal(40, rank), normal(40, seed=1)
    plain = predict_risk(J @ J.T, y, 20, reference=reference)
    for size in (1e-160, 1e-60, 1e60):
        found = predict_risk(J @ J.T, size * y, 20, reference=reference)
        assert found.learnability == pytest.approx(plain.learnability)
        if size > 1e-100:
            assert found.test_mse / size**2 == pytest.approx(plain.test_mse)
            assert found.rest / size**2 == pytest.approx(plain.rest, abs=1e-12)
            if reference == "sample":
                assert found.stderr / size**2 == pytest.approx(plain.stderr)
    f, guess = normal(9), normal(9, seed=2)
    for size in (1e-170, 1e170):
        assert measured_learnability(size * f, size * guess) == pytest.approx(measured_learnability(f, guess))


def test_one_reference_sample_shows_no_spread() -> None:
    one = predict_risk(torch.ones(1, 1).double(), torch.ones(1), 1, ridge=0.1, reference="sample")
    assert math.isnan(one.stderr) and one.test_mse > 0
    wide = torch.ones(1, 1, 2, 2).double()  # one mode, two equations
    assert math.isnan(predict_risk(wide, torch.ones(1, 2), 1, reference="sample").stderr)


def test_standard_errors_of_blocks_where_all_modes_are_learned() -> None:
    """As for one kernel per output: the error is summed over outputs, and so is its standard error."""
    J, y = normal(40, 3), normal(40, 2, seed=1)
    k = J @ J.T
    one, two = (
        predict_risk(K, y, 12, reference="sample") for K in (k, k[:, :, None, None] * torch.eye(2, dtype=torch.float64))
    )
    assert one.kappa == two.kappa == 0
    assert two.test_mse == pytest.approx(one.test_mse) and two.stderr == pytest.approx(one.stderr)


def test_arrays_keep_the_precision_of_their_dtype() -> None:
    """A kernel of rank 6 with the rounding of float32: what is above 1e-16 of it is no mode."""
    J = normal(40, 6)
    single = (J @ J.T).numpy().astype(np.float32)
    single = (single + single.T) / 2
    y = normal(40, seed=1)
    found = {
        kind: predict_risk(K, y, 20).learnabilities for kind, K in (("numpy", single), ("torch", torch.tensor(single)))
    }
    assert len(found["numpy"]) == len(found["torch"]) == 6
    assert predict_risk(np.eye(5, dtype=int), np.arange(5), 2, ridge=0.1).samples == 2


def test_arrays_of_any_layout_and_with_gradients() -> None:
    K, y = smooth(normal(20, 3)), normal(20, seed=1)
    plain = predict_risk(K, y, 5, ridge=0.1).test_mse
    turned = predict_risk(K.numpy()[::-1, ::-1], y.numpy()[::-1], 5, ridge=0.1).test_mse
    assert turned == pytest.approx(plain)
    learned = predict_risk(K.clone().requires_grad_(), y.clone().requires_grad_(), 5, ridge=0.1)
    assert learned.test_mse == pytest.approx(plain)
    assert dataset_learnabilities(K, np.array([3, 2, 1])[::-1]).shape == (20,)
    with pytest.raises(InputError, match="targets is an array of numbers"):
        predict_risk(K, ["a"] * 20, 5)


def tanh_net(outputs: int = 1) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 100), torch.nn.Tanh(), torch.nn.Linear(100, outputs))


def test_operators_are_asked_for_as_many_modes_as_the_samples_can_learn() -> None:
    net, x = tanh_net().double(), normal(200, 6)
    y = x[:, 0] * x[:, 1] + x[:, 2]
    operator, K = gk.operator(net, x), gk.kernel(net, x, cotangents=gk.total(), progress=False)
    for sizes, modes in (([10, 30], 200), ([4, 10], 20), ([2, 4], 16)):  # written out; 2 n O; the least
        found, exact = (predict_risk(kernel, y, sizes, ridge=0.1) for kernel in (operator, K))
        assert found.learnabilities.shape[1] == modes and not found.notes
        np.testing.assert_allclose(found.test_mse, exact.test_mse, rtol=0.03)
    two = predict_risk(gk.operator(tanh_net(2).double(), x), torch.stack([y, y], 1), 10, ridge=0.1)
    assert len(two.learnabilities) == 40


@pytest.mark.parametrize("outputs", [1, 2])
def test_what_modes_that_were_not_asked_for_can_change_is_said(outputs: int) -> None:
    net, x = tanh_net(outputs), normal(120, 6).float()
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)[:, :outputs].double()
    cotangents = gk.blocks() if outputs == 2 else gk.total()
    K = gk.kernel(net, x, cotangents=cotangents, progress=False)
    y = y if outputs == 2 else y[:, 0]
    said = 0
    for modes in (12 * outputs, 40 * outputs):
        for n in (4, 20, 40):
            short, whole = (predict_risk(K, y, n, ridge=0.1, modes=m) for m in (modes, None))
            notes = [note for note in short.notes if "modes show" in note]
            off = abs(short.test_mse / whole.test_mse - 1)
            assert notes or off < 0.1
            if notes:
                low, high = (float(part) for part in notes[0].split("is between ")[1].split(":")[0].split(" and "))
                assert low <= whole.test_mse * 1.01 and whole.test_mse <= high * 1.01 and low < 0.9 * high
                said += 1
            assert not any("modes show" in note for note in whole.notes)
    assert 0 < said < 6
    assert any("modes that were asked for" in n for n in predict_risk(K, y, 40, modes=12, reference="sample").notes)


def test_whole_numbers_are_values_and_that_is_said() -> None:
    K, labels = smooth(normal(20, 3)), torch.arange(20) % 3
    plain = predict_risk(K, labels.double(), 5, ridge=0.1)
    for given in (labels, labels.numpy(), labels.tolist(), labels[:, None]):
        found = predict_risk(K, given, 5, ridge=0.1)
        assert found.test_mse == pytest.approx(plain.test_mse)
        assert any("one-hot" in note for note in found.notes)
    onehot = torch.nn.functional.one_hot(labels)
    assert not plain.notes and not predict_risk(K, onehot, 5, ridge=0.1).notes
    for names in (["a"] * 20, np.array(["a", "b"] * 10), np.array(["a", "b"] * 10, dtype=object)):
        with pytest.raises(InputError, match="one-hot rows"):
            predict_risk(K, names, 5)


def test_errors_below_a_percent_are_no_zero_percent() -> None:
    modes = mercer_decomposition(torch.eye(10).double() + 1)
    for share, words in ((1e-4, "less than 1%"), (0.2, "up to 20%")):
        said = predict_risk(replace(modes, stderr=share * modes.values), torch.arange(10.0), 3, ridge=0.1).notes
        assert any(words in note for note in said) and not any("up to 0%" in note for note in said)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda K, y: predict_risk(K, y, "3"), "samples is an array of numbers"),
        (lambda K, y: predict_risk(K, y, [[3]]), "a list of several"),
        (lambda K, y: predict_risk(K, y, 3, ridge=np.array([1.0, 2.0])), "ridge is one number"),
        (lambda K, y: predict_risk(K, 3.0, 3), "not one number"),
        (lambda K, y: predict_risk(K + 0j, y, 3), "complex"),
        (lambda K, y: predict_risk(K, y + 0j, 3), "complex"),
        (lambda K, y: solve_kappa([1.0, 0.5], np.array([10, 20])), "samples is one number"),
        (lambda K, y: solve_kappa([1.0, 0.5], 1, ridge="a"), "ridge is one number"),
        (lambda K, y: solve_kappa(None, 1), "eigenvalues is an array"),
    ],
)
def test_numbers_are_numbers(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(torch.eye(10).double() + 1, torch.arange(10.0))


def test_learnability_is_measured_on_tensors_with_gradients_and_on_lists() -> None:
    f, g = normal(9), normal(9, seed=2)
    plain = measured_learnability(f.numpy(), g.numpy())
    assert measured_learnability(f.clone().requires_grad_(), g.clone().requires_grad_()) == plain
    assert measured_learnability(f.tolist(), g.tolist()) == plain
    lam = torch.tensor([1.0, 0.5]).requires_grad_()
    assert solve_kappa(lam, torch.tensor(1)) == solve_kappa([1.0, 0.5], 1)

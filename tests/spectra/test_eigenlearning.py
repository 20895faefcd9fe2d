"""Eigenlearning against simulated regressions, and its conservation law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genkernel.errors import InputError
from genkernel.spectra import expected_risk, learnabilities, solve_kappa

POWER = 1 / np.arange(1, 2001) ** 1.5


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
@pytest.mark.parametrize("samples", [3, 40, 400.5])
def test_learnabilities_and_the_ridge_sum_to_the_samples(samples: float, ridge: float) -> None:
    kappa = solve_kappa(POWER, samples, ridge)
    found = learnabilities(POWER, samples, ridge)
    assert found.sum() + ridge / kappa == pytest.approx(samples, abs=1e-8)
    assert (np.diff(found) < 0).all() and 0 < found[-1] < found[0] < 1


def test_everything_is_learned_where_samples_outnumber_modes() -> None:
    assert solve_kappa([3.0, 1.0, 0.0], 2) == 0 and learnabilities([3.0, 1.0, 0.0], 2).tolist() == [1, 1, 0]
    found = expected_risk([3.0, 1.0], [1.0, 2.0], 10, noise=0.5)
    assert (found.kappa, found.learnability) == (0, 1)
    assert found.test_mse == pytest.approx(0.5 * 10 / 8) and found.train_mse == pytest.approx(0.5 * 8 / 10)


def simulated(lam: Any, v: Any, n: int, ridge: float, noise: float, runs: int) -> dict[str, Any]:
    """Regressions on Gaussian eigenfunctions: errors and learned coefficients, means and standard errors."""
    draw = np.random.default_rng(0)
    errors, trained, learned = [], [], []
    for _ in range(runs):
        modes = draw.normal(size=(n, len(lam)))
        y = modes @ v + noise**0.5 * draw.normal(size=n)
        K = (modes * lam) @ modes.T
        alpha = np.linalg.solve(K + ridge * np.eye(n), y)
        w = lam * (modes.T @ alpha)
        errors.append(((w - v) ** 2).sum() + noise)
        trained.append(((K @ alpha - y) ** 2).mean())
        learned.append(w)
    learned = np.array(learned)
    return {
        "test": (np.mean(errors), np.std(errors) / runs**0.5), "train": np.mean(trained),
        "mean": learned.mean(0), "variance": learned.var(0),
    }  # fmt: skip


def test_predictions_are_those_of_regressions() -> None:
    lam = POWER[:300]
    v = np.random.default_rng(1).normal(size=300) / np.arange(1, 301)
    seen = simulated(lam, v, 40, 1e-2, 0.01, 300)
    found = expected_risk(lam, v, 40, ridge=1e-2, noise=0.01)
    mean, error = seen["test"]
    assert abs(found.test_mse - mean) < 0.02 * mean + 3 * error
    assert found.train_mse == pytest.approx(seen["train"], rel=0.05)
    np.testing.assert_allclose(found.mean[:5], seen["mean"][:5], atol=0.02)
    assert found.variance[:20].sum() == pytest.approx(seen["variance"][:20].sum(), rel=0.1)


def test_modes_that_are_not_listed_act_as_a_ridge() -> None:
    """The truncated spectrum with its missing trace, against the whole one."""
    v = np.zeros(2000)
    v[:3] = 1
    whole = expected_risk(POWER, v, 40)
    short = expected_risk(POWER[:400], v[:400], 40, missing_trace=float(POWER[400:].sum()))
    cut = expected_risk(POWER[:400], v[:400], 40)
    assert abs(short.kappa / whole.kappa - 1) < 0.02 < abs(cut.kappa / whole.kappa - 1)
    assert short.train_mse == 0


@pytest.mark.parametrize(
    ("values", "samples", "ridge", "words"),
    [
        ([1.0, -0.1], 1, 0, "is negative"),
        ([1.0, np.nan], 1, 0, "NaN"),
        ([0.0, 0.0], 1, 0, "nothing to learn"),
        ([1.0], 0, 0, "positive number"),
        ([1.0], 1, -1, "not negative"),
        ([[1.0]], 1, 0, "a list"),
    ],
)
def test_what_makes_no_sense_is_said(values: Any, samples: float, ridge: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_kappa(values, samples, ridge)


def test_the_threshold_itself_is_refused() -> None:
    with pytest.raises(InputError, match="infinite"):
        expected_risk([2.0, 1.0], [1.0, 1.0], 2, noise=0.1)
    with pytest.raises(InputError, match="per eigenvalue"):
        expected_risk([2.0, 1.0], [1.0], 1)


def test_coefficients_whose_squares_are_no_floats() -> None:
    plain = expected_risk([3.0, 1.0], [1.0, 2.0], 1)
    for size in (1e-170, 1e170):
        assert expected_risk([3.0, 1.0], [size, 2 * size], 1).learnability == pytest.approx(plain.learnability)
    assert expected_risk([3.0, 1.0], [1e60, 2e60], 1).test_mse == pytest.approx(1e120 * plain.test_mse)

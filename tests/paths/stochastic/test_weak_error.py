"""Orders of weak approximation, exactly and by Monte Carlo."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments.weak_error.experiment import regression
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.problems import Problem
from genkernel.paths.stochastic.sde import SGD, SGDM, Optimizer, RMSprop
from genkernel.paths.stochastic.weak_error import WeakError, fit_slope, weak_error

pytestmark = pytest.mark.usefixtures("one_thread")

ETAS = (0.1, 0.05, 0.025, 0.0125)


def exact(optimizer: Optimizer, model: str, seed: int = 0) -> WeakError:
    problem, theta0, query = regression(seed=seed)
    return weak_error(
        problem, theta0, optimizer, Readout(query), etas=ETAS, horizon=2.0, batch_size=2, model=model  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(("optimizer", "seed"), [(SGD(), 0), (SGD(), 3), (SGDM(2.0), 0)], ids=["sgd", "other", "sgdm"])
def test_the_equation_is_of_first_order(optimizer: Optimizer, seed: int) -> None:
    found = exact(optimizer, "sde", seed)
    assert 0.9 <= found.slope_mean.value <= 1.1
    assert (np.diff(found.mean) < 0).all()
    assert (np.diff(found.relative_variance) < 0).all()
    assert 0.85 <= found.slope_variance.value <= 1.15
    assert found.route == "exact moments" and found.runs is None and found.slope_mean.used.all()


def test_the_modified_drift_is_of_second_order() -> None:
    found = exact(SGD(), "modified")
    assert found.slope_mean.value >= 1.9
    assert (found.mean < exact(SGD(), "sde").mean).all()


def test_without_noise_the_means_have_order_one_and_no_variance() -> None:
    """Why a slope on means does not certify the diffusion term."""
    found = exact(SGD(), "flow")
    assert 0.9 <= found.slope_mean.value <= 1.2
    np.testing.assert_allclose(found.relative_variance, 1.0, atol=1e-12)


def test_monte_carlo_agrees_with_exact_moments() -> None:
    problem, theta0, query = regression()
    arguments: dict[str, Any] = {"etas": (0.2, 0.1), "horizon": 1.0, "batch_size": 2}
    truth = weak_error(problem, theta0, SGD(), Readout(query), **arguments)
    found = weak_error(problem, theta0, SGD(), Readout(query), runs=20_000, substeps=32, **arguments)
    assert found.route == "Monte Carlo" and found.runs == 20_000
    # Euler's own error takes up to 1/substeps of the error; a maximum over steps lies a little too high
    assert (np.abs(found.mean - truth.mean) <= 4.5 * found.mean_stderr + truth.mean / 16).all()
    slack = 4.5 * found.relative_variance_stderr + truth.relative_variance / 16
    assert (np.abs(found.relative_variance - truth.relative_variance) <= slack).all()


def test_any_problem_by_monte_carlo() -> None:
    problem = Problem(lambda t, s: (t[0] - s).cosh(), torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64), 1)
    found = weak_error(
        problem, torch.tensor([1.0]), RMSprop(1.0, v0=1.0), lambda theta: theta[:, 0].square(), etas=(0.2, 0.1),
        horizon=1.0, batch_size=1, runs=500,
    )  # fmt: skip
    assert found.optimizer == "RMSprop" and np.isfinite(found.mean).all() and (found.mean_stderr > 0).all()


def test_only_resolved_errors_make_a_slope() -> None:
    etas = np.array([0.4, 0.2, 0.1])
    line = fit_slope(etas, etas**2, np.array([1e-3, 1e-3, 0.01]))
    assert line.value == pytest.approx(2) and line.used.tolist() == [True, True, False]
    expected = math.hypot(1e-3 / 0.16, 1e-3 / 0.04) / math.log(2)
    assert line.stderr == pytest.approx(expected)
    assert math.isnan(fit_slope(etas, etas, etas).value)
    assert fit_slope(etas, 3 * etas).stderr == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"etas": (0.1,)}, "at least two different"),
        ({"etas": (0.1, 0.1)}, "at least two different"),
        ({"etas": (0.3, 0.15)}, "does not divide the horizon"),
        ({"etas": (-0.1, 0.1)}, "positive"),
        ({"model": "ode"}, "'sde', 'modified' or 'flow'"),
        ({"runs": 1}, "at least two"),
        ({"optimizer": RMSprop(1.0, v0=1.0)}, "not linear in its state"),
        ({"observable": lambda theta: theta[:, 0]}, "give runs="),
        ({"observable": lambda theta: theta, "runs": 2}, "one number per run"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    problem, theta0, query = regression()
    given: dict[str, Any] = {"optimizer": SGD(), "observable": Readout(query), "etas": (0.2, 0.1), "horizon": 1.0}
    given |= {"batch_size": 2, **change}
    with pytest.raises(InputError, match=message):
        weak_error(problem, theta0, given.pop("optimizer"), given.pop("observable"), **given)

"""Moment recursions against enumeration of all batch orders, and against each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from genkernel.errors import InputError, NonFiniteError
from genkernel.experiments.weak_error.experiment import regression
from genkernel.paths.stochastic.moments import Readout, exact_moments
from genkernel.paths.stochastic.problems import LinearRegression
from genkernel.paths.stochastic.sde import SGD, SGDM, Optimizer, RMSprop

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("optimizer", [SGD(), SGDM(2.0)], ids=["sgd", "sgdm"])
@pytest.mark.parametrize("power", [1, 2])
def test_against_every_order_of_batches(optimizer: Optimizer, power: int, replacement: bool) -> None:
    n, size, steps, eta = 4, 2, 3, 0.3
    problem, theta0, query = regression(samples=n, parameters=2)
    draws = itertools.product(range(n), repeat=size) if replacement else itertools.combinations(range(n), size)
    orders = torch.tensor(list(itertools.product(list(draws), repeat=steps)))  # [orders, steps, B]
    theta, m = theta0.expand(len(orders), 2), torch.zeros(len(orders), 2, dtype=torch.float64)
    rate = optimizer.mu if isinstance(optimizer, SGDM) else 1 / eta
    for k in range(steps):
        m = (1 - rate * eta) * m + rate * eta * problem.gradient(theta, index=orders[:, k])
        theta = theta - eta * m
    seen = ((theta @ query) ** power).numpy()
    found = exact_moments(
        problem, theta0, optimizer, Readout(query, power), eta=eta, steps=steps, batch_size=size,
        replacement=replacement,
    )  # fmt: skip
    assert found.variance is not None
    assert found.mean[-1] == pytest.approx(seen.mean(), abs=1e-13)
    assert found.variance[-1] == pytest.approx(seen.var(), abs=1e-13)
    assert found.variance[0] == pytest.approx(0, abs=1e-13)
    alone = exact_moments(
        problem, theta0, optimizer, Readout(query, power), eta=eta, steps=steps, batch_size=size,
        replacement=replacement, variance=False,
    )  # fmt: skip
    assert alone.variance is None
    np.testing.assert_allclose(alone.mean, found.mean, rtol=0, atol=1e-13)


def test_full_batches_are_gradient_descent() -> None:
    problem, theta0, query = regression()
    found = exact_moments(problem, theta0, SGD(), Readout(query), eta=0.2, steps=10, batch_size=6)
    theta = theta0[None]
    for _ in range(10):
        theta = theta - 0.2 * problem.gradient(theta)
    assert found.mean[-1] == pytest.approx(float((theta[0] @ query) ** 2), abs=1e-13)
    assert found.variance is not None and found.variance.max() < 1e-12


def test_flow_has_no_variance_and_the_exponentials_mean() -> None:
    problem, theta0, query = regression()
    found = exact_moments(problem, theta0, SGD(), Readout(query), eta=0.2, steps=10, batch_size=2, process="flow")
    best = torch.linalg.lstsq(problem.x, problem.y).solution
    theta = best + torch.linalg.matrix_exp(-2.0 * problem.x.T @ problem.x / 6) @ (theta0 - best)
    assert found.mean[-1] == pytest.approx(float((theta @ query) ** 2), abs=1e-12)
    assert found.variance is not None and found.variance.max() < 1e-12


def test_the_equation_in_one_dimension() -> None:
    """dΘ = −Θ dt + √η s Θ dW with samples x² = 1 ± s: E Θ² = Θ_0² e^{(−2 + η s²) t}."""
    x = torch.tensor([[1.25], [0.75]], dtype=torch.float64).sqrt()
    problem = LinearRegression(x, torch.zeros(2, dtype=torch.float64))
    eta, steps, query = 0.1, 20, torch.ones(1, dtype=torch.float64)
    found = exact_moments(problem, 2 * query, SGD(), Readout(query), eta=eta, steps=steps, batch_size=1, process="sde")
    # batches of one out of two: Σ = Θ²/16
    np.testing.assert_allclose(found.mean, 4 * np.exp((-2 + eta / 16) * found.times), rtol=1e-12)
    fourth = 16 * np.exp((-4 + 6 * eta / 16) * found.times)
    assert found.variance is not None
    np.testing.assert_allclose(found.variance, fourth - found.mean**2, rtol=1e-9, atol=1e-12)


def test_refusals() -> None:
    problem, theta0, query = regression()
    arguments = {"eta": 0.1, "steps": 2, "batch_size": 2}
    for change, message in (
        ({"optimizer": RMSprop(1.0)}, "not linear in its state"),
        ({"process": "ode"}, "'discrete', 'sde', 'modified' or 'flow'"),
        ({"optimizer": SGDM(1.0), "process": "modified"}, "modified drift is that of SGD"),
        ({"optimizer": SGDM(20.0)}, "at most 1"),
        ({"theta0": theta0[:2]}, "vectors of the problem's 3 parameters"),
        ({"batch_size": 0}, "at least one sample"),
        ({"steps": 0}, "at least one step"),
    ):
        given = {"theta0": theta0, "optimizer": SGD(), **arguments, **change}
        with pytest.raises(InputError, match=message):
            exact_moments(problem, given.pop("theta0"), given.pop("optimizer"), Readout(query), **given)
    with pytest.raises(InputError, match="power 1"):
        Readout(query, 3)
    with pytest.raises(InputError, match="a vector"):
        Readout(query[None])


def test_too_many_moments_or_batches_have_a_way_out() -> None:
    problem, theta0, query = regression(samples=30, parameters=12)
    with pytest.raises(InputError, match="pass variance=False"):
        exact_moments(problem, theta0, SGD(), Readout(query), eta=0.1, steps=2, batch_size=2)
    means = exact_moments(problem, theta0, SGD(), Readout(query), eta=0.1, steps=2, batch_size=2, variance=False)
    assert means.variance is None
    problem, theta0, query = regression(samples=30, parameters=2)
    with pytest.raises(InputError, match="142506 distinct batches"):
        exact_moments(problem, theta0, SGD(), Readout(query), eta=0.1, steps=2, batch_size=5)
    with pytest.raises(NonFiniteError, match="smaller eta"):
        exact_moments(problem, theta0, SGD(), Readout(query), eta=1e30, steps=20, batch_size=2)

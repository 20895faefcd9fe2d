"""Optimizers and their equations on many runs: against torch.optim, exact solutions and exact moments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.experiments.weak_error.experiment import regression
from genkernel.paths.stochastic.iid_batches import IIDBatchSampler
from genkernel.paths.stochastic.moments import Readout, exact_moments
from genkernel.paths.stochastic.problems import LinearRegression, Problem, model_problem
from genkernel.paths.stochastic.sde import SGD, SGDM, Adam, Optimizer, RMSprop, simulate_discrete, simulate_sde

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def points(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, x.prod(1, keepdim=True)


def loss(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (module(x) - y).square().mean(1)


ETA = 0.05
TORCH = {
    "sgd": (SGD(), lambda p: torch.optim.SGD(p, lr=ETA)),
    "rmsprop": (RMSprop(rho=2.0, eps=1e-3), lambda p: torch.optim.RMSprop(p, lr=ETA, alpha=1 - 2 * ETA, eps=1e-3)),
    "adam": (
        Adam(rho1=4.0, rho2=1.0, eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=ETA, betas=(1 - 4 * ETA, 1 - ETA), eps=1e-3),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_the_iteration_is_torchs(name: str) -> None:
    optimizer, make = TORCH[name]
    module, (x, y) = network(), points()
    problem, theta0 = model_problem(module, loss, (x, y))
    ours = simulate_discrete(problem, theta0, optimizer, eta=ETA, steps=20, batch_size=3, seeds=[9, 4])
    sampler, theirs = IIDBatchSampler(12, 3, steps=20, seed=4), make(module.parameters())
    for batch in sampler:
        theirs.zero_grad()
        loss(module, (x[batch], y[batch])).mean().backward()
        theirs.step()
    trained = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    torch.testing.assert_close(ours.final[1], trained, rtol=0, atol=1e-14)


def test_momentum_is_an_exponential_average() -> None:
    problem, theta0, _ = regression()
    mu, steps = 3.0, 15
    ours = simulate_discrete(problem, theta0, SGDM(mu), eta=ETA, steps=steps, batch_size=6, seeds=[0])
    theta, m = theta0.clone()[None], torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(steps):
        m = (1 - mu * ETA) * m + mu * ETA * problem.gradient(theta)
        theta = theta - ETA * m
    torch.testing.assert_close(ours.final, theta, rtol=0, atol=1e-14)


def test_closed_form_and_functional_regression_agree() -> None:
    closed, theta0, _ = regression()
    generic = Problem(lambda t, pair: 0.5 * (pair[0] @ t - pair[1]).square(), (closed.x, closed.y), 3)
    theta = theta0 + torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    index = torch.tensor([[0, 1], [3, 3], [5, 2], [4, 0]])
    for one, other in (
        (closed.loss(theta), generic.loss(theta)),
        (closed.gradient(theta), generic.gradient(theta)),
        (closed.gradient(theta, weights=weights), generic.gradient(theta, weights=weights)),
        (closed.gradient(theta, index=index), generic.gradient(theta, index=index)),
        (closed.hessian_product(theta, weights[:, :3]), generic.hessian_product(theta, weights[:, :3])),
        (torch.stack(closed.gradient_scatter(theta)), torch.stack(generic.gradient_scatter(theta))),
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_gradient_flow_is_the_exponential() -> None:
    problem, theta0, _ = regression()
    hessian, best = problem.x.T @ problem.x / 6, torch.linalg.lstsq(problem.x, problem.y).solution
    exact = best + torch.linalg.matrix_exp(-2.0 * hessian) @ (theta0 - best)
    errors = []
    for substeps in (8, 16):
        flow = simulate_sde(
            problem, theta0, SGD(), eta=0.1, steps=20, batch_size=2, runs=1, noise=False, substeps=substeps
        )
        errors.append(float((flow.final[0] - exact).norm()))
    assert errors[0] < 0.02 and errors[0] / errors[1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("optimizer", "drift"),
    [(SGD(), "first"), (SGD(), "modified"), (SGDM(2.0), "first")],
    ids=["sgd", "modified", "sgdm"],
)
def test_euler_maruyama_against_exact_moments(optimizer: Optimizer, drift: str) -> None:
    problem, theta0, query = regression()
    readout, eta, steps = Readout(query), 0.1, 10
    exact = exact_moments(
        problem, theta0, optimizer, readout, eta=eta, steps=steps, batch_size=2,
        process="modified" if drift == "modified" else "sde",
    )  # fmt: skip
    found = simulate_sde(
        problem, theta0, optimizer, eta=eta, steps=steps, batch_size=2, runs=10_000, observe=readout,
        drift=drift, substeps=32,  # type: ignore[arg-type]
    )  # fmt: skip
    assert exact.variance is not None
    # the scheme's own error is a 1/substeps of what the iteration differs by
    assert (np.abs(found.mean - exact.mean) <= 4.5 * found.mean_stderr + 8e-3 * np.abs(exact.mean).max()).all()
    assert (np.abs(found.variance - exact.variance) <= 4.5 * found.variance_stderr + 0.02 * exact.variance.max()).all()


def test_the_iteration_against_exact_moments() -> None:
    problem, theta0, query = regression()
    for replacement in (False, True):
        exact = exact_moments(
            problem, theta0, SGD(), Readout(query), eta=0.2, steps=8, batch_size=2, replacement=replacement
        )
        found = simulate_discrete(
            problem, theta0, SGD(), eta=0.2, steps=8, batch_size=2, seeds=range(50_000), observe=Readout(query),
            replacement=replacement,
        )  # fmt: skip
        assert exact.variance is not None
        assert (np.abs(found.mean - exact.mean) <= 4.5 * found.mean_stderr + 1e-12).all()
        assert (np.abs(found.variance - exact.variance) <= 4.5 * found.variance_stderr + 1e-12).all()


def test_second_moments_settle_at_the_mean_square_gradient() -> None:
    """With one parameter whose gradient does not depend on θ, V → ∇L² + Σ, and Θ drifts at ∇L/√V."""
    slopes = torch.tensor([1.0, 3.0], dtype=torch.float64)
    problem = Problem(lambda t, s: s * t[0], slopes, 1)
    steps, eta = 200, 0.05
    end = 2.0 / math.sqrt(2.0**2 + 1.0)  # batches of one: variance 1
    for optimizer in (RMSprop(1.0, v0=1.0), Adam(2.0, 1.0), Adam(2.0, 1.0, v0=5.0, bias_correction=False)):
        found = simulate_sde(
            problem, torch.zeros(1), optimizer, eta=eta, steps=steps, batch_size=1, substeps=2, runs=200, at=(120, 200)
        )
        speed = (found.mean[0, 0] - found.mean[1, 0]) / (80 * eta)
        assert speed == pytest.approx(end, rel=0.05), optimizer


@pytest.mark.parametrize(
    "optimizer",
    [RMSprop(1.0, v0=5.0), Adam(2.0, 1.0), Adam(2.0, 1.0, v0=5.0, bias_correction=False)],
    ids=["rmsprop", "adam", "uncorrected"],
)
def test_noise_spreads_the_weights_of_adaptive_equations(optimizer: RMSprop | Adam) -> None:
    """The same gradients with V settled at v = ∇L² + Σ from the start, so that Θ is Gaussian and its variance known.

    RMSprop: Var Θ = η t Σ/v. Adam: a kick at time u moves Θ by ∫_u^t ρ₁ e^{−ρ₁(s−u)}/ι₁(s) ds in the place of 1.
    """
    slopes = torch.tensor([1.0, 3.0], dtype=torch.float64)
    problem = Problem(lambda t, s: s * t[0], slopes, 1)
    eta, steps, settled, noise = 0.05, 40, 5.0, 1.0
    found = simulate_sde(
        problem, torch.zeros(1), optimizer, eta=eta, steps=steps, batch_size=1, substeps=8, runs=6_000, at=(steps,)
    )
    count = 2000
    ds = eta * steps / count
    s = (np.arange(count) + 0.5) * ds
    reach = np.ones(count)
    if isinstance(optimizer, Adam):
        iota = 1 - np.exp(-optimizer.rho1 * s) if optimizer.bias_correction else np.ones(count)
        later = np.cumsum((np.exp(-optimizer.rho1 * s) / iota)[::-1])[::-1]
        reach = optimizer.rho1 * np.exp(optimizer.rho1 * s) * later * ds
    expected = eta * noise / settled * float(np.sum(reach**2) * ds)
    # the standard error is 1.8 %
    assert found.variance[0, 0] == pytest.approx(expected, rel=0.08)


def test_runs_do_not_depend_on_each_other() -> None:
    problem, theta0, _ = regression()
    many = simulate_discrete(problem, theta0, SGD(), eta=0.1, steps=5, batch_size=2, seeds=range(7))
    alone = simulate_discrete(problem, theta0, SGD(), eta=0.1, steps=5, batch_size=2, seeds=[6])
    torch.testing.assert_close(alone.final[0], many.final[6], rtol=0, atol=1e-15)


def test_statistics_are_those_of_the_kept_values() -> None:
    problem, theta0, query = regression()
    found = simulate_discrete(
        problem, theta0, SGD(), eta=0.1, steps=6, batch_size=2, seeds=range(20_000), observe=Readout(query), at=(0, 6),
        keep=True,
    )  # fmt: skip
    assert found.values is not None and found.values.shape == (2, 20_000)
    np.testing.assert_allclose(found.mean, found.values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.variance, found.values.var(1, ddof=1), rtol=1e-10, atol=1e-28)
    half = [found.values[1, k::100].var(ddof=1) for k in range(100)]  # 100 samples of 200 runs
    assert np.std(half) / 10 == pytest.approx(found.variance_stderr[1], rel=0.3)
    np.testing.assert_allclose(found.times, [0, 0.6])


def test_seeds_decide_and_global_generators_do_not_move() -> None:
    module = network().train()
    problem, theta0 = model_problem(module, loss, points())
    before, weights = torch.get_rng_state(), theta0.clone()
    arguments: dict[str, Any] = {"eta": 0.1, "steps": 3, "batch_size": 3, "runs": 4}
    one = simulate_sde(problem, theta0, Adam(2.0, 1.0), seed=1, **arguments)
    again = simulate_sde(problem, theta0, Adam(2.0, 1.0), seed=1, **arguments)
    other = simulate_sde(problem, theta0, Adam(2.0, 1.0), seed=2, **arguments)
    assert torch.equal(one.final, again.final) and not torch.equal(one.final, other.final)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(theta0, weights)
    assert module.training and all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in module.parameters()]), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": -0.1}, "positive"),
        ({"steps": 0}, "at least one step"),
        ({"runs": 0}, "at least one run"),
        ({"optimizer": SGDM(20.0)}, "choose rates between 0 and 1/eta = 10"),
        ({"optimizer": RMSprop(1.0)}, "give v0"),
        ({"optimizer": Adam(1.0, 1.0, v0=1.0)}, "bias correction"),
        ({"optimizer": SGDM(1.0), "drift": "modified"}, "modified drift is that of SGD"),
        ({"drift": "second"}, "'first' or 'modified'"),
        ({"substeps": 0}, "at least one Euler step"),
        ({"batch_size": 9}, "at most 6"),
        ({"theta0": torch.zeros(2)}, "the problem has 3 parameters"),
        ({"at": (0, 9)}, "between 0 and steps=2"),
        ({"observe": lambda theta: theta.sum()}, "first axis has to be the runs"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    problem, theta0, _ = regression()
    given: dict[str, Any] = {"theta0": theta0, "optimizer": SGD(), "eta": 0.1, "steps": 2, "batch_size": 2, "runs": 3}
    given |= change
    with pytest.raises(InputError, match=message):
        simulate_sde(problem, given.pop("theta0"), given.pop("optimizer"), **given)


def test_divergence_and_bad_problems_are_named() -> None:
    problem, theta0, _ = regression()
    with pytest.raises(NonFiniteError, match="take a smaller eta"):
        simulate_discrete(problem, theta0, SGD(), eta=1e9, steps=60, batch_size=2, seeds=[0])
    with pytest.raises(InputError, match=r"inputs \[n, P\] and targets \[n\]"):
        LinearRegression(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(InputError, match="at least one"):
        Problem(lambda t, x: x, torch.zeros(3), 0)

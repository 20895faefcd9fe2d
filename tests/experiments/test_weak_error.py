"""The study of weak errors: its parts on small cases, and all of it where time does not matter."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments.registry import experiment
from genkernel.experiments.weak_error import experiment as study
from genkernel.experiments.weak_error.adam_remainder import Remainder, remainder
from genkernel.experiments.weak_error.batch_sizes import QUANTITIES, Sweep
from genkernel.experiments.weak_error.nonsmooth import LOSSES, Walk, walk
from genkernel.experiments.weak_error.second_moments import VarianceError, _State, variance_error
from genkernel.paths.stochastic.iid_batches import batch_indices
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.sde import SGD, Adam, RMSprop, simulate_discrete
from genkernel.paths.stochastic.weak_error import Slope, WeakError, fit_slope, weak_error
from genkernel.plots import stochastic
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_is_in_the_registry() -> None:
    assert experiment("weak-error") is study.run


@pytest.mark.parametrize("zeta", [0.0, 0.3, 0.6, 0.9])
def test_adams_remainder_is_of_first_order(zeta: float) -> None:
    etas = [0.1, 0.05, 0.025, 0.0125]
    found = [remainder(eta, zeta) for eta in etas]
    slope = fit_slope(etas, np.array([one.equation for one in found])).value
    assert slope == pytest.approx(1, abs=1e-3 if zeta == 0 else 0.15)
    assert all(one.equation <= one.limit for one in found)
    assert fit_slope(etas, np.array([one.iteration for one in found])).value == pytest.approx(1, abs=0.15)


def test_adams_remainder_approaches_the_term_that_is_left_out() -> None:
    one = remainder(0.002, 0.95)
    assert one.limit == pytest.approx(0.004) and one.equation == pytest.approx(one.limit, rel=0.01)
    with pytest.raises(InputError, match=r"lies in \[0, 1\)"):
        remainder(0.1, 1.0)
    with pytest.raises(InputError, match="divides the horizon"):
        remainder(0.3, 0.5)


def test_kinks_of_the_network_cost_an_order_and_kinks_of_the_loss_do_not() -> None:
    etas, seeds = (0.1, 0.025), range(4)
    gaps = {
        (activation, loss): np.array(
            [walk(activation, 1, loss, eta=eta, horizon=3.0, seeds=seeds).relative_gap for eta in etas]
        )
        for activation, loss in (("tanh", "squared"), ("tanh", "absolute"), ("ReLU", "squared"))
    }
    slopes = {case: fit_slope(etas, values).value for case, values in gaps.items()}
    assert slopes["tanh", "squared"] == pytest.approx(2, abs=0.2)
    assert slopes["tanh", "absolute"] > 1.6
    assert slopes["ReLU", "squared"] < 1.6
    assert gaps["ReLU", "squared"][1] > 30 * gaps["tanh", "squared"][1]


def test_one_hidden_layer_of_relus_is_exact_where_no_unit_changes_sign() -> None:
    """There f is quadratic in the weights, and the trapezoid rule is exact."""
    found = walk("ReLU", 1, "squared", eta=0.05, horizon=3.0, seeds=(0, 1))
    assert found.gaps.shape == found.crossings.shape == (60, 2, 48)
    assert np.abs(found.gaps[found.crossings == 0]).max() < 1e-14
    assert (found.crossings > 0).any() and found.crossed_share > 1 - 1e-9
    with pytest.raises(InputError, match="tanh, softplus, ReLU"):
        walk("GELU", 1, "squared", eta=0.1, horizon=1.0, seeds=(0,))


def test_second_moments_need_noise_of_their_own() -> None:
    """The deterministic dV of the theorems misses part of the leading variance; noise in V makes up for it."""
    problem, theta0, query = study.regression()
    given: dict[str, Any] = {"eta": 0.025, "horizon": 2.0, "batch_size": 2, "runs": 4_000}
    found = variance_error(problem, theta0, RMSprop(1.0, eps=1e-2, v0=1.0), Readout(query), **given)
    assert found.without > 0.15 and found.with_noise < found.without - 1.5 * found.stderr
    assert found.held == 0
    given["eta"] = 0.05
    late = variance_error(problem, theta0, Adam(2.0, 1.0, eps=1e-2), Readout(query), begin=0.5, **given)
    assert late.without > 0.15 and late.with_noise < late.without - 2 * late.stderr
    with pytest.raises(InputError, match=r"begin=2 lies in \[0, 2\)"):
        variance_error(problem, theta0, RMSprop(1.0, v0=1.0), Readout(query), begin=2.0, **given)


@pytest.mark.parametrize(
    "optimizer",
    [RMSprop(1.0, eps=1e-2, v0=1.0), Adam(2.0, 1.0, eps=1e-2), Adam(2.0, 1.0, v0=1.0, bias_correction=False)],
    ids=["rmsprop", "adam", "uncorrected"],
)
def test_what_is_handed_over_is_the_iteration(optimizer: RMSprop | Adam) -> None:
    problem, theta0, _ = study.regression()
    eta, steps, seeds = 0.1, 7, np.arange(4)
    state = _State(optimizer, theta0.expand(4, -1), 0.0)
    for k in range(steps):
        index = torch.from_numpy(batch_indices(seeds, k, population=6, batch_size=2))
        g = problem.gradient(state.theta, index=index)
        state.move(eta, eta * g, eta * (g.square() - state.v), (k + 1) * eta, iterated=True)
    found = simulate_discrete(problem, theta0, optimizer, eta=eta, steps=steps, batch_size=2, seeds=seeds)
    torch.testing.assert_close(state.theta, found.final, rtol=1e-12, atol=1e-13)


def test_losses_and_their_slopes_are_what_their_names_say() -> None:
    e = torch.tensor([-1.0, -0.1001, -0.0999, 0.0, 0.05, 0.0999, 0.1001, 2.0], dtype=torch.float64).requires_grad_()
    huber = torch.nn.functional.huber_loss(e, torch.zeros_like(e), delta=0.1, reduction="none")
    for name, value, derivative in (
        ("squared", e.square() / 2, e), ("Huber", huber, e.clamp(-0.1, 0.1)), ("absolute", e.abs(), e.sign()),
    ):  # fmt: skip
        found = LOSSES[name](e)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-15)
        slopes = torch.autograd.grad(found.sum(), e)[0]
        torch.testing.assert_close(slopes, derivative.detach(), rtol=1e-12, atol=1e-15)


# ------------------------------------------------------------- verdicts, on data of either sort

ETAS = (0.2, 0.1, 0.05)


def errors(mean: Any, variance: Any, stderr: float = 0.0) -> WeakError:
    """Weak errors as they could have been measured, with standard errors relative to them."""
    e, m, v = np.array(ETAS), np.array(mean), np.array(variance)
    return WeakError(
        "SGD", "sde", "Monte Carlo" if stderr else "exact moments", e, m, stderr * m, v, stderr * v, v, stderr * v,
        fit_slope(e, m, stderr * m), fit_slope(e, v, stderr * v), 2.0, 100 if stderr else None,
    )  # fmt: skip


def test_whether_a_slope_on_means_certifies_the_diffusion() -> None:
    eta, all_of_it = np.array(ETAS), [1.0, 1.0, 1.0]
    sde = [errors(eta, 0.1 * eta)]
    assert study._diffusion_claim([errors(eta, all_of_it)], sde).holds == "no"
    assert study._diffusion_claim([errors(eta**0.5, all_of_it)], sde).holds == "yes"
    assert study._diffusion_claim([errors(eta, 0.1 * eta)], sde).holds == "undecided"


def test_growth_is_that_of_a_logarithm() -> None:
    eta = np.array(ETAS)
    found = study.growth(eta, 3 * eta - 0.4 * eta * np.log2(eta), 0.1 * eta)
    np.testing.assert_allclose(found.ratios, 3 - 0.4 * np.log2(eta))
    assert found.value == pytest.approx(0.4) and found.stderr == pytest.approx(0.1 / math.sqrt(2))
    assert study.growth(eta, 3 * eta, 0.1 * eta).value == pytest.approx(0, abs=1e-12)


def test_the_order_of_adaptive_means() -> None:
    eta = np.array(ETAS)
    first, half = errors(eta, eta, 0.01), errors(eta**0.5, eta, 0.01)
    unresolved = replace(first, slope_mean=Slope(math.nan, math.nan, np.zeros(3, dtype=bool)))
    for adaptive, holds in (
        ({"a": first, "b": first}, "yes"), ({"a": first, "b": half}, "partly"), ({"a": half}, "no"),
        ({"a": first, "b": unresolved}, "partly"), ({"b": unresolved}, "undecided"),
    ):  # fmt: skip
        claim = study._means_claim(adaptive, first)
        assert claim.holds == holds
        assert ("these η do not tell" in claim.measured) == any(one is half for one in adaptive.values())


def test_what_is_left_of_the_variance_with_noise_of_second_moments() -> None:
    one = VarianceError(0.25, 0.07, 0.01, 0.0)
    for last, words in (
        (replace(one, with_noise=0.068), "that the rest falls is not shown"),
        (replace(one, with_noise=0.03), "the rest falls"),
        (replace(one, with_noise=0.015), "nothing resolved is left"),
    ):
        assert study._repaired((0.025, 0.0125), [one, last]).endswith(f"({words})")
    assert "whether the rest falls is open" in study._repaired((0.025,), [one])


def test_whether_adams_remainder_outgrows_its_order() -> None:
    etas = [0.1, 0.05, 0.025, 0.0125]

    def claim(of: Any) -> str:
        found = [Remainder(float(of(eta)), float(of(eta)), 2 * eta) for eta in etas]
        cases = [(False, 0.5), (True, 0.5)]
        order = fit_slope(etas, np.array([one.equation for one in found])).value
        return study._remainder_claim(etas, dict.fromkeys(cases, found), dict.fromkeys(cases, order)).holds

    assert claim(lambda eta: eta) == "no"
    assert claim(lambda eta: 2 * eta - eta**1.2) == "no"  # a slope below 1 that ends at the bound
    assert claim(lambda eta: 2.6 * eta) == "no"
    assert claim(lambda eta: 3 * eta**0.5) == "yes"
    assert claim(lambda eta: 2.6 * eta**0.95) == "undecided"  # above the bound, and hardly growing


def swept(kernel: float, predictions: float) -> Sweep:
    one = np.ones((2, 3))
    return Sweep(
        sizes=(4, 1),
        distances={"weights": one, "kernel": kernel * one, "predictions": predictions * one},
        other_starts={name: np.ones(2) for name in QUANTITIES},
        alignment=one, other_alignment=np.ones(2), initial_alignment=0.5, losses=one, full_loss=1.0,
        samples=8, parameters=9, steps=10, eta=0.1,
    )  # fmt: skip


def test_whether_noise_leaves_the_mechanism() -> None:
    answers = {case: study._mechanism_claim(swept(*case)) for case in ((0.1, 0.1), (1.0, 0.5), (0.1, 2.0), (1.0, 3.0))}
    assert [claim.holds for claim in answers.values()] == ["yes", "partly", "partly", "no"]
    assert ["both move alike" in claim.measured for claim in answers.values()] == [False, True, False, True]
    assert "3.0 times as far" in answers[1.0, 3.0].measured


def test_whether_kinks_of_the_network_are_the_reason() -> None:
    def walked(share: float) -> Walk:
        """One step of a hundred has a sign change, and this share of the gap."""
        gaps, crossings = np.full((100, 1, 1), (1 - share) / 99), np.zeros((100, 1, 1), dtype=np.int64)
        gaps[0], crossings[0] = share, 1
        return Walk(gaps, crossings, np.ones(1))

    def claims(order: dict[str, float], share: float) -> list[str]:
        losses = ("squared", "Huber", "absolute")
        every = {(a, h, loss): [walked(1.0 if h == 1 else share)] for a in order for h in (1, 2) for loss in losses}
        slopes = {case: order[case[0]] for case in every}
        return [study._sign_change_claim(every, slopes).holds, study._loss_claim(every, slopes, 0.1).holds]

    assert claims({"tanh": 2.0, "ReLU": 1.0}, 0.99) == ["yes", "yes"]
    assert claims({"tanh": 2.0, "ReLU": 1.0}, 0.5) == ["partly", "yes"]  # one hidden layer says nothing
    assert claims({"tanh": 2.0, "ReLU": 2.0}, 0.5) == ["no", "partly"]
    assert claims({"tanh": 1.0, "ReLU": 2.0}, 0.5) == ["no", "no"]


# ------------------------------------------------------------------------------- figures, and all of it


def test_the_bound_of_a_figure_is_the_one_that_was_computed() -> None:
    etas = np.array([0.1, 0.05])
    axes = stochastic.remainder_orders(etas, {0.0: etas}, 3 * etas, {0.0: 1.23}, {}).axes[0]
    assert any(np.allclose(np.asarray(line.get_ydata()), 3.0) for line in axes.lines)
    assert axes.get_ylim()[1] > 3 and "slope 1.23" in " ".join(text.get_text() for text in axes.texts)


def test_figures_are_drawn() -> None:
    problem, theta0, query = study.regression(0)
    orders = [
        weak_error(
            problem, theta0, SGD(), Readout(query), etas=(0.2, 0.1), horizon=1.0, batch_size=2, model=model  # type: ignore[arg-type]
        )
        for model in ("sde", "flow")
    ]  # fmt: skip
    etas, sizes = np.array([0.1, 0.05]), (4, 1)
    generator = np.random.default_rng(0)
    far = {name: generator.uniform(0.1, 1, (2, 3)) for name in QUANTITIES}
    steps = {"ReLU": (generator.integers(0, 2, (20, 2, 5)), generator.normal(size=(20, 2, 5)))}
    for figure in (
        stochastic.weak_errors(orders, {"seed": 0}),
        stochastic.remainder_orders(etas, {0.0: etas}, 3 * etas, {0.0: 1.0}, {}),
        stochastic.batch_size_distances(sizes, far, {name: v[0] for name, v in far.items()}, {"seed": 0}),
        stochastic.kink_gaps(
            etas,
            {"ReLU, squared": etas, "tanh, absolute": etas**2},
            {"ReLU, squared": 1.0, "tanh, absolute": 2.0},
            steps,
            {},
        ),
    ):
        assert to_bytes(figure, "png")[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_whole_study() -> None:
    found = study.run(quick=True, progress=False)
    holds = {claim.claim: claim.holds for claim in found.claims}
    assert len(holds) == 9
    assert [v for k, v in holds.items() if k.startswith(("The equation of SGD,", "With the drift"))] == ["yes", "yes"]
    assert [v for k, v in holds.items() if k.startswith("A first-order slope on means")] == ["no"]
    assert set(found.figures) == {"weak_error", "adam_remainder", "batch_size", "kinks"}
    assert len(found.tables) == 5 and "adam-remainder" in found.markdown()
    json.dumps(found.numbers, allow_nan=True)

"""The study of weak errors: its parts on small cases, and all of it where time does not matter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genkernel.errors import InputError
from genkernel.experiments import weak_error as study
from genkernel.experiments.adam_remainder import remainder
from genkernel.experiments.batch_size_sweep import QUANTITIES
from genkernel.experiments.nonsmooth_paths import walk
from genkernel.experiments.outcome import experiment
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.sde import SGD, RMSprop
from genkernel.paths.stochastic.weak_error import fit_slope, weak_error
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
    without, with_noise, stderr = study._with_noise_of_second_moments(RMSprop(1.0, eps=1e-2, v0=1.0), 0.025, 2_000, 0)
    assert without > 0.15 and with_noise < without - 1.5 * stderr


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
        stochastic.remainder_orders(etas, {0.0: etas}, {}),
        stochastic.batch_size_distances(sizes, far, {name: v[0] for name, v in far.items()}, {"seed": 0}),
        stochastic.kink_gaps(etas, {"ReLU, squared": etas, "tanh, absolute": etas**2}, steps, {}),
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

"""Loss weights of the literature per prediction type, and predicted changes from inner products."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch

from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.diffusion.weighting import min_snr, p2, schemes, weighting
from genkernel.errors import InputError
from tests.diffusion.fake_result import fake_levels
from tests.diffusion.test_interference import synthetic

T = torch.tensor([0, 100, 400, 700, 999])


def test_min_snr_has_the_published_form_for_each_prediction_type():
    snr = np.exp(NoiseSchedule.vp().log_snr(T).numpy())
    capped = np.minimum(snr, 5)
    assert np.allclose(min_snr(NoiseSchedule.vp(prediction_type="epsilon"), T), capped / snr, rtol=1e-12)
    assert np.allclose(min_snr(NoiseSchedule.vp(prediction_type="v_prediction"), T), capped / (snr + 1), rtol=1e-12)
    assert np.allclose(min_snr(NoiseSchedule.vp(prediction_type="sample"), T), capped, rtol=1e-12)
    t = torch.tensor([100.0, 500.0, 900.0])
    flow = NoiseSchedule.flow()
    sigma = flow.sigma(t).numpy()  # x₀-error = σ × velocity error
    assert np.allclose(min_snr(flow, t), np.minimum(np.exp(flow.log_snr(t).numpy()), 5) * sigma**2, rtol=1e-12)


def test_p2_has_the_published_form():
    snr = np.exp(NoiseSchedule.vp().log_snr(T).numpy())
    assert np.allclose(p2(NoiseSchedule.vp(), T), 1 / (1 + snr), rtol=1e-12)
    alpha = NoiseSchedule.vp().alpha(T).numpy()
    assert np.allclose(p2(NoiseSchedule.vp(prediction_type="v_prediction"), T), alpha**2 / (1 + snr), rtol=1e-12)


def test_a_weight_on_the_x0_loss_gives_the_same_weighted_loss_in_every_parametrisation():
    """min(SNR, γ)‖x̂₀ - x₀‖² = w_raw ‖raw - target‖² for one and the same implied ε̂."""
    draw = torch.Generator().manual_seed(0)
    x0, noise, error = torch.randn(3, 5, dtype=torch.float64, generator=draw)
    for kind in ("epsilon", "v_prediction", "sample"):
        schedule = NoiseSchedule.vp(prediction_type=kind)
        for t in T[1:]:
            alpha, sigma, snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t).exp()
            x_t, guess = alpha * x0 + sigma * noise, noise + error
            clean = (x_t - sigma * guess) / alpha
            a, b = schedule.target_coefficients(t)
            raw, target = a * clean + b * guess, a * x0 + b * noise
            weight = float(min_snr(schedule, t[None])[0])
            wanted = float(torch.minimum(snr, torch.tensor(5.0)) * (clean - x0).square().sum())
            assert weight * float((raw - target).square().sum()) == pytest.approx(wanted, rel=1e-9)


def test_zero_terminal_snr_gives_finite_weights():
    bar = torch.linspace(1.0, 0.0, 11)[1:]
    t = torch.arange(10)
    for kind in ("epsilon", "v_prediction"):
        for rule in (min_snr, p2):
            assert np.isfinite(rule(NoiseSchedule.from_alphas_cumprod(bar, kind), t)).all()


def test_weights_that_do_not_exist_are_left_out():
    schedule = NoiseSchedule.from_alphas_cumprod(torch.linspace(1.0, 0.0, 1000), "sample")
    assert list(schemes(schedule, fake_levels(4), samplers={"mine": np.ones(4)})) == ["uniform", "mine"]


@pytest.fixture
def case():
    levels = fake_levels(4)
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, (4, 20)) + 1
    found = synthetic(rng, 12, common, spread=0.3)
    return levels, found


def test_predictions_follow_from_the_inner_products(case):
    levels, found = case
    given = {"uniform": np.ones(4), "one level": np.array([0, 0, 4.0, 0])}
    table = weighting(found, levels, np.ones(4), given)
    g = found.inner_products
    assert np.allclose(table.predicted_change_equal_lr["one level"], -g[:, 2])
    assert np.allclose(table.predicted_change_equal_lr["uniform"], -g.mean(1))
    assert np.allclose(table.predicted_change["uniform"], table.predicted_change_equal_lr["uniform"])
    plugin = found.inner_products_plugin
    length = np.sqrt(plugin.mean()) / np.sqrt(plugin[2, 2])
    assert np.allclose(table.predicted_change["one level"], -g[:, 2] * length)
    # a weight's overall size does not matter at equal gradient norm
    again = weighting(found, levels, np.ones(4), {"uniform": np.ones(4), "one level": np.array([0, 0, 9.0, 0])})
    assert np.allclose(again.predicted_change["one level"], table.predicted_change["one level"])
    assert table.gradient_norm["uniform"] == pytest.approx(np.sqrt(plugin.mean()))


def test_errors_are_those_of_repeated_experiments():
    rng = np.random.default_rng(1)
    levels = fake_levels(4)
    common = rng.normal(0, 1, (4, 20)) + 1
    tables = [
        weighting(synthetic(rng, 12, common, 0.5), levels, np.ones(4), {"uniform": np.ones(4), "s": np.arange(1.0, 5)})
        for _ in range(150)
    ]
    for values, errors in (("predicted_change", "stderr"), ("predicted_change_equal_lr", "stderr_equal_lr")):
        spread = np.std([getattr(table, values)["s"] for table in tables], axis=0, ddof=1)
        reported = np.sqrt(np.mean([getattr(table, errors)["s"] ** 2 for table in tables], 0))
        assert np.allclose(reported, spread, rtol=0.35)


def test_given_weights_and_samplers():
    levels, schedule = fake_levels(4), NoiseSchedule.vp()
    found = schemes(
        schedule,
        levels,
        weights={"mine": [1, 2, 3, 4], "by snr": lambda t, log_snr: 1 / (1 + np.exp(log_snr))},
        samplers={"late": lambda t, log_snr: t / 999},
    )
    assert list(found) == ["uniform", "min-SNR-5", "P2", "mine", "by snr", "late"]
    assert found["mine"].tolist() == [1, 2, 3, 4]
    assert found["late"].mean() == pytest.approx(1) and found["late"][0] == 0
    for bad in (
        {"x": [1, 2]},
        {"x": [-1, 1, 1, 1]},
        {"x": [0, 0, 0, 0]},
        {"x": [1, np.nan, 1, 1]},
        {"uniform": [1, 1, 1, 1]},
    ):
        with pytest.raises(InputError):
            schemes(schedule, levels, weights=bad)


def test_the_table_reads_back_from_csv(case):
    levels, found = case
    table = weighting(found, levels, np.arange(4.0), {"uniform": np.ones(4), 'a, "b"': np.ones(4)})
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(rows) == 8 and rows[4]["scheme"] == 'a, "b"'
    assert float(rows[1]["change"]) == table.rows[1].change and float(rows[3]["loss"]) == 3.0

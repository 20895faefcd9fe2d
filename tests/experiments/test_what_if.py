"""Continuations under other weightings of the noise levels, and the forecasts of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.diffusion.contributions import NoiseBuckets
from genkernel.errors import InputError, MissingError
from genkernel.experiments.recorded_training import load_training
from genkernel.experiments.registry import experiment
from genkernel.experiments.what_if import experiment as study
from genkernel.experiments.what_if import weightings as parts
from genkernel.models.ddpm import DDPMRecipe, DDPMTraining, ddpm_losses
from genkernel.paths import PathDecomposition
from genkernel.plots.style import to_bytes
from genkernel.workflows import wrap

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = DDPMRecipe(size=4, widths=(8, 16), batch=6, warmup=2, steps=50)
TINY = study.Setting(
    levels=3, warmup=3, horizon=2, per_level=2, seen=4, boosted=(0,), without=(2,), count=24, resamples=20
)


@pytest.fixture
def training() -> DDPMTraining:
    found = DDPMTraining(parts.blobs(24, 4, 0), RECIPE)
    for step in range(3):
        found.descend(found.batch(step))
    return found


def buckets(training: DDPMTraining) -> NoiseBuckets:
    levels = NoiseBuckets(wrap(training.unet, scheduler=training.scheduler).schedule, 3)
    training.unet.train()
    return levels


def weights_of(training: DDPMTraining) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.unet.parameters()]).clone()


def test_it_is_in_the_registry() -> None:
    assert experiment("what-if") is study.run


def test_weightings_have_mean_one(training: DDPMTraining) -> None:
    found = parts.weightings(buckets(training), (0, 2), (1,))
    assert list(found) == [
        "uniform", "min-SNR-5", "P2", "more on low noise", "more on high noise", "4 × level 0", "4 × level 2",
        "without level 1",
    ]  # fmt: skip
    assert all(row.mean() == pytest.approx(1) and (row >= 0).all() for row in found.values())
    assert found["4 × level 0"].tolist() == pytest.approx([2, 0.5, 0.5]) and found["without level 1"][1] == 0
    with pytest.raises(InputError, match="numbered 0 to 2"):
        parts.weightings(buckets(training), (3,), ())


def test_ramps_are_named_by_the_end_that_counts_more(training: DDPMTraining) -> None:
    levels = buckets(training)
    clean, noisy = levels.of(torch.tensor([0, 999])).tolist()  # the first time has the least noise
    found = parts.weightings(levels, (), ())
    assert found["more on low noise"][clean] > 1 > found["more on low noise"][noisy]
    assert found["more on high noise"][clean] < 1 < found["more on high noise"][noisy]


def test_with_equal_weights_the_training_goes_on_as_it_would(training: DDPMTraining) -> None:
    levels, state = buckets(training), parts.State(training)
    for step in (3, 4):
        training.descend(training.batch(step))
    own = weights_of(training)
    for _ in range(2):  # a state can be put back as often as is needed
        state.restore()
        parts.continued(training, 3, 2, levels, np.ones(3))
        assert torch.equal(weights_of(training), own)
    state.restore()
    parts.continued(training, 3, 2, levels, np.array([3.0, 0.0, 0.0]))
    assert not torch.allclose(weights_of(training), own)


def test_contributions_forecast_their_own_path(training: DDPMTraining) -> None:
    levels = buckets(training)
    held_out = parts.HeldOut(training, parts.blobs(6, 4, 1), levels, 2, 5)
    assert held_out.batch["x"].shape == (3, 2, 1, 4, 4)
    assert levels.of(held_out.batch["t"].flatten()).tolist() == [0, 0, 1, 1, 2, 2]
    before = held_out.losses(training.unet)
    baseline = parts.recorded(training, 3, 3, levels, held_out)
    change = held_out.losses(training.unet) - before
    found = parts.by_contributions(baseline, 3).of(np.ones((1, 3)))[0]
    np.testing.assert_allclose(found, change, atol=0.05 * np.abs(change).max())
    assert len(baseline.rates) == 3 and baseline.mass.sum() == pytest.approx(1)


def test_contributions_are_reweighted_bucket_by_bucket() -> None:
    """By hand: every bucket's part times its own weight, and what is not data's as it is."""
    draw = torch.Generator().manual_seed(0)
    net = torch.randn(2, 4, 1, 3, generator=draw, dtype=torch.float64)  # two windows, four sources, three levels
    found = PathDecomposition(
        sources=[2, 0, 1, "weight decay"],
        net=net,
        gross=net.abs(),
        layers=["all"],
        edges=[0, 1, 2],
        outputs=torch.zeros(3, 3, dtype=torch.float64),
        samples=torch.tensor([1, 1, 1, 0]),
        data=[True, True, True, False],
    )
    weights = np.array([[0.25, 2.0, 0.75], [1.0, 0.0, 2.0]])
    forecast = parts.by_contributions(parts.Baseline(found, [], [], np.full(3, 1 / 3)), 3)
    two, zero, one, decay = net.sum((0, 2)).numpy()
    expected = [0.25 * zero + 2.0 * one + 0.75 * two + decay, 1.0 * zero + 2.0 * two + decay]
    np.testing.assert_allclose(forecast.of(weights), expected, rtol=1e-12)


def test_rates_and_clipping_are_those_of_the_steps() -> None:
    """Against the loop written out, where the rate moves in every step and some gradients are clipped."""
    recipe = DDPMRecipe(size=4, widths=(8, 16), batch=6, warmup=6, steps=50)
    images = parts.blobs(24, 4, 0)
    training, plain = DDPMTraining(images, recipe), DDPMTraining(images, recipe)
    levels = buckets(training)
    baseline = parts.recorded(training, 0, 8, levels, parts.HeldOut(training, images, levels, 2, 5))
    rates, clips = [], []
    own = list(plain.unet.parameters())
    for step in range(8):
        plain.optimizer.zero_grad()
        ddpm_losses(plain.unet, plain.batch(step)).mean().backward()
        gradients = [p.grad for p in own if p.grad is not None]
        size = float(sum(g.square().sum() for g in gradients)) ** 0.5
        clips.append(min(1.0, 1.0 / size))
        for g in gradients:
            g.mul_(clips[-1])
        rates.append(plain.optimizer.param_groups[0]["lr"])
        plain.optimizer.step()
        plain.parts["schedule"].step()
    assert len(set(rates)) == 8 and min(clips) < 0.8
    assert baseline.rates == rates
    np.testing.assert_allclose(baseline.clips, clips, rtol=1e-3)


def test_interference_is_the_product_of_gradients(training: DDPMTraining) -> None:
    levels = buckets(training)
    held_out = parts.HeldOut(training, parts.blobs(6, 4, 1), levels, 2, 5)
    seen = parts.HeldOut(training, parts.blobs(24, 4, 0), levels, 4, 6)
    baseline = parts.Baseline(None, [1e-3, 2e-3], [1.0, 0.5], np.array([0.5, 0.25, 0.25]))  # type: ignore[arg-type]
    found = parts.by_interference(training, held_out, seen, baseline)
    products = 0.0
    of_query, of_bucket = (
        torch.autograd.grad(parts.level_losses(training.unet, one.batch)[level], list(training.unet.parameters()))
        for one, level in ((held_out, 1), (seen, 2))
    )
    for p, a, b in zip(training.unet.parameters(), of_query, of_bucket, strict=True):
        entry: dict[str, Any] = training.optimizer.state[p]
        root = (entry["exp_avg_sq"] / (1 - 0.999 ** float(entry["step"]))).sqrt() + 1e-8
        products += float((a * b / root).sum())
    assert found.effect[1, 2] == pytest.approx(-(1e-3 + 0.5 * 2e-3) * 0.25 * products, rel=1e-3)
    # decoupled decay is not clipped: -λ Σ γ g·θ
    decayed = sum(float((a * p.detach()).sum()) for a, p in zip(of_query, training.unet.parameters(), strict=True))
    assert RECIPE.weight_decay > 0
    assert found.rest[1] == pytest.approx(-RECIPE.weight_decay * (1e-3 + 2e-3) * decayed, rel=1e-3)


def test_a_study_goes_on_where_it_ended(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"progress": False, "recipe": RECIPE, "setting": TINY, "work": tmp_path / "work"}
    first = study.run(**options)
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in first.figures.values())
    json.dumps(first.numbers, allow_nan=True)
    assert len(first.claims) == 4 and len(first.numbers["actual"]) == 7
    for row in first.numbers["differences"].values():
        assert row["low"] <= row["spearman"] <= row["high"]
    (tmp_path / "work" / "weighting-P2.json").unlink()
    plain, names = parts.continued, []

    def counted(*args: Any) -> None:
        names.append(args[4])
        plain(*args)

    def never(*_: Any) -> None:
        raise AssertionError("the state and the recording are kept")

    monkeypatch.setattr(parts, "continued", counted)
    monkeypatch.setattr(parts, "recorded", never)
    again = study.run(**options)
    assert len(names) == 1
    np.testing.assert_allclose(again.numbers["actual"], first.numbers["actual"], rtol=1e-6)
    np.testing.assert_allclose(
        again.numbers["forecasts"]["contributions"], first.numbers["forecasts"]["contributions"], rtol=1e-6
    )
    with pytest.raises(InputError, match="another state"):
        study.run(**options | {"seed": 1, "recipe": DDPMRecipe(size=4, widths=(8, 16), batch=4)})


def test_a_study_of_a_saved_state(tmp_path: Any, training: DDPMTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"parts": {n: p.state_dict() for n, p in training.parts.items()}, "step": 3}, tmp_path / "training.pt")
    found = study.run(progress=False, recipe=RECIPE, setting=TINY, state=tmp_path, work=tmp_path / "work")
    assert found.settings["first"] == 3
    other = DDPMRecipe(size=4, widths=(16, 16), batch=6)
    with pytest.raises(InputError, match="with this recipe"):
        study.run(progress=False, recipe=other, setting=TINY, state=tmp_path)
    with pytest.raises(MissingError, match="no unfinished run"):
        study.run(progress=False, recipe=RECIPE, setting=TINY, state=tmp_path / "nothing", work=tmp_path / "work")


def test_a_folder_that_an_earlier_version_left_is_gone_on_from(tmp_path: Any, training: DDPMTraining) -> None:
    """``state.pt`` held the parts and the step alone, and the identity had these entries."""
    pictures = study._images(None, RECIPE, TINY, 0)
    study._identify(tmp_path, RECIPE, TINY, pictures, None)
    identity = json.loads((tmp_path / "identity.json").read_text())
    assert list(identity) == ["recipe", "setting", "images", "state"] and "resamples" not in identity["setting"]
    own = weights_of(training)
    torch.save({"parts": {n: p.state_dict() for n, p in training.parts.items()}, "step": 3}, tmp_path / "state.pt")
    other = DDPMTraining(parts.blobs(24, 4, 0), RECIPE)
    assert load_training(tmp_path / "state.pt", other.parts).step == 3
    assert torch.equal(weights_of(other), own)
    found = study.run(progress=False, recipe=RECIPE, setting=TINY, work=tmp_path)
    assert found.settings["first"] == 3


@pytest.mark.parametrize(
    ("first", "second", "gap", "holds"),
    [
        ((0.1, 0.4), (0.01, 0.2), 0.01, ("yes", "yes")),
        ((-0.1, 0.4), (0.01, 0.2), 0.04, ("partly", "partly")),
        ((-0.3, -0.1), (-0.4, -0.01), 0.06, ("no", "no")),
        ((-0.3, -0.1), (0.1, 0.2), float("nan"), ("partly", "undecided")),
        ((float("nan"), float("nan")), (0.1, 0.2), 0.0, ("partly", "yes")),
    ],
)
def test_claims_can_come_out_either_way(
    first: tuple[float, float], second: tuple[float, float], gap: float, holds: tuple[str, str]
) -> None:
    row = dict.fromkeys(("spearman", "low", "high", "overall", "overall_low", "overall_high"), 0.5)
    numbers = {
        "differences": {
            f"{name} - own weight": {"spearman": sum(ends) / 2, "low": ends[0], "high": ends[1]}
            for name, ends in ((study.CONTRIBUTIONS, first), (study.INTERFERENCE, second))
        },
        "gap": gap,
        "clipped": 0.5,
    }
    names = (study.CONTRIBUTIONS, study.INTERFERENCE, study.OWN)
    claims = study._claims(dict.fromkeys(names, row), dict.fromkeys(names, 0.1), numbers, TINY)
    assert (claims[2].holds, claims[3].holds) == holds

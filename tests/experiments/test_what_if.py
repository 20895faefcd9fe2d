"""Continuations under other weightings of the noise levels, and the forecasts of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.diffusion.contributions import NoiseBuckets
from genkernel.errors import InputError, MissingError
from genkernel.experiments import level_weightings as parts
from genkernel.experiments import what_if as study
from genkernel.experiments.outcome import experiment
from genkernel.models.ddpm import DDPMRecipe, DDPMTraining
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


def test_a_study_goes_on_where_it_ended(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"progress": False, "recipe": RECIPE, "setting": TINY, "work": tmp_path / "work"}
    first = study.run(**options)
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in first.figures.values())
    json.dumps(first.numbers, allow_nan=True)
    assert len(first.claims) == 4 and len(first.numbers["actual"]) == 7
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
    own = weights_of(training)
    other = DDPMTraining(parts.blobs(24, 4, 0), RECIPE)
    assert study._load(other, tmp_path / "training.pt") == 3
    assert torch.equal(weights_of(other), own)
    with pytest.raises(InputError, match="with this recipe"):
        study._load(
            DDPMTraining(parts.blobs(24, 4, 0), DDPMRecipe(size=4, widths=(16, 16), batch=6)), tmp_path / "training.pt"
        )
    with pytest.raises(MissingError, match="no unfinished run"):
        study.run(progress=False, recipe=RECIPE, setting=TINY, state=tmp_path / "nothing", work=tmp_path / "work")

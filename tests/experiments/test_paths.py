"""The experiments on path kernels, on few of their cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments import domingos, path_optimizers
from genkernel.experiments.ddpm_path import record_ddpm
from genkernel.experiments.gan_path import record_gan
from genkernel.experiments.outcome import Claim, Table, verdict
from genkernel.experiments.registry import EXPERIMENTS, experiment
from genkernel.experiments.slopes import below_halfway, has_order, slope
from genkernel.models.ddpm import DDPMRecipe
from genkernel.models.gan_training import GANTraining
from genkernel.models.gans import RECIPES
from genkernel.plots.quadrature import gaps_over_rates

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_left_rule_is_first_order_and_the_others_are_not(monkeypatch):
    monkeypatch.setattr(domingos, "HORIZON", 1.5)
    rows = {
        rule: [domingos.gap(8, rate, rule, 0)["gap"] for rate in (0.05, 0.025)]
        for rule in ("left", "midpoint", "gauss4")
    }
    assert 1.8 < rows["left"][0] / rows["left"][1] < 2.2
    assert 3.6 < rows["midpoint"][0] / rows["midpoint"][1] < 4.4
    assert max(rows["gauss4"]) < 1e-12
    figure = gaps_over_rates({"width 8": rows}, (0.05, 0.025), {"width 8": dict.fromkeys(rows, 1.07)}, {"seed": 0})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.07", "1.07"]  # not beside lines at rounding
    assert figure.axes[0].get_ylabel() == "gap / change of outputs"


def test_merging_steps_keeps_the_sum_and_moves_the_split():
    task = path_optimizers._Task(0)
    merged = path_optimizers.merged_splits(task, path_optimizers.configurations()["AdamW"])
    for _, gap, moved in merged:
        assert gap < 1e-5 and moved > 1e3 * gap


def test_what_merged_steps_say_about_the_split():
    assert path_optimizers.certified([(4, 1e-10, 0.2), (10, 1e-8, 0.3)]) == "no"
    assert path_optimizers.certified([(4, 1e-3, 2e-3)]) == "yes"
    assert path_optimizers.certified([(4, 1e-13, 1e-13)]) == "yes"  # both are rounding
    assert path_optimizers.certified([(4, 1e-10, 1e-3)]) == path_optimizers.certified([]) == "undecided"


def test_slopes_and_what_criteria_come_to():
    assert slope((0.2, 0.1, 0.05), (4.0, 1.0, 0.25)) == pytest.approx(2)
    assert math.isnan(slope((0.2, 0.1), (1.0, 0.0)))
    assert has_order(1.2, 1) and not has_order(1.2, 2) and has_order(math.nan, 1) is None
    assert below_halfway(1.4) and not below_halfway(1.6) and below_halfway(math.nan) is None
    answers = [verdict(parts) for parts in ([True, True], [True, False], [False], [True, None], [])]
    assert answers == ["yes", "partly", "no", "partly", "undecided"]


def test_verdicts_follow_what_is_measured(monkeypatch):
    """Gaps of another order turn every verdict of the study of Domingos' formula."""
    powers = {"left": 1, "trapezoid": 2, "midpoint": 2, "gauss4": 0}

    def gap(width, rate, rule, seed, activation):
        order = 1 if activation is torch.nn.ReLU else powers[rule]
        return {"gap": 0.1 * rate**order if order else 1e-15, "accuracy": 1.0}

    monkeypatch.setattr(domingos, "gap", gap)
    assert [claim.holds for claim in domingos.run(quick=True, progress=False).claims] == ["yes"] * 4
    powers.update(left=2, trapezoid=1, midpoint=1, gauss4=1)
    assert [claim.holds for claim in domingos.run(quick=True, progress=False).claims] == ["no", "no", "no", "yes"]
    powers.update(trapezoid=2)
    assert domingos.run(quick=True, progress=False).claims[1].holds == "partly"
    monkeypatch.setattr(domingos, "gap", lambda w, rate, *_: {"gap": rate**2, "accuracy": 1.0})
    assert domingos.run(quick=True, progress=False).claims[3].holds == "no"


def test_every_experiment_is_there_and_others_are_refused():
    for name in EXPERIMENTS:
        assert callable(experiment(name))
    with pytest.raises(InputError, match="no experiment 'nothing'"):
        experiment("nothing")
    with pytest.raises(InputError, match="holds 'yes'"):
        Claim("a", "b", "maybe")
    assert "| 1.235 | – | yes |" in Table("t", ("a", "b", "c"), [(1.23456, None, True)]).markdown()


def test_a_recorded_ddpm_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    recipe = DDPMRecipe(size=8, widths=(8, 16), steps=6, batch=8, warmup=2)
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"buckets": 2, "per_bucket": 1, "save_every": 2, "progress": False}
    whole = record_ddpm(images, images, tmp_path / "whole", recipe, **options)

    from genkernel.models.ddpm import DDPMTraining

    plain = DDPMTraining.batch

    def dying(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return plain(self, step)

    monkeypatch.setattr(DDPMTraining, "batch", dying)
    with pytest.raises(KeyboardInterrupt):
        record_ddpm(images, images, tmp_path / "parts", recipe, **options)
    monkeypatch.setattr(DDPMTraining, "batch", plain)
    again = record_ddpm(images, images, tmp_path / "parts", recipe, **options)
    assert again.sources == whole.sources and again.edges == whole.edges
    assert torch.equal(again.net, whole.net) and torch.equal(again.outputs, whole.outputs)
    assert sorted(file.name for file in (tmp_path / "parts" / "weights").iterdir()) == [
        f"{step:06d}.safetensors" for step in (0, 2, 4, 6)
    ]
    with pytest.raises(InputError, match="another run"):
        record_ddpm(images[:8], images, tmp_path / "parts", recipe, **options)


def test_a_recorded_gan_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    recipe = replace(RECIPES["ring"]["healthy"], steps=9, batch=24)
    options = {"queries": 4, "save_every": 4, "progress": False}
    whole = record_gan(recipe, tmp_path / "whole", **options)

    step = GANTraining.step

    def killed(self, number):
        if number == 6:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GANTraining, "step", killed)
        record_gan(recipe, tmp_path / "parts", **options)
    assert (tmp_path / "parts" / "training.pt").is_file()
    again = record_gan(recipe, tmp_path / "parts", **options)
    assert again.sources == whole.sources and torch.equal(again.net, whole.net)
    assert not (tmp_path / "parts" / "training.pt").exists()
    with pytest.raises(InputError, match="another run"):
        record_gan(replace(recipe, seed=5), tmp_path / "parts", **options)

"""The experiments on path kernels, on few of their cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments import domingos, path_optimizers
from genkernel.experiments.ddpm_path import record_ddpm
from genkernel.experiments.gan_path import record_gan
from genkernel.experiments.outcome import EXPERIMENTS, Claim, Table, experiment
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
    figure = gaps_over_rates({"width 8": rows}, (0.05, 0.025), {"seed": 0})
    assert figure.axes[0].get_ylabel() == "gap / change of outputs"


def test_merging_steps_keeps_the_sum_and_moves_the_split():
    task = path_optimizers._Task(0)
    merged = path_optimizers.merged_splits(task, path_optimizers.configurations()["AdamW"])
    for _, gap, moved in merged:
        assert gap < 1e-5 and moved > 1e3 * gap


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
    torch.testing.assert_close(again.values, whole.values, rtol=1e-6, atol=1e-9)
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

"""The reference DDPM: its shapes, its trainer, and what a second call in the same folder does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genkernel.errors import GenkernelError, InputError, NonFiniteError, OutputError
from genkernel.models.ddpm import DDPMRecipe, DDPMTraining, build_unet, ddpm_losses, sample_grid, train_ddpm

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = DDPMRecipe(size=8, widths=(8, 16), steps=4, batch=4, timesteps=20, warmup=2, ema=0.5)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    """Stands for the power going out."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the training stop with :class:`Killed` in its ``step``-th optimiser step."""
    taken = iter(range(step))
    real = torch.optim.AdamW.step

    def stepping(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        if next(taken, None) is None:
            raise Killed
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)


# -------------------------------------------------------------------------- network


@pytest.mark.parametrize("recipe", [DDPMRecipe(), DDPMRecipe(size=32, channels=3), TINY])
def test_network_keeps_the_shape(recipe: DDPMRecipe) -> None:
    unet = build_unet(recipe)
    x = torch.zeros(2, recipe.channels, recipe.size, recipe.size)
    with torch.no_grad():
        assert unet(x, torch.tensor([0, recipe.timesteps - 1])).sample.shape == x.shape


def test_default_network_is_small_enough_to_ship() -> None:
    assert sum(p.numel() for p in build_unet(DDPMRecipe()).parameters()) * 4 <= 10e6


@pytest.mark.parametrize(
    "change",
    [
        {"widths": (32,)},
        {"widths": (30, 64)},
        {"size": 15},
        {"size": 0},
        {"steps": 0},
        {"batch": -1},
        {"timesteps": 0},
        {"warmup": 0},
    ],
)
def test_recipe_that_cannot_be_built(change: dict) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        DDPMRecipe(**change)


# --------------------------------------------------------------------------- trainer


def test_a_step_says_its_loss_and_its_clipping(images: torch.Tensor) -> None:
    training = DDPMTraining(images, TINY)
    batch = training.batch(0)
    losses = ddpm_losses(training.unet, batch).detach()
    found = training.descend(batch)
    clipped = [p.grad for p in training.unet.parameters() if p.grad is not None]  # as they are after clipping
    assert found.loss == float(losses.mean()) and found.clip < 1
    assert float(sum(g.square().sum() for g in clipped)) ** 0.5 == pytest.approx(1, rel=1e-3)


def test_weights_multiply_the_losses_of_samples(images: torch.Tensor) -> None:
    weighted, alone, plain, ones = (DDPMTraining(images, TINY) for _ in range(4))
    batch = weighted.batch(0)
    weights = torch.tensor([4.0, 0.0, 0.0, 0.0])
    found = weighted.descend(batch, weights)
    assert found.loss == pytest.approx(float(ddpm_losses(alone.unet, batch)[0].detach()), rel=1e-6)
    alone.descend({name: part[:1] for name, part in batch.items()})
    for a, b in zip(weighted.unet.parameters(), alone.unet.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)  # Adam's step enlarges what rounding leaves
    assert plain.descend(batch) == ones.descend(batch, torch.ones(4))
    assert same(plain.unet.state_dict(), ones.unet.state_dict())


def test_saved_folder_is_a_safe_diffusers_pipeline(images: torch.Tensor, tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, UNet2DModel

    trained = train_ddpm(images, tmp_path, TINY, progress=False)
    assert not list(tmp_path.rglob("*.bin")) and not (tmp_path / "training.pt").exists()
    pipeline = DDPMPipeline.from_pretrained(tmp_path, use_safetensors=True, local_files_only=True)
    unet = UNet2DModel.from_pretrained(tmp_path / "unet", use_safetensors=True, local_files_only=True)
    assert same(unet.state_dict(), trained.unet.state_dict()) and same(unet.state_dict(), weights(tmp_path))
    assert pipeline.scheduler.config.num_train_timesteps == 20
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in unet.parameters()) and record["images"] == 12
    assert DDPMRecipe(**{**record["recipe"], "widths": tuple(record["recipe"]["widths"])}) == TINY


def test_training_leaves_the_global_rng_alone(images: torch.Tensor, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_ddpm(images, tmp_path, TINY, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_saved_weights_are_the_average(images: torch.Tensor, tmp_path: Path) -> None:
    train_ddpm(images, tmp_path / "half", TINY, progress=False)
    train_ddpm(images, tmp_path / "slow", replace(TINY, ema=0.9), progress=False)
    assert not same(weights(tmp_path / "half"), weights(tmp_path / "slow"))


def test_resumed_run_has_the_same_bits(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_ddpm(images, tmp_path / "whole", TINY, progress=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 3)
        train_ddpm(images, tmp_path / "cut", TINY, save_every=2, progress=False)
    assert (tmp_path / "cut" / "training.pt").exists() and not (tmp_path / "cut" / "unet").exists()
    train_ddpm(images, tmp_path / "cut", TINY, save_every=2, progress=False)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    whole, cut = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "cut"))
    assert whole == cut


def test_finished_run_is_not_trained_again(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_ddpm(images, tmp_path, TINY, progress=False)
    before = weights(tmp_path)
    die_at(monkeypatch, 0)
    assert same(train_ddpm(images, tmp_path, TINY, progress=False).unet.state_dict(), before)


@pytest.mark.parametrize("finished", [True, False])
def test_folder_of_another_run_is_refused(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    if finished:
        train_ddpm(images, tmp_path, TINY, progress=False)
    else:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, 3)
            train_ddpm(images, tmp_path, TINY, save_every=2, progress=False)
    with pytest.raises(InputError, match="another recipe"):
        train_ddpm(images, tmp_path, replace(TINY, lr=1e-4), progress=False)
    with pytest.raises(InputError, match="other images"):
        train_ddpm(1 - images, tmp_path, TINY, progress=False)


def test_images_that_do_not_fit(images: torch.Tensor, tmp_path: Path) -> None:
    for wrong in (images.expand(-1, 3, -1, -1), images[..., :4], images[:0]):
        with pytest.raises(InputError, match="the recipe wants images 1×8×8"):
            train_ddpm(wrong, tmp_path / "out", TINY, progress=False)
    assert not (tmp_path / "out").exists()


def test_divergence_saves_nothing(images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="diverged"):
        train_ddpm(images, tmp_path, replace(TINY, lr=1e20, warmup=1), progress=False)
    assert not (tmp_path / "unet").exists()


def test_output_below_a_file(images: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        train_ddpm(images, tmp_path / "file" / "out", TINY, progress=False)
    assert isinstance(caught.value, GenkernelError)


def test_samples_are_reproducible_images(images: torch.Tensor, tmp_path: Path) -> None:
    pipeline = train_ddpm(images, tmp_path, TINY, progress=False)
    first, again, other = (sample_grid(pipeline, 2, steps=3, seed=s, progress=False) for s in (1, 1, 2))
    assert first.shape == (2, 1, 8, 8) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.gpu
def test_training_on_a_gpu(images: torch.Tensor, tmp_path: Path) -> None:
    train_ddpm(images, tmp_path / "gpu", TINY, device="cuda", progress=False)
    train_ddpm(images, tmp_path / "cpu", TINY, progress=False)
    gpu, cpu = weights(tmp_path / "gpu"), weights(tmp_path / "cpu")
    assert all(torch.allclose(gpu[name], cpu[name], atol=1e-3) for name in cpu)

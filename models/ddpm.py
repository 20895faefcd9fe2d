"""A small DDPM: the recipe of the shipped noise predictors, and its trainer.

The network is a diffusers ``UNet2DModel`` (GroupNorm, self-attention at half resolution, a
sinusoidal timestep embedding followed by a two-layer time MLP), the loss is the plain ε-loss
of Ho et al. (2020) with uniform timesteps, and the saved weights are the exponential moving
average. Batches are keyed by (seed, step), so a resumed run draws exactly what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMPipeline, UNet2DModel


@dataclass(frozen=True)
class DDPMRecipe:
    """Everything that decides the weights, apart from the images."""

    size: int = 16
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    timesteps: int = 1000
    beta_schedule: str = "linear"
    steps: int = 8000
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 200
    ema: float = 0.999
    seed: int = 0


def build_unet(recipe: DDPMRecipe) -> UNet2DModel:
    """The noise predictor of the recipe, freshly initialised from the global RNG."""
    from diffusers import UNet2DModel

    inner = len(recipe.widths) - 2
    return UNet2DModel(
        sample_size=recipe.size,
        in_channels=recipe.channels,
        out_channels=recipe.channels,
        layers_per_block=recipe.layers_per_block,
        block_out_channels=recipe.widths,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * inner, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["AttnUpBlock2D"] * inner, "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def train_ddpm(
    images: torch.Tensor,
    out: str | Path,
    recipe: DDPMRecipe | None = None,
    *,
    device: str = "cpu",
    save_every: int = 500,
    progress: bool = True,
) -> DDPMPipeline:
    """Train a DDPM on images ``[n, C, H, W]`` in ``[0, 1]`` and save it in diffusers format.

    Args:
        images: the training set; it is scaled to ``[-1, 1]``.
        out: the folder of the pipeline; ``training.pt`` in it holds the state of an
            unfinished run, which a second call with the same recipe continues.
        recipe: network, schedule and optimisation.
        device: where to train.
        save_every: steps between two saved states.
        progress: show a progress bar.

    Returns:
        The pipeline with the averaged (EMA) weights, as saved.

    Raises:
        ValueError: the images do not fit the recipe, or ``out`` holds a run of another recipe.
    """
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from tqdm.auto import trange

    recipe = recipe or DDPMRecipe()
    if tuple(images.shape[1:]) != (recipe.channels, recipe.size, recipe.size):
        raise ValueError(
            f"the recipe wants images {recipe.channels}×{recipe.size}×{recipe.size}, "
            f"these are {'×'.join(map(str, images.shape[1:]))}"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    data = (images * 2 - 1).to(device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = build_unet(recipe).to(device)
    scheduler = DDPMScheduler(num_train_timesteps=recipe.timesteps, beta_schedule=recipe.beta_schedule)
    average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1e-2, total_iters=recipe.warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, recipe.steps - recipe.warmup)),
        ],
        [recipe.warmup],
    )
    parts = {"unet": unet, "average": average, "optimizer": optimizer, "schedule": schedule}
    start, losses = _resume(out, recipe, parts)

    unet.train()
    bar = trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train")
    for step in bar:
        draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        index = torch.randint(len(data), (recipe.batch,), generator=draw)
        noise = torch.randn((recipe.batch, *data.shape[1:]), generator=draw).to(device)
        t = torch.randint(recipe.timesteps, (recipe.batch,), generator=draw).to(device)
        noisy = scheduler.add_noise(data[index.to(device)], noise, t)
        loss = (unet(noisy, t).sample - noise).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(unet)
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.4f}")
        if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
            _save_state(out, recipe, parts, step + 1, losses)

    pipeline = DDPMPipeline(average.module.eval(), scheduler)
    pipeline.save_pretrained(out, safe_serialization=True)
    record = {
        "recipe": asdict(recipe),
        "images": len(images),
        "parameters": sum(p.numel() for p in unet.parameters()),
        "loss_last_500": sum(losses[-500:]) / max(1, len(losses[-500:])),
        "torch": torch.__version__,
    }
    _write_atomic(out / "training.json", json.dumps(record, indent=2) + "\n")
    (out / "training.pt").unlink(missing_ok=True)
    return pipeline


def sample_grid(pipeline: DDPMPipeline, n: int = 64, *, steps: int = 1000, seed: int = 0) -> torch.Tensor:
    """Ancestral samples ``[n, C, H, W]`` in ``[0, 1]`` from a pipeline, reproducible by seed."""
    import torch

    pipeline.set_progress_bar_config(leave=False)
    generator = torch.Generator(pipeline.unet.device).manual_seed(seed)
    arrays = pipeline(batch_size=n, generator=generator, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float()


def _save_state(out: Path, recipe: DDPMRecipe, parts: dict, step: int, losses: list[float]) -> None:
    import torch

    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "losses": losses, "recipe": json.dumps(asdict(recipe))}
    torch.save(state, out / "training.pt.part")
    os.replace(out / "training.pt.part", out / "training.pt")


def _resume(out: Path, recipe: DDPMRecipe, parts: dict) -> tuple[int, list[float]]:
    import torch

    path = out / "training.pt"
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["recipe"] != json.dumps(asdict(recipe)):
        raise ValueError(f"{path} belongs to a run with another recipe: finish that one, or choose another folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["losses"]


def _write_atomic(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text)
    os.replace(part, path)

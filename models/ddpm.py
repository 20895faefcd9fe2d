"""A small DDPM: the recipe of the shipped noise predictors, and its trainer.

The network is a diffusers ``UNet2DModel`` (GroupNorm, self-attention at half resolution, a
sinusoidal timestep embedding followed by a two-layer time MLP), the loss is the plain ε-loss
of Ho et al. (2020) with uniform timesteps, and the saved weights are the exponential moving
average. Batches are keyed by (seed, step), so a resumed run draws exactly what an
uninterrupted one would have drawn, and ends with the same bits on the same machine.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genkernel.errors import InputError, NonFiniteError, OutputError
from genkernel.runs import data_sha256, write_atomic
from genkernel.runs.atomic import explain

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMPipeline, UNet2DModel

CLIP = 1.0  # the largest norm that a gradient keeps


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

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or any(width < 1 or width % 8 for width in self.widths):
            raise InputError(f"widths are two or more multiples of 8 (the groups of GroupNorm), not {self.widths}")
        if self.size < 1 or self.size % 2 ** (len(self.widths) - 1):
            raise InputError(
                f"{len(self.widths)} widths halve the image {len(self.widths) - 1} times: "
                f"the size must be a multiple of {2 ** (len(self.widths) - 1)}, not {self.size}"
            )
        for name in ("channels", "layers_per_block", "timesteps", "steps", "batch", "warmup"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


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


class Descent(NamedTuple):
    """What one step came to.

    Attributes:
        loss: the mean over the batch, with the weights if there are any.
        clip: the factor that clipping put on the gradient, at most 1.
    """

    loss: float
    clip: float


class DDPMTraining:
    """The parts of a training run, and its steps: what :func:`train_ddpm` and recordings of it are made of.

    Args:
        images: the training set ``[n, C, H, W]`` in ``[0, 1]``.
        recipe: network, schedule and optimisation.
        device: where to train.

    Attributes:
        unet, scheduler, average, optimizer: the network that trains (in training mode), its noise scheduler, its
            averaged copy and its optimizer.
        parts: everything that has a state, by name.
    """

    def __init__(self, images: torch.Tensor, recipe: DDPMRecipe, device: str = "cpu"):
        import torch
        from diffusers import DDPMScheduler
        from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        self._recipe, self._device = recipe, device
        self._data = (images * 2 - 1).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.unet = build_unet(recipe).to(device).train()
        self.scheduler = DDPMScheduler(num_train_timesteps=recipe.timesteps, beta_schedule=recipe.beta_schedule)
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        warmup = LinearLR(self.optimizer, 1e-2, total_iters=recipe.warmup)
        cosine = CosineAnnealingLR(self.optimizer, max(1, recipe.steps - recipe.warmup))
        self._schedule = SequentialLR(self.optimizer, [warmup, cosine], [recipe.warmup])
        self.parts: dict[str, Any] = {
            "unet": self.unet,
            "average": self.average,
            "optimizer": self.optimizer,
            "schedule": self._schedule,
        }

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """What a step trains on: ``x`` (x_t), ``t``, the ``target`` noise and the ``ids`` of the images ``[b]``."""
        import torch

        recipe = self._recipe
        draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        ids = torch.randint(len(self._data), (recipe.batch,), generator=draw)
        noise = torch.randn((recipe.batch, *self._data.shape[1:]), generator=draw).to(self._device)
        t = torch.randint(recipe.timesteps, (recipe.batch,), generator=draw).to(self._device)
        noisy = self.scheduler.add_noise(self._data[ids.to(self._device)], noise, t)
        return {"x": noisy, "t": t, "target": noise, "ids": ids}

    def descend(self, batch: dict[str, torch.Tensor], weights: torch.Tensor | None = None) -> Descent:
        """One step on a batch.

        Args:
            batch: of :meth:`batch`.
            weights: of the samples' losses ``[b]``; all 1 by default.

        Returns:
            Its loss, and the factor of clipping.
        """
        import torch

        losses = ddpm_losses(self.unet, batch)
        loss = (losses if weights is None else weights.to(losses) * losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        size = float(torch.nn.utils.clip_grad_norm_(self.unet.parameters(), CLIP))
        self.optimizer.step()
        self._schedule.step()
        self.average.update_parameters(self.unet)
        return Descent(float(loss.detach()), min(1.0, CLIP / (size + 1e-6)))  # as clip_grad_norm_ has it


def ddpm_losses(unet: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The ε-loss of every sample ``[b]``."""
    return (unet(batch["x"], batch["t"]).sample - batch["target"]).square().flatten(1).mean(1)


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
            unfinished run, which a second call with the same recipe and images continues. A
            finished run is loaded, not trained again.
        recipe: network, schedule and optimisation.
        device: where to train.
        save_every: steps between two saved states.
        progress: show a progress bar.

    Returns:
        The pipeline with the averaged (EMA) weights, as saved.

    Raises:
        InputError: the images do not fit the recipe, or ``out`` holds a run of another recipe or
            of other images.
        OutputError: ``out`` cannot be written to.
        NonFiniteError: the loss diverged; nothing is saved as a pipeline.
    """
    import torch
    from diffusers import DDPMPipeline
    from tqdm import trange

    recipe = recipe or DDPMRecipe()
    if not len(images) or tuple(images.shape[1:]) != (recipe.channels, recipe.size, recipe.size):
        raise InputError(
            f"the recipe wants images {recipe.channels}×{recipe.size}×{recipe.size}, "
            f"these are {len(images)} of {'×'.join(map(str, images.shape[1:]))}"
        )
    out = Path(out)
    run = _Run(asdict(recipe), data_sha256(images))
    if run.finished_in(out):
        return DDPMPipeline.from_pretrained(
            out, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        ).to(device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, out)) from error
    training = DDPMTraining(images, recipe, device)
    start, losses = _resume(out, run, training.parts)

    bar = trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train")
    for step in bar:
        losses.append(training.descend(training.batch(step)).loss)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.4f}")
        if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
            _save_state(out, run, training.parts, step + 1, losses)

    if not math.isfinite(sum(losses[-500:])):
        raise NonFiniteError("the training diverged (its loss is not finite): lower the learning rate")
    pipeline = DDPMPipeline(training.average.module.eval(), training.scheduler)
    pipeline.save_pretrained(out, safe_serialization=True)
    record = {
        "recipe": run.recipe,
        "images": len(images),
        "images_sha256": run.images,
        "parameters": sum(p.numel() for p in training.unet.parameters()),
        "loss_last_500": sum(losses[-500:]) / max(1, len(losses[-500:])),
        "torch": torch.__version__,
    }
    write_atomic(out / "training.json", json.dumps(record, indent=2) + "\n")
    (out / "training.pt").unlink(missing_ok=True)
    return pipeline


def sample_grid(
    pipeline: DDPMPipeline, n: int = 64, *, steps: int = 1000, seed: int = 0, progress: bool = True
) -> torch.Tensor:
    """Ancestral samples ``[n, C, H, W]`` in ``[0, 1]`` from a pipeline, reproducible by seed."""
    import torch

    pipeline.set_progress_bar_config(leave=False, disable=not progress)
    generator = torch.Generator(pipeline.unet.device).manual_seed(seed)
    arrays = pipeline(batch_size=n, generator=generator, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float()


@dataclass(frozen=True)
class _Run:
    """What decides the weights: two runs are the same when both entries are."""

    recipe: dict[str, Any]
    images: str

    def check(self, path: Path, recipe: dict[str, Any], images: str | None) -> None:
        """Refuse a folder that holds something else; older records do not name their images."""
        if recipe != json.loads(json.dumps(self.recipe)):
            raise InputError(f"{path} belongs to a run with another recipe: finish that one, or choose another folder")
        if images not in (None, self.images):
            raise InputError(f"{path} belongs to a run on other images: finish that one, or choose another folder")

    def finished_in(self, out: Path) -> bool:
        path = out / "training.json"
        if not path.is_file() or (out / "training.pt").exists():
            return False
        record = json.loads(path.read_text())
        self.check(path, record["recipe"], record.get("images_sha256"))
        return True


def _save_state(out: Path, run: _Run, parts: dict[str, Any], step: int, losses: list[float]) -> None:
    import torch

    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "losses": losses, "recipe": json.dumps(run.recipe), "images_sha256": run.images}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(out / "training.pt", buffer.getvalue())


def _resume(out: Path, run: _Run, parts: dict[str, Any]) -> tuple[int, list[float]]:
    import torch

    path = out / "training.pt"
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True, map_location="cpu")
    run.check(path, json.loads(state["recipe"]), state.get("images_sha256"))
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["losses"]

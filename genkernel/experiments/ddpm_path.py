"""A DDPM's training, recorded by noise level: which levels was each level learned from?

The run is the one that :func:`genkernel.models.ddpm.train_ddpm` makes. It is resumable: weights, optimizer, losses and
the recording are saved together.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.runs import data_sha256, read_json, write_atomic

if TYPE_CHECKING:
    from genkernel.diffusion import Denoiser
    from genkernel.diffusion.contributions import LevelQueries, NoiseBuckets
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining
    from genkernel.paths import PathDecomposition

HELD_OUT = 10_007  # the seed of the queries' noise, away from those of the training


def record_ddpm(
    images: Tensor,
    held_out: Tensor,
    out: str | Path,
    recipe: DDPMRecipe,
    *,
    buckets: int = 8,
    per_bucket: int = 2,
    rule: str = "midpoint",
    windows: int = 32,
    copies: int = 3,
    save_every: int = 100,
    progress: bool = True,
) -> PathDecomposition:
    """Train a DDPM and record what every bucket of noise levels did to every other.

    ``out`` gets ``path.npz``, ``losses.json`` and ``weights/<step>.safetensors`` (the initial weights, ``copies``
    evenly spaced ones, the last among them). ``training.pt`` and ``recording.pt`` hold an unfinished run, which a
    second call continues.

    Args:
        images: training images in [0, 1] ``[n, C, H, W]``.
        held_out: images of the queries, likewise.
        out: the folder.
        recipe: network, schedule and optimisation.
        buckets, per_bucket: noise buckets, and queries in each.
        rule, windows: as for :func:`genkernel.record`.
        copies: how many copies of the weights after the initial one.
        save_every: steps between two saved states.
        progress: show a progress bar.

    Raises:
        InputError: ``out`` holds another run.
        RecordingError: the recording stopped.
    """
    from tqdm.auto import trange

    from genkernel.diffusion.contributions import noise_level_contributions
    from genkernel.models.ddpm import DDPMTraining, ddpm_losses
    from genkernel.paths import PathDecomposition, record
    from genkernel.paths.maps import keep_map

    out = Path(out)
    identity = {
        "recipe": asdict(recipe),
        "images": data_sha256(images),
        "held_out": data_sha256(held_out),
        "buckets": buckets,
        "per_bucket": per_bucket,
        "rule": rule,
    }
    _check_identity(out, identity)
    if (out / "path.npz").is_file():
        return PathDecomposition.load(out / "path.npz")
    (out / "weights").mkdir(parents=True, exist_ok=True)
    write_atomic(out / "identity.json", json.dumps(identity, indent=2) + "\n")
    training = DDPMTraining(images, recipe)
    start, losses = _resume(out / "training.pt", training)
    den, levels, queries = level_setup(training.unet, training.scheduler, held_out, buckets, per_bucket)
    kept = {round(recipe.steps * k / copies) for k in range(copies + 1)}
    if start == 0:
        _copy(training, out, 0)
        (out / "recording.pt").unlink(missing_ok=True)
    with record(
        training.unet,
        training.optimizer,
        ddpm_losses,
        groups=levels.groups(),
        queries=queries.batch,
        query_call=den.tangent.call,
        rule=rule,
        windows=windows,
        store=out,
    ) as path:
        for step in trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train"):
            batch = training.batch(step)
            path.batch(batch, ids=batch["ids"])
            losses.append(training.descend(batch))
            if step + 1 in kept:
                _copy(training, out, step + 1)
            if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
                path.save()
                _save(out / "training.pt", training, step + 1, losses)
    parts = path.contributions()
    keep_map(parts, noise_level_contributions(parts, queries.bucket, levels))
    parts.meta["losses"] = {"first": losses[0], "last_100": sum(losses[-100:]) / len(losses[-100:])}
    write_atomic(out / "losses.json", json.dumps(losses) + "\n")
    parts.save(out / "path.npz")
    for name in ("training.pt", "recording.pt"):
        (out / name).unlink(missing_ok=True)
    return parts


def level_setup(
    unet: Any, scheduler: Any, held_out: Tensor, buckets: int, per_bucket: int
) -> tuple[Denoiser, NoiseBuckets, LevelQueries]:
    """The denoiser around a network that trains, its noise buckets, and the queries of a recording."""
    from genkernel.diffusion.contributions import NoiseBuckets, noise_level_queries
    from genkernel.workflows import wrap

    den = wrap(unet, scheduler=scheduler)
    levels = NoiseBuckets(den.schedule, buckets)
    return den, levels, noise_level_queries(den, held_out, levels, per_bucket, seed=HELD_OUT)


def _check_identity(out: Path, identity: dict[str, Any]) -> None:
    path = out / "identity.json"
    if path.is_file() and read_json(path) != json.loads(json.dumps(identity)):
        raise InputError(f"{out} holds a recording of another run: choose another folder")


def _copy(training: DDPMTraining, out: Path, step: int) -> None:
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in training.unet.state_dict().items()}
    write_atomic(out / "weights" / f"{step:06d}.safetensors", save(tensors))


def _save(path: Path, training: DDPMTraining, step: int, losses: list[float]) -> None:
    state = {name: part.state_dict() for name, part in training.parts.items()}
    buffer = io.BytesIO()
    torch.save({"parts": state, "step": step, "losses": losses}, buffer)
    write_atomic(path, buffer.getvalue())


def _resume(path: Path, training: DDPMTraining) -> tuple[int, list[float]]:
    if not path.is_file():
        return 0, []
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, part in training.parts.items():
        part.load_state_dict(state["parts"][name])
    return state["step"], state["losses"]

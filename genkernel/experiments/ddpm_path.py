"""A DDPM's training, recorded by noise level: which levels was each level learned from?

The run is the one that :func:`genkernel.models.ddpm.train_ddpm` makes. It is resumable: weights, optimizer, losses and
the recording are saved together.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.experiments.recorded_training import claim_folder, finish_training, resume_training, save_training
from genkernel.paths.maps import keep_map
from genkernel.runs import data_sha256, json_ready, read_json, write_atomic

if TYPE_CHECKING:
    from genkernel.diffusion import Denoiser
    from genkernel.diffusion.contributions import LevelQueries, NoiseBuckets
    from genkernel.experiments.outcome import Outcome
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
    rule: str = "adaptive",
    windows: int = 32,
    copies: int = 3,
    save_every: int = 100,
    progress: bool = True,
) -> PathDecomposition:
    """Train a DDPM and record what every bucket of noise levels did to every other.

    ``out`` gets ``path.npz``, ``losses.json`` and ``weights/<step>.safetensors`` (the initial weights, ``copies``
    evenly spaced ones, the last among them). ``training.pt`` holds an unfinished run and its recording, which a
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

    out = Path(out)
    identity = {
        "recipe": asdict(recipe),
        "images": data_sha256(images),
        "held_out": data_sha256(held_out),
        "buckets": buckets,
        "per_bucket": per_bucket,
        "rule": rule,
        "windows": windows,
        "copies": copies,
    }
    claim_folder(out, identity)
    if (out / "path.npz").is_file():
        return PathDecomposition.load(out / "path.npz")
    (out / "weights").mkdir(exist_ok=True)
    training = DDPMTraining(images, recipe)
    start, losses, recorded = resume_training(out, training.parts)
    den, levels, queries = level_setup(training.unet, training.scheduler, held_out, buckets, per_bucket)
    kept = {round(recipe.steps * k / copies) for k in range(copies + 1)}
    if start == 0:
        _copy(training, out, 0)
    with record(
        training.unet,
        training.optimizer,
        ddpm_losses,
        groups=levels.groups(),
        queries=queries.batch,
        query_call=den.tangent.call,
        rule=rule,
        windows=windows,
    ) as path:
        if recorded is not None:
            path.load_state_dict(recorded)
        for step in trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train"):
            batch = training.batch(step)
            path.batch(batch, ids=batch["ids"])
            losses.append(training.descend(batch))
            path.require_going()
            if step + 1 in kept:
                _copy(training, out, step + 1)
            if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
                save_training(out, training.parts, step + 1, losses, path.state_dict())
    parts = path.contributions()
    keep_map(parts, noise_level_contributions(parts, queries.bucket, levels))
    parts.meta["losses"] = {"first": losses[0], "last_100": sum(losses[-100:]) / len(losses[-100:])}
    write_atomic(out / "losses.json", json.dumps(losses) + "\n")
    parts.save(out / "path.npz")
    finish_training(out)
    return parts


def compare_with_kernel(
    out: str | Path, held_out: Tensor, *, per_bucket: int = 4, probes: int = 8, seed: int = 0, progress: bool = True
) -> Outcome:
    """How local the contributions of a recorded run are, beside how local its kernel is at every kept copy.

    Args:
        out: the folder of :func:`record_ddpm`.
        held_out: images as there.
        per_bucket, probes, seed: of :func:`genkernel.diffusion.contributions.level_kernels`.
        progress: show a progress bar.
    """
    from tqdm.auto import tqdm

    from genkernel.diffusion.contributions import level_kernels, noise_level_contributions
    from genkernel.experiments.outcome import Claim, Outcome, Table
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining
    from genkernel.paths import PathDecomposition
    from genkernel.plots.group_maps import level_indices, level_map

    out = Path(out)
    identity = read_json(out / "identity.json")
    recipe = DDPMRecipe(**{**identity["recipe"], "widths": tuple(identity["recipe"]["widths"])})
    parts = PathDecomposition.load(out / "path.npz")
    training = DDPMTraining(held_out[:1], recipe)
    den, levels, queries = level_setup(
        training.unet, training.scheduler, held_out, identity["buckets"], identity["per_bucket"]
    )
    maps = noise_level_contributions(parts, queries.bucket, levels)
    keep_map(parts, maps)
    copies = sorted((out / "weights").glob("*.safetensors"))
    kernels = {
        int(file.stem): level_kernels(
            den, held_out, levels, per_bucket=per_bucket, probes=probes, seed=seed, weights=file
        )
        for file in tqdm(copies, disable=not progress, desc="kernels")
    }
    steps, losses = parts.edges[-1], read_json(out / "losses.json")
    last = sum(losses[-100:]) / len(losses[-100:])
    early, late = min(kernels), max(kernels)
    own = parts.signed()[torch.tensor(parts.data)]  # [B, m]
    diagonal = float(own[queries.bucket, torch.arange(len(queries.bucket))].median())
    gross, net = float(maps.index_gross[0]), float(maps.index_net[0])
    cosine = sum(k.index_normalized for k in kernels.values()) / len(kernels)
    claims = [
        Claim(
            "the change of every prediction is the sum of what the noise levels did to it (Cor. 4.1 of Guo, He, Morel)",
            f"gap {parts.gap_rel:.2%} of the largest change after {steps:,} steps (loss {losses[0]:.3f} to {last:.3f})",
            "yes" if parts.gap_rel <= 0.01 else "partly",
        ),
        Claim(
            "a noise level is learned from noise levels nearby",
            f"locality index {gross:.2f} of what was at work (gross), {net:.2f} of what was left of it (net); a "
            f"level's own bucket made {diagonal:.0%} of its change in the median, with "
            f"{1 / levels.count:.0%} of the samples",
            "yes" if min(gross, net) > 0.1 else "partly" if gross > 0.05 else "no",
        ),
        Claim(
            "learning is as local as the normalised kernel (within 0.1 in the index)",
            f"kernel {cosine:.2f} (mean over copies; {kernels[early].index_normalized:.2f} before training, "
            f"{kernels[late].index_normalized:.2f} after), contributions {gross:.2f} gross and {net:.2f} net",
            "yes" if max(abs(cosine - gross), abs(cosine - net)) <= 0.1 else "no",
        ),
    ]
    rows = zip(maps.stretches, maps.index_gross.tolist(), maps.index_net.tolist(), strict=True)
    stretches = Table(
        "Locality indices of contributions (0: as the samples are spread, 1: all within the window)",
        ("steps", "gross", "net"),
        [(f"{a:,} to {b:,}", g, n) for (a, b), g, n in rows],
    )
    states = Table(
        "Locality indices of the kernel",
        ("step", "normalised", "unnormalised"),
        [(step, k.index_normalized, k.index_raw) for step, k in kernels.items()],
    )
    numbers = {
        "gap_relative": parts.gap_rel, "gap_absolute": parts.gap_abs, "overhead": parts.meta["overhead"],
        "loss_first": losses[0], "loss_last_100": last, "sources": parts.sources, "maps": json_ready(maps),
        "kernels": {str(step): json_ready(k) for step, k in kernels.items()}, "own_bucket_share_median": diagonal,
        "net_size": parts.net_size().mean(1).tolist(), "gross_size": parts.gross_size().mean(1).tolist(),
    }  # fmt: skip
    figures = {f"map_{kind}": level_map(parts, kind) for kind in ("gross", "net", "signed")}
    figures["indices"] = level_indices(parts, [(step, k.index_normalized, k.index_raw) for step, k in kernels.items()])
    settings = {**identity, "per_bucket_kernel": per_bucket, "probes": probes, "seed": seed}
    return Outcome("ddpm-path", settings, claims, [stretches, states], figures, numbers)


def level_setup(
    unet: Any, scheduler: Any, held_out: Tensor, buckets: int, per_bucket: int
) -> tuple[Denoiser, NoiseBuckets, LevelQueries]:
    """The denoiser around a network that trains, its noise buckets, and the queries of a recording."""
    from genkernel.diffusion.contributions import NoiseBuckets, noise_level_queries
    from genkernel.workflows import wrap

    den = wrap(unet, scheduler=scheduler)
    levels = NoiseBuckets(den.schedule, buckets)
    return den, levels, noise_level_queries(den, held_out, levels, per_bucket, seed=HELD_OUT)


def _copy(training: DDPMTraining, out: Path, step: int) -> None:
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in training.unet.state_dict().items()}
    write_atomic(out / "weights" / f"{step:06d}.safetensors", save(tensors))

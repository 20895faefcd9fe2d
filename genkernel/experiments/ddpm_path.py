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

from genkernel.experiments.recorded_training import (
    IDENTITY,
    UNFINISHED,
    claim_folder,
    finish_training,
    path_numbers,
    resume_training,
    save_training,
)
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
        InputError: ``out`` holds another run, or a state that cannot be gone on from.
        RecordingError: the recording stopped.
    """
    from tqdm import trange

    from genkernel.bench.record import provenance
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
        parts = PathDecomposition.load(out / "path.npz")
        finish_training(out)  # a run that was stopped right after it had saved them left its state
        return parts
    (out / "weights").mkdir(exist_ok=True)
    training = DDPMTraining(images, recipe)
    saved = resume_training(out, training.parts)
    start, losses = saved.step, saved.losses
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
        if saved.recording is not None:
            path.load_state_dict(saved.recording)
        for step in trange(start, recipe.steps, initial=start, total=recipe.steps, disable=not progress, desc="train"):
            batch = training.batch(step)
            path.batch(batch, ids=batch["ids"])
            losses.append(training.descend(batch).loss)
            path.require_going()
            if step + 1 in kept:
                _copy(training, out, step + 1)
            if (step + 1) % save_every == 0 and step + 1 < recipe.steps:
                save_training(out / UNFINISHED, training.parts, step + 1, losses, path.state_dict())
    parts = path.contributions()
    keep_map(parts, noise_level_contributions(parts, queries.bucket, levels))
    parts.meta["provenance"] = provenance(torch.device("cpu"))
    parts.meta["losses"] = {"first": losses[0], "last_100": sum(losses[-100:]) / len(losses[-100:])}
    write_atomic(out / "losses.json", json.dumps(losses) + "\n")
    parts.save(out / "path.npz")
    finish_training(out)
    return parts


def compare_with_kernel(
    out: str | Path, held_out: Tensor, *, per_bucket: int = 4, probes: int = 8, seed: int = 0, progress: bool = True
) -> Outcome:
    """How local the contributions of a recorded run are, beside how local its kernel is at every kept copy.

    The kernel's index is the mean over the copies. Contributions differ from it if they do by more than two standard
    errors of their own index (:func:`index_errors`), which says nothing of the samples that the kernel is measured on.

    Args:
        out: the folder of :func:`record_ddpm`.
        held_out: images as there.
        per_bucket, probes, seed: of :func:`genkernel.diffusion.contributions.level_kernels`.
        progress: show a progress bar.
    """
    from tqdm import tqdm

    from genkernel.diffusion.contributions import level_kernels, noise_level_contributions
    from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining
    from genkernel.paths import PathDecomposition
    from genkernel.plots.group_maps import level_indices, level_map

    out = Path(out)
    identity = read_json(out / IDENTITY)
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
    errors = index_errors(parts, queries.bucket, levels)
    claims = [
        Claim(
            "the change of every prediction is the sum of what the noise levels did to it (Cor. 4.1 of Guo, He, Morel; "
            "gap at most 1 %, partly: 5 %)",
            f"gap {parts.gap_rel:.2%} of the largest change after {steps:,} steps (loss {losses[0]:.3f} to {last:.3f})",
            adds_up(parts.gap_rel),
        ),
        Claim(
            "a noise level is learned from noise levels nearby (both indices above 0.1; partly: gross above 0.05)",
            f"locality index {gross:.2f} of what was at work (gross), {net:.2f} of what was left of it (net); a "
            f"level's own bucket made {diagonal:.0%} of its change in the median, with "
            f"{1 / levels.count:.0%} of the samples",
            "yes" if min(gross, net) > 0.1 else "partly" if gross > 0.05 else "no",
        ),
        *(
            Claim(
                f"{words} more local than the normalised kernel (index, by two standard errors over the queries)",
                f"{index:.3f} ± {error:.3f} {kind}; kernel {cosine:.3f} (mean over copies; "
                f"{kernels[early].index_normalized:.3f} before training, {kernels[late].index_normalized:.3f} after)",
                _decided(index - cosine, error),
            )
            for kind, words, index, error in (
                ("gross", "what was at work is", gross, errors["gross"]),
                ("net", "what is left of it after the whole training is", net, errors["net"]),
            )
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
        **path_numbers(parts, queries.bucket, [f"level {k}" for k in range(levels.count)]),
        "loss_first": losses[0],
        "loss_last_100": last,
        "sources": parts.sources,
        "maps": json_ready(maps),
        "index_standard_errors": errors | {"over": "queries, jackknife within every noise level, whole training"},
        "index_kernel": cosine,
        "kernels": {str(step): json_ready(k) for step, k in kernels.items()},
        "own_bucket_share_median": diagonal,
        "net_size": parts.net_size().mean(1).tolist(),
        "gross_size": parts.gross_size().mean(1).tolist(),
    }
    figures = {f"map_{kind}": level_map(parts, kind) for kind in ("gross", "net", "signed")}
    figures["indices"] = level_indices(parts, [(step, k.index_normalized, k.index_raw) for step, k in kernels.items()])
    settings = {**identity, "per_bucket_kernel": per_bucket, "probes": probes, "seed": seed}
    return Outcome("ddpm-path", settings, claims, [stretches, states], figures, numbers)


def index_errors(parts: PathDecomposition, query_buckets: Tensor, levels: NoiseBuckets) -> dict[str, float]:
    """Standard errors of the locality indices of a whole training, ``"gross"`` and ``"net"``: over its queries.

    The jackknife within strata: Σ_b (n_b - 1)/n_b Σ_i (θ_bi - θ̄_b)² with θ_bi the index without query i of bucket b,
    as queries are drawn within fixed buckets (Wolter, Introduction to Variance Estimation, 2007, ch. 4).

    Args:
        parts, query_buckets, levels: as for :func:`genkernel.diffusion.contributions.noise_level_contributions`.

    Returns:
        NaN where a bucket has fewer than two queries.
    """
    from genkernel.diffusion.contributions import noise_level_contributions

    every = torch.arange(len(query_buckets))
    found = {"gross": 0.0, "net": 0.0}
    for bucket in range(levels.count):
        own = every[query_buckets == bucket]
        if len(own) < 2:
            return dict.fromkeys(found, float("nan"))
        without = []
        for query in own:
            kept = every[every != query]
            maps = noise_level_contributions(parts.of(kept), query_buckets[kept], levels)
            without.append((float(maps.index_gross[0]), float(maps.index_net[0])))
        spread = torch.tensor(without, dtype=torch.float64).var(0, correction=0) * (len(own) - 1)
        for kind, value in zip(found, spread.tolist(), strict=True):
            found[kind] += value
    return {kind: value**0.5 for kind, value in found.items()}


def _decided(difference: float, error: float) -> str:
    """Whether a difference is above zero: "yes" or "no" beyond two standard errors, else "undecided"."""
    return "yes" if difference > 2 * error else "no" if difference < -2 * error else "undecided"


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

"""Denoisers beside GANs: are the corrections of one local, and those of the other coupled, and is that their doing?

Section 4.3 of Guo, He, Morel: corrections of diffusion models are localized at nearby noise levels, those of GANs are
globally coupled through the discriminator. They show no experiment; all settings are ours. A denoiser, a GAN and, as a
control, the GAN's generator on fixed targets learn the same ring of Gaussians with networks of one size and one
optimizer. Contributions are recorded from block to block along the whole training and read by one index of coupling.
Noise levels and latents are different kinds of blocks: both models are therefore also recorded by the mode of the ring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genkernel.experiments.contrast.coupling import Blocks, Coupled, one_step, recorded
from genkernel.experiments.contrast.found import Found
from genkernel.experiments.contrast.models import (
    Model,
    chosen,
    diffusion,
    gan,
    judged,
    mixture,
    nearest,
    pool,
    regression,
    sector,
)
from genkernel.experiments.contrast.setting import (
    COLLAPSING,
    DENOISER,
    GAN,
    LEVELS,
    MODES,
    QUICK,
    RECORDINGS,
    REGRESSION,
    SECTORS,
    STEPPED,
    STEPS,
    Setting,
)
from genkernel.experiments.outcome import Outcome

_ONCE = 55_555_555  # seeds of single steps, away from those of the trainings


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """How coupled the blocks of denoisers and GANs are.

    Args:
        setting: sizes.
    """
    from tqdm import tqdm

    from genkernel.experiments.contrast.outcome import outcome_of

    setting = setting or (QUICK if quick else Setting())
    found = []
    with tqdm(total=setting.seeds * len(RECORDINGS), disable=not progress, desc="contrast") as bar:
        for k in range(setting.seeds):
            found.append(measure(setting, seed + k, bar.update))
    return outcome_of(found, setting, asdict(setting) | {"quick": quick, "seed": seed})


def measure(setting: Setting, seed: int, tick: Any = lambda: None) -> Found:
    """All recordings of one seed."""
    modes = mixture(setting).modes
    bare, training = gan(setting, seed)
    for step in range(setting.steps):
        training.step(step)
    target = copy.deepcopy(bare.module).eval().requires_grad_(False)
    coverage = {GAN: _coverage(training)}
    found: dict[tuple[str, str], dict[str, Coupled]] = {}
    losses: dict[str, tuple[float, float]] = {}
    parameters = {GAN: sum(p.numel() for p in target.parameters())}
    for model, kind in RECORDINGS:
        if model == DENOISER:
            one, den = diffusion(setting, seed)
            blocks = _levels(den, setting, seed) if kind == LEVELS else _denoised_modes(den, setting, seed, modes)
            parameters[DENOISER] = sum(p.numel() for p in one.module.parameters())
            start = one
        elif model == REGRESSION:
            one = start = regression(setting, seed, target)
            blocks = _of_latents(setting, seed, kind, target, modes, lambda batch: batch["z"], lambda batch: batch["y"])
        else:
            one, training = gan(setting, seed, model)
            generator = one.module
            blocks = _of_latents(setting, seed, kind, target, modes, lambda z: z, partial(_samples, generator))
            start = judged(setting, seed, model)
        batch = one.draw(setting.once, _ONCE + seed)
        before = _loss(one, batch)
        # the outputs of an untrained generator are at no mode: its latents are grouped as the final map groups them
        apart = replace(blocks, of=_by_final_map(target, modes)) if (model, kind) == (GAN, MODES) else blocks
        first = _single_steps("start", start, apart, batch, setting, (model, kind) in STEPPED)
        whole = recorded(one, blocks, setting.steps)
        found[model, kind] = (
            dict(zip(("first", "last", "whole"), whole, strict=True))
            | first
            | _single_steps("end", one, blocks, batch, setting, (model, kind) in STEPPED)
        )
        if model in (DENOISER, REGRESSION):
            losses[model] = before, _loss(one, batch)
        if model == COLLAPSING:
            coverage[model] = _coverage(training)
        tick()
    return Found(seed, found, coverage, losses, parameters)


def _single_steps(
    when: str, model: Model, blocks: Blocks, batch: Any, setting: Setting, several: bool
) -> dict[str, Coupled]:
    """The plain step on all samples under ``when``; with ``several`` the other steps under their names."""
    parts = max(1, setting.once // setting.batch)
    found = {when: one_step(model, blocks, batch)}
    for name, (adam, small) in STEPS.items() if several else ():
        if adam or small:
            found[f"{when}, {name}"] = one_step(model, blocks, batch, adam=adam, parts=parts if small else 1)
    return found


def _coverage(training: Any) -> tuple[int, float]:
    found = training.source.coverage(training.samples(2000))
    return found.modes, found.share


@torch.no_grad()
def _loss(model: Model, batch: Any) -> float:
    return float(model.losses(model.module, batch).mean())


@torch.no_grad()
def _samples(generator: torch.nn.Module, z: Tensor) -> Tensor:
    found: Tensor = generator(z)
    return found


# ---------------------------------------------------------------------------------- blocks


def _levels(den: Any, setting: Setting, seed: int) -> Blocks:
    """Noise levels of equal width; queries are held-out points with noise of their own."""
    from genkernel.diffusion.contributions import NoiseBuckets, noise_level_queries
    from genkernel.experiments.noise_locality.training import joint_queries

    buckets = NoiseBuckets(den.schedule, setting.blocks)
    held_out = mixture(setting).draw(setting.blocks * setting.queries, torch.Generator().manual_seed(_ONCE - seed))
    queries = noise_level_queries(den, held_out, buckets, setting.queries, seed=seed).batch
    return Blocks(
        setting.blocks, lambda batch: buckets.of(batch["t"]), joint_queries(queries, setting.blocks),
        range(setting.blocks), ring=False,
    )  # fmt: skip


def _denoised_modes(den: Any, setting: Setting, seed: int, modes: Tensor) -> Blocks:
    """Modes of the clean points. Two rows of queries each: of the lower half of the timesteps, then of the upper."""
    draw = torch.Generator().manual_seed(_ONCE - seed)
    each, count = setting.queries, setting.blocks
    mode = torch.arange(count).repeat_interleave(each).repeat(2)
    clean = modes[mode] + setting.std * torch.randn(len(mode), 2, generator=draw)
    noise = torch.randn(len(mode), 2, generator=draw)
    share = (torch.arange(each) + 0.5) / each
    t = torch.cat([(half + share) * setting.timesteps / 2 for half in (0, 1) for _ in range(count)]).long()
    from genkernel.experiments.noise_locality.training import joint_queries

    queries = joint_queries(den.batch(den.noisy(clean, t, noise), t), 2 * count)
    return Blocks(
        count, lambda batch: nearest(batch["clean"], modes), queries, [*range(count)] * 2, ring=True
    )  # fmt: skip


def _of_latents(
    setting: Setting, seed: int, kind: str, target: torch.nn.Module, modes: Tensor, latent: Any, sample: Any
) -> Blocks:
    """Sectors of latents, or modes of their samples: at the moment they are drawn, for queries those of the final map.

    Args:
        target: the map that the GAN ends with.
        latent, sample: of a batch.
    """
    z = pool(seed)
    count = setting.blocks
    labels = sector(z, count) if kind == SECTORS else nearest(_samples(target, z), modes)
    picked, rows = chosen(labels, count, setting.queries)

    def of(batch: Any) -> Tensor:
        return sector(latent(batch), count) if kind == SECTORS else nearest(sample(batch), modes)

    return Blocks(count, of, z[picked].unflatten(0, (len(rows), -1)), rows, ring=True)


def _by_final_map(target: torch.nn.Module, modes: Tensor) -> Callable[[Tensor], Tensor]:
    """The mode where the map that the GAN ends with puts a latent."""
    return lambda z: nearest(_samples(target, z), modes)

"""A small denoiser's training, recorded by noise level, with its weights at the start, in the middle and at the end.

Learning rates are chosen in trainings of their own, which are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.diffusion.contributions import NoiseBuckets, noise_level_queries
from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.experiments.learning_rates import RATES, lowest
from genkernel.experiments.noise_locality.networks import denoiser, rescaled
from genkernel.experiments.noise_locality.setting import ADAM, FIRST, POINTS, SGD, SINUSOIDAL, Setting, Variant
from genkernel.paths import PathDecomposition, record

#: parts of the training that contributions are summed over, beside the whole: around the weights that kernels are of
STRETCHES = ((0.0, 0.1), (0.45, 0.55), (0.9, 1.0))
_HELD_OUT, _STEPS = 10_007, 1_000_003  # apart from each other
_TUNING = 50_000  # added to the seeds of trainings that choose learning rates


@dataclass
class Trained:
    """A denoiser and how it came about.

    Attributes:
        den: with its weights at the end.
        weights: states of its network at the start, in the middle, and at the end.
        parts: what the samples of every noise level did to the predictions at every level, whose queries count as one.
        stretches: of the steps: around the three states, and all of them.
        buckets: the noise levels.
        before, after: mean loss of the held-out queries.
    """

    den: Denoiser
    weights: list[dict[str, Tensor]]
    parts: PathDecomposition
    stretches: list[tuple[int, int]]
    buckets: NoiseBuckets
    before: float
    after: float


@lru_cache(maxsize=2)
def samples(domain: str, setting: Setting, seed: int, data: str | Path | None) -> tuple[Tensor, Tensor]:
    """Training samples and held-out ones: points ``[n, 2]``, or digits ``[n, 1, h, w]`` in [-1, 1]."""
    sizes = setting.of(domain)
    held = max(sizes.images, sizes.queries * setting.levels)
    if domain == POINTS:
        from genkernel.models.mixtures import ring

        drawn = ring(std=setting.std).draw(sizes.train + held, torch.Generator().manual_seed(seed))
        return drawn[: sizes.train], drawn[sizes.train :]
    from genkernel.experiments.shrunk_images import shrunk

    assert data is not None
    found = []
    for split, count in (("train", sizes.train), ("test", held)):
        pixels, _ = shrunk(data, "mnist", setting.pixels, count, split=split, seed=seed)
        found.append((2 * pixels - 1).float().view(-1, 1, setting.pixels, setting.pixels))
    return found[0], found[1]


def losses(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of every sample: the mean squared error of the predicted noise ``[b]``."""
    return (module(batch["x"], batch["t"]) - batch["target"]).square().flatten(1).mean(1)


def optimizer_of(module: nn.Module, variant: Variant, setting: Setting, rate: float) -> torch.optim.Optimizer:
    """Adam, or SGD with momentum."""
    if variant.optimizer == SGD:
        return torch.optim.SGD(module.parameters(), lr=rate, momentum=setting.momentum)
    return torch.optim.Adam(module.parameters(), lr=rate)


def started(domain: str, variant: Variant, setting: Setting, seed: int, clean: Tensor) -> Denoiser:
    """An untrained denoiser of samples like ``clean``."""
    sizes = setting.of(domain)
    schedule = NoiseSchedule.vp(timesteps=setting.timesteps, beta_schedule=variant.schedule)
    if variant.rescaled:
        schedule = rescaled(schedule, float(clean.double().square().mean()))
    return denoiser(
        tuple(clean.shape[1:]), variant.embedding, schedule,
        width=sizes.width, depth=sizes.depth, dim=setting.dim, blocks=setting.levels, seed=seed,
    )  # fmt: skip


def batches(
    den: Denoiser, clean: Tensor, steps: int, size: int, setting: Setting, seed: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Numbers of samples ``[b]`` and their noisy batch, for every step."""
    for step in range(steps):
        draw = torch.Generator().manual_seed(seed * _STEPS + step)
        ids = torch.randint(len(clean), (size,), generator=draw)
        noise = torch.randn((size, *clean.shape[1:]), generator=draw)
        t = torch.randint(setting.timesteps, (size,), generator=draw)
        yield ids, den.loss_batch(clean[ids], noise, t)


def chosen_rate(
    domain: str, optimizer: str, setting: Setting, seed: int, data: str | Path | None
) -> tuple[float, dict[float, float]]:
    """The learning rate with the smallest training loss at the end, and the losses of all that were tried.

    On samples and weights of their own, with the sinusoidal embedding and the linear schedule. The search goes up and
    down :data:`~genkernel.experiments.learning_rates.RATES` until the best one has worse ones on both sides.
    """
    sizes, variant = setting.of(domain), Variant(SINUSOIDAL, "linear", optimizer=optimizer)

    def at_end(rate: float) -> float:
        found = []
        for one in range(seed + _TUNING, seed + _TUNING + setting.tuning_seeds):
            clean, _ = samples(domain, setting, one, data)
            den = started(domain, variant, setting, one, clean)
            steps = optimizer_of(den.module, variant, setting, rate)
            for _, batch in batches(den, clean, sizes.steps, sizes.batch, setting, one):
                steps.zero_grad()
                losses(den.module, batch).mean().backward()
                steps.step()
            found.append(_mean_loss(den.module, _noisy(den, clean, setting, one)))
        value = float(np.mean(found))
        return value if np.isfinite(value) else float("inf")

    return lowest(RATES, FIRST[optimizer], at_end)


def chosen_rates(domain: str, setting: Setting, seed: int, data: str | Path | None) -> dict[str, dict[float, float]]:
    """Of the optimizers of a domain (:func:`chosen_rate`): name → losses by rate."""
    names = (ADAM, SGD) if domain == POINTS else (ADAM,)
    return {name: chosen_rate(domain, name, setting, seed, data)[1] for name in names}


def best(tried: dict[float, float]) -> float:
    """The rate with the smallest loss."""
    return min(tried, key=lambda rate: tried[rate])


def joint_queries(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """Queries one after the other as ``count`` groups of equal size, for :func:`joint_call`."""
    return {name: value.unflatten(0, (count, -1)) for name, value in batch.items()}


def joint_call(module: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Outputs at groups of noisy samples ``[groups, each, ...]``: the queries of a level count as one."""
    count = batch["t"].shape[0]
    return module(batch["x"].flatten(0, 1), batch["t"].flatten(0, 1)).unflatten(0, (count, -1))


def train(
    domain: str, variant: Variant, setting: Setting, seed: int, data: str | Path | None, rate: float = FIRST[ADAM]
) -> Trained:
    """One training; the same seed gives the same samples, initial weights and batches, whatever the variant."""
    sizes = setting.of(domain)
    clean, held_out = samples(domain, setting, seed, data)
    den = started(domain, variant, setting, seed, clean)
    buckets = NoiseBuckets(den.schedule, setting.levels)
    queries = noise_level_queries(den, held_out, buckets, sizes.queries, seed=_HELD_OUT + seed)
    optimizer = optimizer_of(den.module, variant, setting, rate)
    edges = sorted({round(part * sizes.steps) for stretch in STRETCHES for part in stretch})
    weights = [_copy(den.module)]
    test = _noisy(den, held_out, setting, seed)
    before = _mean_loss(den.module, test)
    with record(
        den.module,
        optimizer,
        losses,
        groups=buckets.groups(),
        queries=joint_queries(queries.batch, setting.levels),
        query_call=joint_call,
        rule="adaptive",
        windows=edges[:-1],
        verbose=False,
    ) as path:
        for step, (ids, batch) in enumerate(batches(den, clean, sizes.steps, sizes.batch, setting, seed)):
            path.batch(batch, ids=ids)
            optimizer.zero_grad()
            losses(den.module, batch).mean().backward()
            optimizer.step()
            path.require_going()
            if step + 1 == sizes.steps // 2:
                weights.append(_copy(den.module))
    weights.append(_copy(den.module))
    stretches = [(round(a * sizes.steps), round(b * sizes.steps)) for a, b in STRETCHES]
    return Trained(
        den, weights, path.contributions(), [*stretches, (0, sizes.steps)], buckets, before,
        _mean_loss(den.module, test),
    )  # fmt: skip


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _noisy(den: Denoiser, clean: Tensor, setting: Setting, seed: int) -> dict[str, Tensor]:
    """Samples in turn at 512 timesteps, with noise that no training has seen."""
    draw = torch.Generator().manual_seed(_HELD_OUT + seed)
    ids = torch.arange(512) % len(clean)
    noise = torch.randn((512, *clean.shape[1:]), generator=draw)
    return den.loss_batch(clean[ids], noise, torch.randint(setting.timesteps, (512,), generator=draw))


@torch.no_grad()
def _mean_loss(module: nn.Module, batch: dict[str, Tensor]) -> float:
    return float(losses(module, batch).mean())

"""How local in noise level kernels and contributions are, all by one index, and what embeddings say of kernels.

The index of a nonnegative matrix over L levels is (S - U)/(1 - U) averaged over rows: S the share of a row within the
window (the level and its neighbours), U the share that the mean of all rows has there. 0: all rows are the same,
however loud some columns are; 1: nothing outside the windows. It is the index of THEORY §6 iv with the mean row in the
place of the mass of the samples, which knows how many samples a level has but not how loud they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.contributions import NoiseBuckets, massed_rows
from genkernel.diffusion.controls import Controls
from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.embedding import embedding_cosines, rank_correlation
from genkernel.diffusion.locality import default_window, level_kernel, window_mask
from genkernel.diffusion.resampling import Estimate
from genkernel.diffusion.results import LevelKernel, Levels
from genkernel.errors import InputError
from genkernel.experiments.noise_locality.networks import block_order
from genkernel.experiments.noise_locality.training import Trained
from genkernel.paths.maps import contribution_matrix

Array = NDArray[np.float64]

MOMENTS = ("start", "middle", "end")
KINDS = ("gross", "net")


@dataclass
class Kernels:
    """Of one state of the weights.

    Attributes:
        cosine, raw: indices of the cosine kernel and of the unnormalised one, over pairs of different samples.
        told: index of the cosine kernel with levels in the order of :func:`block_order`, in which a permuted embedding
            tells them.
        embedding_only, input_only, shuffled: indices of the controls of :mod:`genkernel.diffusion.controls`, NaN
            where they were not asked for.
        rank_raw, rank_told, rank_lag: Spearman's correlation of the level kernel with the cosines of the embedding, of
            the embedding after the time MLP, and with -|Δt|, over pairs of different levels.
        matrix: cosine level kernel ``[L, L]``.
        lags: profiles over |Δt| ``[L]``: of the kernel and of its controls, by name.
    """

    cosine: float
    raw: float
    told: float
    embedding_only: float
    input_only: float
    shuffled: float
    rank_raw: float
    rank_told: float
    rank_lag: float
    matrix: Array
    lags: dict[str, Array] = field(default_factory=dict)


@dataclass
class Learning:
    """What was learned from which level, over one stretch.

    Attributes:
        gross, net: indices of contributions before and after cancellation over time.
        told: of the gross ones with levels in the order of a permuted embedding.
        by_mass: of the gross ones against the mass of the samples, as reports of the toolkit have it; not 0 where all
            levels learn from the same loud ones.
        matrices: ``"gross"`` and ``"net"``, rows are the queries' levels, each divided by its sum ``[L, L]``.
    """

    gross: float
    net: float
    told: float
    by_mass: float
    matrices: dict[str, Array]


def levels_of(den: Denoiser, buckets: NoiseBuckets) -> Levels:
    """The centres of the buckets as levels, with the bucket and its neighbours as window."""
    schedule = den.schedule
    timesteps = np.rint(buckets.centres)
    t = torch.from_numpy(timesteps)
    return Levels(
        timesteps=timesteps,
        log_snr=schedule.log_snr(t).numpy(),
        alpha=schedule.alpha(t).numpy(),
        sigma=schedule.sigma(t).numpy(),
        span=schedule.span,
        window_timesteps=default_window(timesteps, schedule.span),
        discrete=schedule.discrete,
    )


def index(matrix: Array, mass: Array | None = None) -> float:
    """Locality index of ``max(matrix, 0)`` with neighbouring levels as window.

    Args:
        matrix: ``[L, L]``.
        mass: of the columns, summing to 1 ``[L]``; the mean of the rows, each divided by its sum, by default.
    """
    found = np.maximum(matrix, 0.0)
    mask = window_mask(np.arange(len(found), dtype=np.float64), 1.0)
    if mass is None:
        sums = found.sum(1, keepdims=True)
        mass = (found / np.where(sums > 0, sums, 1.0))[sums[:, 0] > 0].mean(0)
    return float(np.nanmean(massed_rows(found, mass, mask)))


def in_told_order(matrix: Array) -> Array:
    """Rows and columns where a permuted embedding puts their levels."""
    order = np.argsort(block_order(len(matrix)))
    return matrix[np.ix_(order, order)]


def kernels(
    den: Denoiser, held_out: Tensor, buckets: NoiseBuckets, *, probes: int, seed: int, with_controls: bool = True
) -> Kernels:
    """Everything that is read off the kernel at the network's present weights.

    Args:
        held_out: samples, each of which is taken at all levels.
        probes: 0 for the exact trace kernel.
        seed: of noise and probes.
        with_controls: measure the controls as well.
    """
    from genkernel.tangent import exact_trace, kernel
    from genkernel.tangent import probes as random_probes

    cotangents = random_probes(probes, seed=seed) if probes else exact_trace()

    def compute(batch: Any, other: Any = None) -> Any:
        return kernel(den.tangent, batch, other, cotangents=cotangents, by=None, progress=False)

    levels = levels_of(den, buckets)
    controls = Controls(den, held_out, levels, compute, seed=seed, bootstrap=2)
    found = compute(controls.main.batch(den))

    def read(normalize: bool) -> LevelKernel:
        of, image = controls.main.level_of, controls.main.image_of
        return level_kernel(Estimate(found, normalize=normalize), of, image, levels, bootstrap=2, seed=seed)

    cosine, raw = read(True), read(False)
    others = {
        "embedding only": controls.embedding_only,
        "input only": controls.input_only,
        "shuffled levels": controls.shuffled_levels,
    }
    matrices = {name: of().matrix for name, of in others.items()} if with_controls else {}
    indices = {name: index(matrices[name]) if with_controls else float("nan") for name in others}
    told = embedding_cosines(den, levels.timesteps)
    lag = -np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    ranks = [float("nan") if one is None else rank_correlation(one, cosine)[0] for one in (*told, lag)]
    return Kernels(
        cosine=index(cosine.matrix),
        raw=index(raw.matrix),
        told=index(in_told_order(cosine.matrix)),
        embedding_only=indices["embedding only"],
        input_only=indices["input only"],
        shuffled=indices["shuffled levels"],
        rank_raw=ranks[0],
        rank_told=ranks[1],
        rank_lag=ranks[2],
        matrix=cosine.matrix,
        lags={"kernel": profile(cosine.matrix)} | {name: profile(matrix) for name, matrix in matrices.items()},
    )


def profile(matrix: Array) -> Array:
    """Mean over pairs of levels that are 0, 1, … L - 1 levels apart ``[L]``."""
    count = len(matrix)
    apart = np.abs(np.arange(count)[:, None] - np.arange(count)[None])
    return np.array([matrix[apart == k].mean() for k in range(count)])


def all_kernels(trained: Trained, held_out: Tensor, *, probes: int, seed: int) -> list[Kernels]:
    """:func:`kernels` at the start, in the middle (no controls there) and at the end, whose weights stay."""
    found = []
    for moment, weights in zip(MOMENTS, trained.weights, strict=True):
        trained.den.module.load_state_dict(weights)
        found.append(
            kernels(trained.den, held_out, trained.buckets, probes=probes, seed=seed, with_controls=moment != "middle")
        )
    return found


def learning(trained: Trained) -> list[Learning]:
    """Of the stretches around the three states, and of the whole training."""
    parts, count = trained.parts, trained.buckets.count
    data = torch.tensor(parts.data)
    labels = [source for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    if sorted(labels) != list(range(count)):
        raise InputError(f"levels {sorted(set(range(count)) - set(labels))} were never drawn: train for more steps")
    place = np.argsort(labels)  # sources are in the order in which they first came
    mass = parts.samples[data].double().numpy()[place]
    mass /= mass.sum()
    maps = {
        kind: contribution_matrix(parts, torch.arange(count), kind, trained.stretches).numpy()[..., place]
        for kind in KINDS
    }
    rows = {kind: found / found.sum(2, keepdims=True) for kind, found in maps.items()}
    return [
        Learning(
            gross=index(rows["gross"][k]),
            net=index(rows["net"][k]),
            told=index(in_told_order(rows["gross"][k])),
            by_mass=index(rows["gross"][k], mass),
            matrices={kind: rows[kind][k] for kind in KINDS},
        )
        for k in range(len(trained.stretches))
    ]

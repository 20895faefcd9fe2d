"""The timestep embedding as a coordinate of its own: its cosines, and kernels over (x_t, e).

A raw sinusoidal embedding never decorrelates (THEORY §6), so its cosine is compared with that after
the time MLP. Interpolating and swapping the embedding at a fixed input separates what the kernel
owes to e from what it owes to x_t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.pairs import grid
from genkernel.diffusion.resampling import (
    FEWEST_IMAGES,
    Estimate,
    as_grid,
    bootstrap_stderr,
    bootstrap_weights,
    jackknife_stderr,
    level_means,
    quadrature,
)
from genkernel.diffusion.results import Interpolation, LevelKernel, Levels

if TYPE_CHECKING:
    from collections.abc import Callable

    from genkernel.diffusion.denoiser import Denoiser

Array = NDArray[np.float64]

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the embedding interpolated to


def cosine_matrix(vectors: Tensor) -> Array:
    """Cosines between the rows of ``[L, d]`` in float64; 0 for a zero vector."""
    rows = vectors.detach().to("cpu", torch.float64).numpy()
    norms = np.linalg.norm(rows, axis=1)
    size = norms[:, None] * norms[None]
    return np.divide(rows @ rows.T, size, out=np.zeros_like(size), where=size > 0)


def embedding_cosines(den: Denoiser, timesteps: Array) -> tuple[Array | None, Array | None]:
    """Cosine matrices ``[L, L]`` of the raw embedding and after the time MLP; None where the model has none."""
    if not den.has_embedding:
        return None, None
    t = torch.tensor(timesteps, dtype=torch.float64)
    features = den.time_features(t)
    return cosine_matrix(den.embed(t)), None if features is None else cosine_matrix(features)


def rank_correlation(cosine: Array, kernel: LevelKernel) -> tuple[float, float]:
    """Spearman correlation with the level kernel over pairs of different levels, and its bootstrap error."""
    from scipy.stats import rankdata

    upper = np.triu_indices(len(cosine), 1)
    wanted = rankdata(cosine[upper])

    def correlation(matrix: Array) -> float:
        ranks = rankdata(matrix[upper])
        if np.ptp(ranks) == 0 or np.ptp(wanted) == 0:
            return float("nan")
        return float(np.corrcoef(wanted, ranks)[0, 1])

    replicates = kernel.matrix_bootstrap
    stderr = float("nan")
    if replicates is not None and kernel.images >= FEWEST_IMAGES:
        stderr = float(bootstrap_stderr(np.array([correlation(each) for each in replicates]), kernel.images))
    return correlation(kernel.matrix), stderr


def interpolate(
    den: Denoiser,
    images: Tensor,
    levels: Levels,
    from_level: int,
    to_level: int,
    compute: Callable[[Any], Any],
    *,
    seed: int,
    bootstrap: int = 200,
) -> Interpolation:
    """Kernel over (x_t, e) while e moves from one level's embedding to another's, and with the two swapped.

    Seven configurations of every image go into one kernel: the input of ``from_level`` with embeddings
    (1-λ) e_from + λ e_to for five λ, and the input of ``to_level`` with either level's embedding. Where
    the network uses the time beside its embedding, it is told the input's own.

    Args:
        from_level, to_level: indices of levels.
        compute: batch → kernel.
    """
    chosen = [float(levels.timesteps[from_level]), float(levels.timesteps[to_level])]
    pairs = grid(den, images, chosen, seed)
    count = pairs.images
    ends = den.embed(torch.tensor(chosen, dtype=torch.float64)).to(torch.float64)
    start, end = ends[0], ends[1]
    moved = [start + weight * (end - start) for weight in WEIGHTS]
    # configurations in order: x_from with each λ, then x_to with e_from and with e_to
    at = torch.tensor([0] * len(moved) + [1, 1]).repeat_interleave(count) * count + torch.arange(count).repeat(
        len(moved) + 2
    )
    emb = torch.stack([*moved, start, end]).repeat_interleave(count, 0)
    batch = den.batch(pairs.x_t[at], pairs.t[at], emb, rows=pairs.rows[at])
    estimate = Estimate(compute(batch), normalize=True)
    index = np.repeat(np.arange(len(moved) + 2), count), np.tile(np.arange(count), len(moved) + 2)
    matrix, stderr = _means(estimate, *index, bootstrap=bootstrap, seed=seed)
    steps, swap = np.arange(len(moved)), np.array([0, len(moved) - 1, len(moved), len(moved) + 1])
    return Interpolation(
        from_level=chosen[0],
        to_level=chosen[1],
        weights=np.array(WEIGHTS),
        matrix=matrix[np.ix_(steps, steps)],
        stderr=stderr[np.ix_(steps, steps)],
        swap_labels=["x from, e from", "x from, e to", "x to, e from", "x to, e to"],
        swapped=matrix[np.ix_(swap, swap)],
        swapped_stderr=stderr[np.ix_(swap, swap)],
    )


def _means(
    estimate: Estimate, level_of: NDArray[np.int64], image_of: NDArray[np.int64], *, bootstrap: int, seed: int
) -> tuple[Array, Array]:
    """Mean over pairs of different images and its standard error, for configurations in place of levels."""
    blocks = as_grid(estimate.values, level_of, image_of)
    images = blocks.shape[1]
    over_images = bootstrap_stderr(level_means(blocks, bootstrap_weights(images, max(bootstrap, 2), seed)), images)
    over_probes = None
    if estimate.probes:
        left_out = [level_means(as_grid(estimate.without(p), level_of, image_of)) for p in range(estimate.probes)]
        over_probes = jackknife_stderr(np.stack(left_out))
    return level_means(blocks), quadrature(over_images, over_probes)

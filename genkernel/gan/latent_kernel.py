"""The tangent kernel over latents, K_G(z, z′) = tr J_G(z) P J_G(z′)ᵀ (THEORY §7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.gan import measures
from genkernel.gan.clusters import Clusters
from genkernel.gan.generator import Generator
from genkernel.tangent import Kernel, exact_trace, kernel, probes

Array = NDArray[np.float64]

EXACT_UP_TO = 16  # outputs whose trace is taken exactly


@dataclass
class LatentKernel:
    """The normalised trace kernel over n latents, and what is read off it.

    Attributes:
        normalized: k(z, z′)/√(k(z, z) k(z′, z′)) ``[n, n]``.
        stderr: of each entry over probes ``[n, n]``; None when exact.
        norms: k(z, z) ``[n]``.
        eigenvalues: of ``normalized``, largest first ``[n]``.
        effective_rank: e^{H(λ/Σλ)}; compare at equal n.
        mean_off_diagonal: mean cosine over z ≠ z′.
        by_cluster: mean cosine between clusters ``[M, M]``, pairs z ≠ z′; NaN where there is no pair.
        effective_rank_stderr, mean_off_diagonal_stderr: by leaving probes out; NaN when exact or one probe.
        probes: 0 for the exact trace.
    """

    normalized: Array
    stderr: Array | None
    norms: Array
    eigenvalues: Array
    effective_rank: float
    mean_off_diagonal: float
    by_cluster: Array
    effective_rank_stderr: float = math.nan
    mean_off_diagonal_stderr: float = math.nan
    probes: int = 0


def latent_kernel(
    generator: Generator,
    batch: dict[str, Any],
    *,
    count: int = 8,
    seed: int = 0,
    precondition: Any = None,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    store: Any = None,
    progress: bool | None = None,
) -> Kernel:
    """K_G by the engine: the exact trace for up to 16 outputs, else ``count`` shared random probes.

    Products of the latter are summed in float32 blocks: their error of 1e-7 is far below that of the probes.
    """
    exact = math.prod(generator.output_shape) <= EXACT_UP_TO
    return kernel(
        generator.tangent,
        batch,
        cotangents=exact_trace() if exact else probes(count, seed),
        accumulate="float64" if exact else "float32",
        precondition=precondition,
        by=None,
        dtype=dtype,
        memory=memory,
        store=store,
        progress=progress,
    )


def read(found: Kernel, clusters: Clusters) -> LatentKernel:
    """The numbers of a kernel over latents, with their errors over probes."""
    cosines = found.normalized()
    values = cosines.values.numpy()
    rank, mean = measures.kernel_effective_rank(values), measures.mean_off_diagonal(values)
    rank_error = mean_error = math.nan
    count = 0 if found.per_probe is None else len(found.per_probe)
    if count > 1:
        left = [_without(found, k) for k in range(count)]
        rank_error = _jackknife_error([measures.kernel_effective_rank(v) for v in left])
        mean_error = _jackknife_error([measures.mean_off_diagonal(v) for v in left])
    stderr = cosines.stderr
    return LatentKernel(
        normalized=values,
        stderr=None if stderr is None else stderr.numpy(),
        norms=found.norms_x.numpy(),
        eigenvalues=np.linalg.eigvalsh((values + values.T) / 2)[::-1].copy(),
        effective_rank=rank,
        mean_off_diagonal=mean,
        by_cluster=between_clusters(values, clusters),
        effective_rank_stderr=rank_error,
        mean_off_diagonal_stderr=mean_error,
        probes=count,
    )


def between_clusters(values: Array, clusters: Clusters) -> Array:
    """Mean entry for each pair of clusters ``[M, M]``, without the diagonal."""
    hot = np.eye(clusters.count)[clusters.labels]
    total = hot.T @ values @ hot - np.diag(hot.T @ np.diag(values))
    pairs = np.outer(clusters.sizes, clusters.sizes) - np.diag(clusters.sizes)
    return np.divide(total, pairs, out=np.full_like(total, math.nan), where=pairs > 0)


def agreement(kernel_values: Array, updates: torch.Tensor) -> float:
    """Spearman correlation, over pairs z ≠ z′, of the kernel and of the cosine between how z and z′ move.

    NaN where all pairs are alike, or fewer than three move.

    Args:
        kernel_values: normalised kernel ``[n, n]``.
        updates: U(z) ``[n, *out]``.
    """
    from scipy.stats import spearmanr

    flat = updates.detach().double().flatten(1)
    size = flat.norm(dim=1)
    moved = (size > 0).numpy()
    unit = (flat[moved] / size[moved, None]).numpy()
    upper = np.triu_indices(len(unit), 1)
    kernels, cosines = kernel_values[np.ix_(moved, moved)][upper], (unit @ unit.T)[upper]
    if len(kernels) < 3 or np.ptp(kernels) == 0 or np.ptp(cosines) == 0:
        return math.nan
    return float(spearmanr(kernels, cosines).statistic)


def _without(found: Kernel, k: int) -> Array:
    from genkernel.tangent.result import cosines, without

    assert found.per_probe is not None and found.per_probe_norms_x is not None and found.per_probe_norms_y is not None
    totals = found.values, found.norms_x, found.norms_y
    parts = found.per_probe, found.per_probe_norms_x, found.per_probe_norms_y
    return cosines(*without(k, totals, parts)).clamp(-1, 1).numpy()


def _jackknife_error(left_out: list[float]) -> float:
    q = len(left_out)
    return math.sqrt((q - 1) * float(np.var(left_out)))

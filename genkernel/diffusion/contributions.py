"""Which noise levels a denoiser learned each noise level from, along its training.

The discrete form of Cor. 4.1 of Guo, He and Morel: with the training samples (x_t', t') grouped by the bucket of
their timestep, the change of the prediction at a query (x_t, t) is the sum over buckets of what their gradients did to
it, through the optimizer's own memory (:func:`genkernel.record`). Kernel, residual, learning rate, momentum and
preconditioner all enter, so the map says how local *learning* is, where the kernel's own map says how local a single
plain gradient step would be. Three readings, all needed: the **net** part (after cancellation over steps), the
**gross** part (before it), and the **signed** projection on the whole change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.locality import default_window, window_mask
from genkernel.diffusion.noise import keyed_noise_batch
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError
from genkernel.paths import PathDecomposition
from genkernel.paths.maps import contribution_matrix, thirds
from genkernel.tangent import kernel
from genkernel.tangent import probes as random_probes

Array = NDArray[np.float64]


class NoiseBuckets:
    """Training times in buckets of equal width.

    Args:
        schedule: whose times they are.
        count: B, how many buckets; 8 to 16 are affordable on large networks.

    Attributes:
        edges: times ``[B + 1]``.
        centres: times ``[B]``.

    Raises:
        InputError: fewer than two.
    """

    def __init__(self, schedule: NoiseSchedule, count: int = 10):
        if count < 2:
            raise InputError(f"noise levels fall into two or more buckets, not {count}")
        low, high = schedule.time_range
        self.schedule, self.count = schedule, count
        # a discrete time stands for the unit interval around it
        half = 0.5 if schedule.discrete else 0.0
        self.edges: Array = np.linspace(low - half, high + half, count + 1)
        self.centres: Array = (self.edges[1:] + self.edges[:-1]) / 2

    def of(self, times: Any) -> Tensor:
        """The bucket of each time ``[b]``, numbers from 0.

        Raises:
            InputError: a time lies outside of the schedule's range.
        """
        t = torch.as_tensor(times).detach().double().cpu()
        if bool(((t < self.edges[0]) | (t > self.edges[-1])).any()) or bool(torch.isnan(t).any()):
            raise InputError(
                f"times lie between {self.edges[0]:g} and {self.edges[-1]:g}, not {t.min():g} to {t.max():g}"
            )
        inner = torch.from_numpy(self.edges[1:-1].copy())
        return torch.bucketize(t, inner, right=True)

    def groups(self, key: str = "t") -> Callable[[Any, Any], Tensor]:
        """``groups=`` of :func:`genkernel.record`, for batches whose entry ``key`` holds the times."""
        return lambda ids, batch: self.of(batch[key])

    def log_snr(self) -> Array:
        """log(α²/σ²) at the centres ``[B]``."""
        return self.schedule.log_snr(torch.from_numpy(self.centres)).numpy()


@dataclass
class LevelQueries:
    """Noisy samples at which a denoiser is followed.

    Attributes:
        batch: for ``queries=`` of :func:`genkernel.record`, with ``query_call=den.tangent.call``.
        bucket: the bucket of each ``[m]``.
        times: of each ``[m]``.
    """

    batch: dict[str, Any]
    bucket: Tensor
    times: Tensor


def noise_level_queries(
    den: Denoiser, images: Tensor, buckets: NoiseBuckets, per_bucket: int = 2, seed: int = 0
) -> LevelQueries:
    """Queries spread evenly over every bucket, each of an image of its own with its own noise.

    Args:
        den: the denoiser.
        images: held-out images in [0, 1] ``[n, C, H, W]``, at least one; used in turn.
        per_bucket: queries in each bucket.
        seed: of the noise.
    """
    if per_bucket < 1:
        raise InputError(f"every bucket needs at least one query, not {per_bucket}")
    share = (np.arange(per_bucket) + 0.5) / per_bucket
    times = (buckets.edges[:-1, None] + share * np.diff(buckets.edges)[:, None]).reshape(-1)
    times = np.clip(np.rint(times) if buckets.schedule.discrete else times, *buckets.schedule.time_range)
    m = len(times)
    x0 = den.prepare(images[torch.arange(m) % len(images)])
    noise = keyed_noise_batch(den.sample_shape, seed, list(range(m)), times.tolist(), dtype=torch.float32)
    t = torch.from_numpy(times)
    x_t = den.noisy(x0, t, noise.to(x0))
    return LevelQueries(den.batch(x_t, t), torch.arange(m) // per_bucket, t)


@dataclass
class LevelContributions:
    """Training noise level → query noise level.

    Attributes:
        edges: times at which buckets start, and the last one's end ``[B + 1]``.
        centres, log_snr: of the B buckets.
        edges_log_snr: ``[B + 1]``; at the ends those of the first and the last time.
        stretches: K pairs of training steps; the first is the whole training.
        net, gross, signed: ``[K, B, B]``, rows are the queries' buckets, columns the samples'.
        mass: share of the training samples in each bucket ``[B]``.
        window: |Δt| that counts as local.
        index_net, index_gross: locality indices ``[K]``: (S - U)/(1 - U) averaged over rows, with S the share of a
            row within the window and U that of the training mass. 0: no locality, 1: all of it.
        rows_net, rows_gross: of every row ``[K, B]``.
        gap: completeness gap, relative.
    """

    kind: ClassVar[str] = "noise levels"

    edges: Array
    centres: Array
    log_snr: Array
    edges_log_snr: Array
    stretches: list[tuple[int, int]]
    net: Array
    gross: Array
    signed: Array
    mass: Array
    window: float
    index_net: Array
    index_gross: Array
    rows_net: Array
    rows_gross: Array
    gap: float


def noise_level_contributions(
    parts: PathDecomposition, query_buckets: Tensor, buckets: NoiseBuckets, window: float | None = None
) -> LevelContributions:
    """The maps of a recording whose groups are noise buckets.

    Args:
        parts: of :func:`genkernel.record` with ``groups=buckets.groups()``.
        query_buckets: the bucket of each query ``[m]``.
        buckets: of the samples and the queries.
        window: |Δt| that counts as local; by default 5 % of the training times, at least the nearest bucket.

    Raises:
        InputError: the groups are not these buckets.
    """
    labels = [source for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    if labels != list(range(buckets.count)):
        raise InputError(
            f"the recording's groups are {labels}, not the {buckets.count} noise buckets 0 to {buckets.count - 1}: "
            "record with groups=buckets.groups(), and long enough that every bucket is drawn"
        )
    stretches = [(parts.edges[0], parts.edges[-1]), *thirds(parts)]
    maps = {
        kind: contribution_matrix(parts, query_buckets, kind, stretches).numpy() for kind in ("net", "gross", "signed")
    }
    counts = parts.samples[torch.tensor(parts.data)].double().numpy()
    mass = counts / counts.sum()
    chosen = default_window(buckets.centres, buckets.schedule.span) if window is None else window
    rows = {kind: massed_rows(maps[kind], mass, window_mask(buckets.centres, chosen)) for kind in ("net", "gross")}
    return LevelContributions(
        edges=buckets.edges,
        centres=buckets.centres,
        log_snr=buckets.log_snr(),
        edges_log_snr=buckets.schedule.log_snr(
            torch.from_numpy(np.clip(buckets.edges, *buckets.schedule.time_range))
        ).numpy(),
        stretches=stretches,
        **maps,
        mass=mass,
        window=chosen,
        index_net=_mean_of_known(rows["net"]),
        index_gross=_mean_of_known(rows["gross"]),
        rows_net=rows["net"],
        rows_gross=rows["gross"],
        gap=parts.gap_rel,
    )


@dataclass
class LevelKernels:
    """The kernel's own map of the same buckets, at one state of the weights.

    Attributes:
        normalized, raw: mean over pairs of different samples of the cosine kernel and of the kernel itself ``[B, B]``.
        index_normalized, index_raw: locality indices of their positive parts, against buckets of equal mass.
    """

    normalized: Array
    raw: Array
    index_normalized: float
    index_raw: float


def level_kernels(
    den: Denoiser,
    images: Tensor,
    buckets: NoiseBuckets,
    *,
    per_bucket: int = 4,
    probes: int = 8,
    seed: int = 0,
    weights: Any = None,
    window: float | None = None,
) -> LevelKernels:
    """How local the tangent kernel is, to hold against how local the contributions are.

    Args:
        den: the denoiser.
        images, per_bucket, seed: as for :func:`noise_level_queries`; every sample has an image and a noise of its own.
        buckets: the same as in the recording.
        probes: random probes of the trace kernel.
        weights: other weights than the network's own, as :meth:`genkernel.tangent.TangentModel.at` takes them.
        window: as for :func:`noise_level_contributions`.
    """
    if per_bucket < 2:
        raise InputError("pairs of different samples in a bucket need at least two of them: per_bucket is 2 or more")
    samples = noise_level_queries(den, images, buckets, per_bucket, seed)
    model = den.tangent if weights is None else den.tangent.at(weights)
    found = kernel(model, samples.batch, cotangents=random_probes(probes, seed=seed), progress=False)
    chosen = default_window(buckets.centres, buckets.schedule.span) if window is None else window
    mask, mass = window_mask(buckets.centres, chosen), np.full(buckets.count, 1 / buckets.count)
    normalized, raw = (_bucket_means(k.values.numpy(), buckets.count) for k in (found.normalized(), found))

    def index(matrix: Array) -> float:
        return float(_mean_of_known(massed_rows(np.maximum(matrix, 0), mass, mask)))

    return LevelKernels(normalized, raw, index(normalized), index(raw))


def _bucket_means(values: Array, count: int) -> Array:
    """``[n, n]`` with as many samples per bucket, one after the other → means over pairs i ≠ j ``[B, B]``."""
    per = len(values) // count
    blocks = values.reshape(count, per, count, per).transpose(0, 2, 1, 3)
    total = blocks.sum((2, 3))
    own = np.einsum("aaii->a", blocks)
    pairs = np.full((count, count), per * per, dtype=np.float64)
    total[np.diag_indices(count)] -= own
    pairs[np.diag_indices(count)] -= per
    return total / pairs


def massed_rows(matrix: Array, mass: Array, mask: NDArray[np.bool_]) -> Array:
    """Locality index of every row against the training mass in its window.

    Args:
        matrix: nonnegative ``[..., B, B]``.
        mass: share of the training samples of each column ``[B]``.
        mask: ``[B, B]``, which columns lie in a row's window.

    Returns:
        ``[..., B]``; NaN for a row without mass, or whose window holds every bucket.
    """
    expected = mask @ mass
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (matrix * mask).sum(-1) / matrix.sum(-1)
        return np.where(expected < 1 - 1e-12, (share - expected) / (1 - expected), np.nan)


def _mean_of_known(rows: Array) -> Array:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, rows, 0.0).sum(-1) / known.sum(-1)

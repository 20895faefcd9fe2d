"""How local in noise level a kernel is: index, lag profiles, half-widths, floor (THEORY §6 i–iv).

With A = max(M, 0) for the L×L level kernel M and the window |Δt| ≤ w,

    LI = mean over rows a of (S_a - U_a) / (1 - U_a),   S_a = Σ_{b in window} A[a, b] / Σ_b A[a, b],

where U_a is the share of the evaluated levels inside row a's window (edges have fewer). 0: the
kernel knows nothing of the level; 1: all mass inside the window; negative: less than by chance.
The far-lag floor is *not* subtracted, so a kernel with a high floor has a low index however sharp
its peak; the centred index (floor subtracted) is the other reading, and is larger by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genkernel.diffusion.resampling import (
    DIFFERENT,
    SAME,
    Estimate,
    as_grid,
    bootstrap_bias,
    bootstrap_stderr,
    bootstrap_weights,
    interval,
    jackknife_stderr,
    level_means,
    quadrature,
)
from genkernel.diffusion.results import Contrast, LevelKernel, Levels, Profile
from genkernel.errors import InputError

Array = NDArray[np.float64]
Index = NDArray[np.int64]

WINDOW_SHARE = 0.05  # of the number of training timesteps counts as local
FEWEST_PAIRS = 30  # a lag bin with fewer sample pairs is dropped (THEORY §6)


def default_window(timesteps: Sequence[float] | Array, span: float) -> float:
    """|Δt| that counts as local: 5 % of the training timesteps, at least the nearest level.

    On an evenly spaced grid coarser than 5 % this is the largest spacing that is the smallest one
    up to rounding to whole timesteps, so that every level has its neighbours inside.
    """
    gaps = np.diff(np.sort(np.asarray(timesteps, dtype=np.float64)))
    nearest = float(gaps.min())
    rounding = 1.0 if np.all(np.asarray(timesteps) == np.rint(timesteps)) else 1e-6 * nearest
    return max(WINDOW_SHARE * span, float(gaps[gaps <= nearest + rounding].max()))


def window_mask(timesteps: Array, window: float) -> NDArray[np.bool_]:
    """[L, L]: b lies in row a's window. A row without any neighbour inside gets its nearest level."""
    distance = np.abs(timesteps[:, None] - timesteps[None])
    mask = distance <= window * (1 + 1e-9)
    alone = mask.sum(1) == 1
    others = distance + np.where(np.eye(len(timesteps), dtype=bool), np.inf, 0.0)
    mask[alone] |= others[alone] <= others[alone].min(1, keepdims=True)
    return mask


def row_indices(matrix: Array, mask: NDArray[np.bool_]) -> Array:
    """Locality index of every row, ``[..., L]`` for matrices ``[..., L, L]``.

    NaN for a row without mass, or whose window holds every level.
    """
    mass = np.maximum(matrix, 0.0)
    total = mass.sum(-1)
    expected = mask.mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (mass * mask).sum(-1) / total
        return np.where(expected < 1, (share - expected) / (1 - expected), np.nan)


def locality_index(matrix: Array, mask: NDArray[np.bool_]) -> Array:
    """Mean of :func:`row_indices` over the rows that have one, ``[...]``; NaN when none has."""
    rows = row_indices(matrix, mask)
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, rows, 0.0).sum(-1) / known.sum(-1)


def _quarter(count: int) -> int:
    """How many of ``count`` lags form the far quarter."""
    return max(1, math.ceil(count / 4))


@dataclass
class LagBins:
    """A lag profile as a linear map of the level kernel.

    Bin 0: distance zero. Bin k > 0: distances nearest to k widths (the first reaches down to 0⁺),
    with width = range / (L - 1). Bins with fewer than ``FEWEST_PAIRS`` sample pairs are dropped, unless
    that would leave fewer than three.
    """

    lag: Array  # [B]
    operator: Array  # [B, L * L]
    pairs: Index  # [B] sample pairs, each counted once
    unit: str

    @classmethod
    def of(cls, axis: Array, unit: str, pairs_per_entry: int, fewest: int = FEWEST_PAIRS) -> LagBins:
        """Bins over |axis_a - axis_b|; levels with an infinite coordinate take no part."""
        finite = np.isfinite(axis)
        size = len(axis)
        with np.errstate(invalid="ignore"):
            distance = np.abs(axis[:, None] - axis[None])
        usable = finite[:, None] & finite[None]
        known = axis[finite]
        if len(known) < 2 or np.ptp(known) <= 0:
            raise InputError(f"a lag profile over {unit} needs two different finite levels")
        width = np.ptp(known) / (len(known) - 1)
        number = np.full((size, size), -1)
        number[usable] = np.where(distance[usable] > 0, np.maximum(1, np.rint(distance[usable] / width)), 0)
        lags, rows, counts = [], [], []
        for k in range(int(number.max()) + 1):
            inside = number == k
            if inside.any():
                lags.append(distance[inside].mean())
                rows.append(inside.ravel() / inside.sum())
                # entries (a, b) and (b, a) hold the same sample pairs; on the diagonal so do (i, j) and (j, i)
                counts.append(inside.sum() * pairs_per_entry // 2)
        lag, operator, pairs = np.array(lags), np.array(rows, dtype=np.float64), np.array(counts, dtype=np.int64)
        keep = pairs >= fewest
        keep[0] = True
        if keep.sum() < 3:  # a handful of samples: sparse bins are better than no profile
            keep[:] = True
        return cls(lag[keep], operator[keep], pairs[keep], unit)

    def means(self, matrix: Array) -> Array:
        """``[..., B]`` for level kernels ``[..., L, L]``."""
        return matrix.reshape(*matrix.shape[:-2], -1) @ self.operator.T

    def floors(self, means: Array) -> Array:
        """Mean of the far quarter of the bins, ``[...]``."""
        return means[..., -_quarter(len(self.lag)) :].mean(-1)


def crossing(lag: Array, mean: Array, floor: float) -> float | None:
    """Smallest lag with mean ≤ (mean[0] + floor) / 2, interpolated linearly; None if it never falls so low."""
    half = (mean[0] + floor) / 2
    below = np.flatnonzero(mean <= half)
    if not len(below) or below[0] == 0:
        return None
    i = int(below[0])
    step = (mean[i - 1] - half) / (mean[i - 1] - mean[i])
    return float(lag[i - 1] + step * (lag[i] - lag[i - 1]))


def bandwidth(lag: Array, mean: Array, floor: float) -> float | None:
    """Effective bandwidth Σ δ w / Σ w with w = max(m - floor, 0)."""
    weight = np.maximum(mean - floor, 0.0)
    return float((lag * weight).sum() / weight.sum()) if weight.sum() > 0 else None


def row_profile_operator(axis: Array, row: int) -> tuple[Array, Array]:
    """Row ``row``'s two-sided profile as a linear map of that row of the kernel.

    The profile at distance δ is the mean of the row, linearly interpolated, at axis_a + δ and
    axis_a - δ, over the sides that reach so far; it is evaluated at the distances of the levels.

    Returns:
        lags ``[K]`` (ascending, starting at 0) and the operator ``[K, L]``.
    """
    finite = np.flatnonzero(np.isfinite(axis))
    order = finite[np.argsort(axis[finite], kind="stable")]
    points = axis[order]
    centre, lowest, highest = axis[row], points[0], points[-1]
    tolerance = 1e-9 * (highest - lowest)
    lags = np.sort(np.abs(points - centre))
    lags = lags[np.concatenate([[True], np.diff(lags) > tolerance])]
    operator = np.zeros((len(lags), len(axis)))
    identity = np.eye(len(points))
    for k, lag in enumerate(lags):
        for side in (-1.0, 1.0) if lag > 0 else (1.0,):
            at = centre + side * lag
            if lowest - tolerance <= at <= highest + tolerance:
                operator[k, order] += [np.interp(at, points, unit) for unit in identity]
    return lags, operator / operator.sum(1, keepdims=True)


def _half_widths(
    matrix: Array, axis: Array, bootstrap: Array, jackknife: Array | None, images: int
) -> list[float | None]:
    """Per level: where its two-sided profile has fallen half way to its own far-lag floor."""
    found: list[float | None] = []
    for row in range(len(axis)):
        if not np.isfinite(axis[row]):
            found.append(None)
            continue
        lags, operator = row_profile_operator(axis, row)
        far = operator[-_quarter(len(lags)) :].mean(0)
        drop = operator[0] - far
        stderr = _combined(bootstrap[:, row] @ drop, None if jackknife is None else jackknife[:, row] @ drop, images)[0]
        mean = operator @ matrix[row]
        found.append(_half_width(lags, mean, float(far @ matrix[row]), float(stderr)))
    return found


def _half_width(lags: Array, mean: Array, floor: float, stderr_of_drop: float) -> float | None:
    """THEORY §6 (ii): none when the drop from lag 0 to the floor is below two standard errors."""
    needed = 2 * stderr_of_drop if math.isfinite(stderr_of_drop) else 0.0
    drop = mean[0] - floor
    return None if drop <= 0 or drop < needed else crossing(lags, mean, floor)


def _combined(bootstrap: Array, jackknife: Array | None, images: int) -> tuple[Array, Array, Array | None]:
    """(total, images, probes) standard errors of a statistic from its replicates."""
    over_images = bootstrap_stderr(bootstrap, images)
    over_probes = None if jackknife is None else jackknife_stderr(jackknife)
    return quadrature(over_images, over_probes), over_images, over_probes


def level_kernel(
    estimate: Estimate,
    level_of: Index,
    image_of: Index,
    levels: Levels,
    *,
    bootstrap: int = 200,
    seed: int = 0,
    pairs: str = DIFFERENT,
    description: str = "",
) -> LevelKernel:
    """The L×L level kernel and everything read off it.

    Args:
        estimate: kernel over the samples of a full grid (rows and columns in the same order).
        level_of, image_of: level and image of each sample ``[N]``.
        levels: the levels' coordinates and the window.
        bootstrap: replicates over images.
        seed: of the resampling; equal seeds and image counts resample alike.
        pairs: of ``"different"`` images (i ≠ j) or, in controls, of the ``"same"`` one.

    Raises:
        InputError: the samples are no full grid, or i ≠ j is asked of a single image.
    """
    blocks = as_grid(estimate.values, level_of, image_of)
    size, images = blocks.shape[:2]
    if size != len(levels.timesteps):
        raise InputError(f"the samples have {size} levels, the coordinates {len(levels.timesteps)}")
    if images < 2 and pairs == DIFFERENT:
        raise InputError("pairs of different images need at least two images")
    matrix = level_means(blocks, pairs=pairs)
    weights = bootstrap_weights(images, max(bootstrap, 2), seed)
    boot = level_means(blocks, weights, pairs=pairs)
    jack = None
    if estimate.probes:
        jack = np.stack(
            [level_means(as_grid(estimate.without(p), level_of, image_of), pairs=pairs) for p in range(estimate.probes)]
        )
    stderr, stderr_images, stderr_probes = _combined(boot, jack, images)

    mask = window_mask(levels.timesteps, levels.window_timesteps)
    index = float(locality_index(matrix, mask))
    index_boot = locality_index(boot, mask)
    index_jack = None if jack is None else locality_index(jack, mask)
    index_stderr, index_images, index_probes = _combined(index_boot, index_jack, images)
    over_probes = math.nan if index_probes is None else float(index_probes)
    # max(M, 0) counts the noise of entries near zero as mass: the interval is centred on the corrected index
    bias = bootstrap_bias(index, index_boot, images)
    low, high = interval(index - bias, float(index_images), over_probes, images, estimate.probes, limit=1.0)

    per_entry = images if pairs == SAME else images * (images - 1)
    profiles = {}
    for axis, unit in ((levels.timesteps, "timesteps"), (levels.log_snr, "log_snr")):
        bins = LagBins.of(axis, unit, per_entry)
        profiles[unit] = _profile(bins, matrix, boot, jack, images)
    floor = profiles["timesteps"].floor
    bins = LagBins.of(levels.timesteps, "timesteps", per_entry)

    def centred(matrices: Array) -> Array:
        return locality_index(matrices - bins.floors(bins.means(matrices))[..., None, None], mask)

    centred_stderr = _combined(centred(boot), None if jack is None else centred(jack), images)[0]
    return LevelKernel(
        matrix=matrix,
        stderr=stderr,
        index=index,
        index_stderr=float(index_stderr),
        floor=floor,
        by_timestep=profiles["timesteps"],
        by_log_snr=profiles["log_snr"],
        half_width_timesteps=_half_widths(matrix, levels.timesteps, boot, jack, images),
        half_width_log_snr=_half_widths(matrix, levels.log_snr, boot, jack, images),
        signed=bool((matrix < -2 * np.nan_to_num(stderr)).any()),
        description=description,
        images=images,
        stderr_images=stderr_images,
        stderr_probes=stderr_probes,
        index_stderr_images=float(index_images),
        index_stderr_probes=over_probes,
        index_low=low,
        index_high=high,
        index_bias=bias,
        index_rows=row_indices(matrix, mask),
        centred_index=float(centred(matrix)),
        centred_index_stderr=float(centred_stderr),
        matrix_bootstrap=boot,
        matrix_jackknife=jack,
        index_bootstrap=index_boot,
        index_jackknife=index_jack,
    )


def _profile(bins: LagBins, matrix: Array, boot: Array, jack: Array | None, images: int) -> Profile:
    mean, mean_boot = bins.means(matrix), bins.means(boot)
    mean_jack = None if jack is None else bins.means(jack)
    floor = float(bins.floors(mean))
    floor_boot = bins.floors(mean_boot)
    floor_jack = None if mean_jack is None else bins.floors(mean_jack)
    drop_boot = mean_boot[:, 0] - floor_boot
    drop_jack = None if mean_jack is None or floor_jack is None else mean_jack[:, 0] - floor_jack
    drop = _combined(drop_boot, drop_jack, images)[0]
    return Profile(
        lag=bins.lag,
        mean=mean,
        stderr=_combined(mean_boot, mean_jack, images)[0],
        pairs=bins.pairs,
        unit=bins.unit,
        floor=floor,
        half_width=_half_width(bins.lag, mean, floor, float(drop)),
        floor_stderr=float(_combined(floor_boot, floor_jack, images)[0]),
        bandwidth=bandwidth(bins.lag, mean, floor),
        floor_from=float(bins.lag[-_quarter(len(bins.lag))]),
    )


def contrast(name: str, first: LevelKernel, second: LevelKernel) -> Contrast:
    """Difference first - second of two locality indices, with a paired error.

    Both kernels must come from the same images, the same number of replicates and the same seed;
    their replicates are then subtracted one by one, over images and (where both have them) probes. The
    interval is centred on the difference less its bootstrap bias.

    Raises:
        InputError: the two were not resampled together.
    """
    a, b = first.index_bootstrap, second.index_bootstrap
    if first.images != second.images or a is None or b is None or a.shape != b.shape:
        raise InputError(f"{name}: the two indices are over different images and cannot be compared in pairs")
    jack = None
    if first.index_jackknife is not None and second.index_jackknife is not None:
        if len(first.index_jackknife) != len(second.index_jackknife):
            raise InputError(f"{name}: the two indices have different numbers of probes")
        jack = first.index_jackknife - second.index_jackknife
    stderr, over_images, over_probes = _combined(a - b, jack, first.images)
    difference = first.index - second.index
    known = math.nan if over_probes is None else float(over_probes)
    bias = bootstrap_bias(difference, a - b, first.images)
    probes = 0 if jack is None else len(jack)
    low, high = interval(difference - bias, float(over_images), known, first.images, probes, limit=2.0)
    return Contrast(name, difference, float(stderr), low, high, bias)

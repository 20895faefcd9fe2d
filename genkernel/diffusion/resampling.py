"""From a kernel over (level, image) samples to L×L level means, with replicates for their errors.

Two sources of error are kept apart. *Images*: pairs share samples, so a naive standard error over
pairs is too small; images are resampled with replacement (the bootstrap, THEORY §6), an image drawn
m times counts m-fold, and pairs of an image with itself stay excluded. *Probes*: the jackknife over
the shared random cotangents (THEORY §1). They are combined in quadrature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.result import cosines, jackknife, without

Array = NDArray[np.float64]
Index = NDArray[np.int64]

DIFFERENT, SAME, ALL = "different", "same", "all"  # which pairs of images are averaged

FEWEST_FREEDOM = 8  # an interval that leaves the statistic's range is cut there, or with fewer degrees not given
FEWEST_IMAGES = 4  # below this the bootstrap says nothing about the error: it is reported as NaN


class Estimate:
    """A kernel estimated with shared probes, and its leave-one-probe-out versions.

    Args:
        kernel: an engine ``Kernel`` (``values``, ``norms_x``, ``norms_y``, ``per_probe``, …) or a
            plain matrix, which is then taken as exact.
        normalize: cosines k / √(k_x k_y) instead of the kernel itself; 0 where a norm is 0. The
            O(1/q) bias of the ratio is removed by the jackknife over probes (THEORY §1).
        rows, columns: use these samples only.
    """

    def __init__(self, kernel: Any, *, normalize: bool, rows: Index | None = None, columns: Index | None = None):
        values = _tensor(getattr(kernel, "values", kernel))
        if values.dim() != 2:
            raise InputError(f"a kernel is a matrix, not an array of shape {tuple(values.shape)}")
        probes = getattr(kernel, "per_probe", None)
        self.probes = 0 if probes is None or len(probes) < 2 else len(probes)
        totals, parts = [values], [_tensor(probes)] if self.probes else []
        if normalize and hasattr(kernel, "norms_x"):
            totals += [_tensor(kernel.norms_x), _tensor(kernel.norms_y)]
            if self.probes:
                parts += [_tensor(kernel.per_probe_norms_x), _tensor(kernel.per_probe_norms_y)]
        elif normalize:
            if values.shape[0] != values.shape[1]:
                raise InputError("a kernel between different samples needs its squared norms to be normalised")
            totals += [values.diagonal(), values.diagonal()]
        self._totals = [_pick(each, axes, rows, columns) for each, axes in zip(totals, _AXES, strict=False)]
        self._parts = [_pick(each, axes, rows, columns) for each, axes in zip(parts, _AXES, strict=False)]
        self._statistic = cosines if normalize else _itself
        plain = self._statistic(*self._totals)
        if normalize and self.probes:
            plain, _ = jackknife(plain, map(self._leave_out, range(self.probes)), self.probes)
        self.values: Array = plain.numpy()

    def without(self, probe: int) -> Array:
        """The estimate from all probes but one, ``[n, m]``."""
        return self._leave_out(probe).numpy()

    def _leave_out(self, probe: int) -> Tensor:
        return self._statistic(*without(probe, self._totals, self._parts))


_AXES = ("rc", "r", "c")  # of a kernel and of its two squared norms: rows, columns


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.require(values, np.float64, "W"))


def _pick(values: Tensor, axes: str, rows: Index | None, columns: Index | None) -> Tensor:
    """Some rows and columns, along the last axes."""
    for offset, axis in enumerate(reversed(axes), start=1):
        index = rows if axis == "r" else columns
        if index is not None:
            values = values.index_select(values.dim() - offset, torch.as_tensor(index))
    return values


def _itself(values: Tensor) -> Tensor:
    return values


def bootstrap_weights(images: int, replicates: int, seed: int) -> Array:
    """How often each image is drawn in each bootstrap replicate, ``[replicates, images]``.

    They depend on the arguments alone, so statistics of different kernels over the same images are
    resampled together. Replicates made of a single image have no pair and are drawn again.
    """
    draw = np.random.default_rng([seed, images])
    share = np.full(images, 1.0 / images)
    weights = draw.multinomial(images, share, size=replicates)
    while images > 1 and (lone := (weights > 0).sum(1) < 2).any():
        weights[lone] = draw.multinomial(images, share, size=int(lone.sum()))
    return weights.astype(np.float64)


def as_grid(values: Array, level_of: Index, image_of: Index) -> Array:
    """Order an ``[N, N]`` matrix as ``[L, n, L, n]``: entry (a, i, b, j) pairs image i at level a with j at b.

    Raises:
        InputError: the samples are not every image at every level exactly once.
    """
    levels, images = int(level_of.max()) + 1, int(image_of.max()) + 1
    order = np.lexsort((image_of, level_of))
    expected = np.arange(levels * images)
    if len(order) != len(expected) or not np.array_equal(level_of[order] * images + image_of[order], expected):
        raise InputError("the samples must be every image at every level, once")
    return values[np.ix_(order, order)].reshape(levels, images, levels, images)


def level_means(blocks: Array, weights: Array | None = None, *, pairs: str = DIFFERENT) -> Array:
    """Mean over image pairs of ``[L, n, L, n]`` blocks, for each row of image weights.

    Args:
        blocks: (a, i, b, j) entries.
        weights: ``[B, n]`` multiplicities; None: one row of ones.
        pairs: average over ``"different"`` images (i ≠ j, both orders), the ``"same"`` image (i = j), or
            ``"all"`` pairs.

    Returns:
        ``[B, L, L]`` (``[L, L]`` without weights), the mean of the matrix and its transpose, so that
        both orders of a pair count.
    """
    levels, images = blocks.shape[:2]
    rows = np.ones((1, images)) if weights is None else weights
    if pairs == SAME:
        diagonal = np.einsum("aibi->abi", blocks)
        found = np.einsum("abi,ri->rab", diagonal, rows) / rows.sum(1)[:, None, None]
    else:
        entries = blocks.transpose(1, 3, 0, 2).reshape(images * images, levels * levels)
        found = np.empty((len(rows), levels, levels))
        chunk = max(1, 2**24 // images**2)  # replicates at a time: about 128 MB of pair weights
        for start in range(0, len(rows), chunk):
            some = rows[start : start + chunk]
            product = some[:, :, None] * some[:, None, :]
            if pairs == DIFFERENT:
                product[:, np.arange(images), np.arange(images)] = 0.0
            product = product.reshape(len(some), -1)
            total = product.sum(1, keepdims=True)
            found[start : start + chunk] = ((product @ entries) / total).reshape(-1, levels, levels)
    found = (found + found.transpose(0, 2, 1)) / 2
    return found if weights is not None else found[0]


def bootstrap_stderr(replicates: Array, images: int) -> Array:
    """Standard error over replicates (axis 0), with the factor √(n/(n-1)) that resampling n images loses.

    NaN with fewer than four images.
    """
    if images < FEWEST_IMAGES or len(replicates) < 2:
        return np.full(replicates.shape[1:], np.nan)
    return replicates.std(axis=0, ddof=1) * np.sqrt(images / (images - 1))


def jackknife_stderr(replicates: Array) -> Array:
    """Standard error from leave-one-out values (axis 0)."""
    count = len(replicates)
    return np.sqrt((count - 1) * replicates.var(axis=0))


def quadrature(images: Array, probes: Array | None) -> Array:
    """√(images² + probes²)."""
    return images if probes is None else np.hypot(images, probes)


def bootstrap_bias(value: float, replicates: Array, images: int) -> float:
    """Mean of the replicates less the value: what noise adds to a statistic that is not linear in the kernel.

    NaN with fewer than four images.
    """
    return float(replicates.mean() - value) if images >= FEWEST_IMAGES else float("nan")


def interval(
    value: float, over_images: float, over_probes: float, images: int, probes: int, limit: float = float("inf")
) -> tuple[float, float]:
    """95 % interval from Student's t, with Welch and Satterthwaite's degrees of freedom.

    The two parts of the error rest on images - 1 and probes - 1 degrees of freedom; NaN where the
    part over images is not known. ``over_probes`` is NaN where there are no probes to resample. An
    interval that leaves [-limit, limit] is cut there, and NaN if it rests on too few degrees of freedom.
    """
    if not np.isfinite(over_images):
        return float("nan"), float("nan")
    parts = [(over_images**2, images - 1)]
    if np.isfinite(over_probes):
        parts.append((over_probes**2, probes - 1))
    variance = sum(part for part, _ in parts)
    if variance <= 0:
        return value, value
    from scipy.stats import t

    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    half = float(t.ppf(0.975, freedom)) * variance**0.5
    if value - half < -limit or value + half > limit:
        if freedom < FEWEST_FREEDOM:
            return float("nan"), float("nan")
        return max(value - half, -limit), min(value + half, limit)
    return value - half, value + half

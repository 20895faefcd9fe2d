"""Bytes that are needed for a moment while the gradients of one parameter are multiplied."""

from __future__ import annotations

import math

import torch

from genkernel.tangent import factors, ghost
from genkernel.tangent.contraction import SLICE, STRIP
from genkernel.tangent.factors import Convolution, Factor, Outer


def contraction_bytes(
    factor: Factor | None, plain: int, itemsize: int, n: int, r: int, c: int, accumulate: torch.dtype
) -> int:
    """An upper bound over the routes of :mod:`genkernel.tangent.contraction`, apart from the product itself.

    Args:
        factor: form of the gradient, with parts of one sample; None where that is unknown.
        plain: entries of the parameter.
        itemsize: of a gradient entry.
        n, r, c: samples, rows and columns.
        accumulate: dtype of the products.
    """
    wide = accumulate.itemsize
    converted = min(SLICE, n * plain) * (2 * wide if wide > itemsize else wide) + min(r, STRIP) * c * wide
    making = min(SLICE, n * plain) * itemsize
    if not isinstance(factor, (Outer, Convolution)):
        return converted + making
    if isinstance(factor, Outer):
        T, extent, entries = factor.T, factor.T, factor.T * (factor.a + factor.b)
    else:
        T, extent = factor.positions, max(factor.positions, factor.large[0, 0].numel())
        images = factor.large[0].numel() + factor.small[0].numel()
        windows = T * factor.large.shape[1] * math.prod(factor.shape[2:])
        padded = factor.large.shape[1] * math.prod(
            size + 2 * padding for size, padding in zip(factor.large.shape[2:], factor.padding, strict=True)
        )
        making += 3 * min(factors.UNFOLDED, n * max(padded, min(windows, factors.UNFOLDED))) * itemsize
        entries = max(images, T * factor.windows_width)
    sides = 2 * min(max(ghost.CONVERTED, entries), n * entries) * wide
    pairs = 4 * min(max(ghost.ENTRIES, extent**2), r * c * extent**2) * wide
    return max(converted + making, sides + pairs)

"""Bytes that are needed for a moment while the gradients of one parameter are multiplied."""

from __future__ import annotations

import math

from genkernel.tangent import costs, factors, ghost
from genkernel.tangent.contraction import STRIP
from genkernel.tangent.factors import Convolution, Factor, Outer


def contraction_bytes(factor: Factor, itemsize: int, block: costs.Rectangle) -> int:
    """An upper bound for the route that a contraction takes, apart from the product itself.

    Args:
        factor: form of the gradient, with parts of one sample.
        itemsize: of a gradient entry.
    """
    route, _ = costs.cheapest(factor, block)
    materialised = _materialised(factor, itemsize, block)  # what a diagonal P asks for in any case
    return materialised if route == "materialised" else max(materialised, _ghost(factor, block))


def making_bytes(factor: Factor, itemsize: int, n: int, limit: int) -> int:
    """An upper bound for making the gradients of n samples, ``limit`` entries at a time."""
    whole = n * math.prod(factor.shape)
    entries = min(limit, whole)
    if not isinstance(factor, Convolution):
        return entries * itemsize
    if factor.by_samples(n, limit):
        many = min(factors.MANY_SLICES * limit, whole)
        windows = min(limit, factors.UNFOLDED_TOGETHER, _windows(factor))
        return (many + 2 * many // n + windows + 2 * _padded(factor)) * itemsize
    # a padded copy, the same in another order, and the windows of a tap, of a channel at the least; or all windows
    room = max(min(factors.UNFOLDED, factors.WINDOWS * limit), n * _padded(factor) // factor.large.shape[1])
    entries += 3 * min(room, n * max(_padded(factor), min(_windows(factor), room)))
    if math.prod(factor.shape[2:]) == 1 and math.prod(factor.stride) > 1:
        entries += n * _windows(factor)  # what the stride picks
    return entries * itemsize


def _materialised(factor: Factor, itemsize: int, block: costs.Rectangle) -> int:
    wide = block.accumulate.itemsize
    entries = min(block.limit, block.n * math.prod(factor.shape))
    converted = entries * (2 * wide if wide > itemsize else wide)  # and their squares
    made = making_bytes(factor, itemsize, block.n, block.limit)
    return made + converted + min(block.rows, STRIP) * block.cols * wide


def _ghost(factor: Factor, block: costs.Rectangle) -> int:
    wide = block.accumulate.itemsize
    if isinstance(factor, Outer):
        extent, entries = factor.T, factor.T * (factor.a + factor.b)
    else:
        assert isinstance(factor, Convolution)
        each = factor.large[0, 0].numel() // math.prod(factor.stride)
        extent = max(factor.positions, each)
        entries = max(factor.large[0].numel(), _windows(factor)) + factor.small[0].numel()
    sides = 2 * min(max(ghost.CONVERTED * block.limit, entries), block.n * entries)
    pairs = 4 * min(max(ghost.most_pairs(block.limit), extent**2), block.rows * block.cols * extent**2)
    return (sides + pairs) * wide


def _padded(factor: Convolution) -> int:
    sizes = zip(factor.large.shape[2:], factor.padding, strict=True)
    return factor.large.shape[1] * math.prod(size + 2 * padding for size, padding in sizes)


def _windows(factor: Convolution) -> int:
    return factor.positions * factor.large.shape[1] * math.prod(factor.shape[2:])

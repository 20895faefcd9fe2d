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


def _materialised(factor: Factor, itemsize: int, block: costs.Rectangle) -> int:
    wide = block.accumulate.itemsize
    whole = block.n * math.prod(factor.shape)
    entries = min(block.limit, whole)
    making = entries * itemsize
    if isinstance(factor, Convolution):
        if factor.one_by_one:
            making = min(factors.BY_SAMPLES * block.limit, whole) * itemsize
        # a padded copy, the same in another order, and the windows of a tap; or all windows
        room = min(factors.UNFOLDED, factors.WINDOWS * block.limit)
        making += 3 * min(room, block.n * max(_padded(factor), min(_windows(factor), room))) * itemsize
        if math.prod(factor.shape[2:]) == 1 and math.prod(factor.stride) > 1:
            making += block.n * _windows(factor) * itemsize  # what the stride picks
    converted = entries * (2 * wide if wide > itemsize else wide)  # and their squares
    return making + converted + min(block.rows, STRIP) * block.cols * wide


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

"""What a contraction costs, from floating-point operations and bytes.

The unit is one float32 operation inside a large matrix product. The constants were fitted to
single-core measurements on CPUs (docs/engine.md); choices made from them are the same on every
machine, so that a run can be repeated bit by bit.
"""

from __future__ import annotations

import math

import torch

from genkernel.tangent.factors import SLICE, Convolution, Factor, Outer, Rows

#: one float64 operation in a matrix product
DOUBLE = 4.0
#: one elementwise operation on an entry that stays in the cache
ELEMENT = 48.0
#: writing an entry to memory that is not in the cache, and reading it again
MEMORY = 80.0
#: converting an entry to float64
CONVERT = 150.0
#: how far products of many small matrices stay behind one large one
BATCHED = 2.0
#: the same for convolutions, sample by sample
BY_SAMPLES = 1.2
#: products of slices of so many samples, or fewer, fall as far behind, too
FEW = 64
#: share of the pairs that a symmetric product computes
TRIANGLE_SHARE = 0.6


class Rectangle:
    """Sizes of the products that a block takes: r × c pairs of n samples, ``limit`` gradient entries at a time."""

    def __init__(self, rows: int, cols: int, n: int, symmetric: bool, accumulate: torch.dtype, limit: int = SLICE):
        self.n, self.rows, self.cols, self.accumulate, self.limit = n, rows, cols, accumulate, limit
        self.pairs = rows * cols * (TRIANGLE_SHARE if symmetric else 1.0)
        self.rate = DOUBLE if accumulate == torch.float64 else 1.0


def cheapest(factor: Factor, block: Rectangle, scaled: bool = False) -> tuple[str, float]:
    """The best route of a contraction, and its cost.

    Args:
        scaled: the gradients are multiplied by a diagonal first, which has to have them.
    """
    candidates: dict[str, float] = {"materialised": materialised(factor, block)}
    if isinstance(factor, Outer) and not scaled:
        candidates["ghost"] = ghost(factor, block)
    elif isinstance(factor, Convolution) and factor.groups == 1 and not scaled:
        candidates["shifted ghost"] = shifted_ghost(factor, block)
        candidates["unfolded ghost"] = unfolded_ghost(factor, block)
    route = min(candidates, key=lambda route: candidates[route])
    return route, candidates[route]


def materialised(factor: Factor, block: Rectangle) -> float:
    """Per-sample gradients in slices, one matrix product per slice."""
    entries = math.prod(factor.shape)
    if isinstance(factor, Rows):  # only rows that some sample touches are multiplied
        entries = min(entries, block.n * factor.T * factor.d)
    making = 0.0
    if isinstance(factor, Outer):
        making = 2.0 * block.n * factor.T * entries
    elif isinstance(factor, Convolution):
        making = 2.0 * block.n * factor.positions * entries
    convert = CONVERT * block.n * entries if block.rate > 1 else 0.0
    multiplying = block.rate * 2 * block.pairs * entries
    multiplying *= min(BATCHED, 1 + FEW / block.n)
    if isinstance(factor, Convolution) and factor.by_samples(block.n, block.limit):
        windows = factor.positions * factor.large.shape[1] * math.prod(factor.shape[2:])
        return BY_SAMPLES * making + multiplying + ELEMENT * block.n * (entries + windows) + convert
    return BATCHED * making + multiplying + convert


def ghost(factor: Outer, block: Rectangle) -> float:
    """Σ_{t,s} (A_it·A_js)(B_it·B_js)."""
    return _ghost(factor.T, factor.a, factor.b, block)


def unfolded_ghost(factor: Convolution, block: Rectangle) -> float:
    """The same after unfolding the windows."""
    width = factor.large.shape[1] * math.prod(factor.shape[2:])
    unfolding = MEMORY * block.rate * block.n * factor.positions * width
    return unfolding + _ghost(factor.positions, width, factor.small.shape[1], block)


def shifted_ghost(factor: Convolution, block: Rectangle) -> float:
    """The same from one product of all pairs of large positions, summed over shifts."""
    T, large = factor.positions, factor.large.shape[2:].numel()
    phases = math.prod(min(k, s) for k, s in zip(factor.shape[2:], factor.stride, strict=True))
    each = large / math.prod(factor.stride)  # positions of one residue
    products = 2 * block.pairs * (phases * each**2 * factor.large.shape[1] + T**2 * factor.small.shape[1])
    taps = sum(k / min(k, s) for k, s in zip(factor.shape[2:], factor.stride, strict=True))
    shifts = ELEMENT * block.pairs * each**2 * phases * (taps + 1)
    return block.rate * products + shifts + 2.5 * ELEMENT * block.pairs * T**2


def _ghost(T: int, a: int, b: int, block: Rectangle) -> float:
    return block.rate * 2 * block.pairs * T**2 * (a + b) + 2.5 * ELEMENT * block.pairs * T**2

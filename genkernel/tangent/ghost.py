"""Gram products that never form a per-sample gradient.

For G_i = Σ_t B_it A_itᵀ,

    ⟨G_i, G_j⟩ = Σ_{t,s} (A_it·A_js)(B_it·B_js).

For a convolution A_it is a window of the input, so that A_it·A_js is a sum of products of single
positions over the taps of the kernel. Those products are computed once for all pairs of positions
and summed along shifts, one spatial axis after the other: with C channels and k taps per axis in d
dimensions C + dk operations per pair of positions instead of C kᵈ. With a stride, only positions of
the same residue meet, so that each residue is an image of its own with the taps that see it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from genkernel.tangent.factors import Convolution, Outer
from genkernel.tangent.products import batched, dot

#: entries of one block of position products: it stays in the cache
ENTRIES = 1 << 19
#: entries of either side that are brought into the accumulating dtype at a time
CONVERTED = 1 << 22

#: inputs and output-gradients ``[i, T, ...]`` of some samples, in the accumulating dtype
_Pair = tuple[Tensor, Tensor]
_Sides = Callable[[slice], _Pair]


def outer(factor: Outer, rows: slice, cols: slice, accumulate: torch.dtype) -> Tensor:
    """``[r, c]`` in float64; for ``rows == cols`` the lower triangle at least."""
    return _outer(_sides_of_outer(factor, accumulate), factor.T, factor.T * (factor.a + factor.b), rows, cols, factor.A)


def outer_squares(factor: Outer, accumulate: torch.dtype) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    sides = _sides_of_outer(factor, accumulate)
    return _outer_squares(sides, factor.n, factor.T, factor.T * (factor.a + factor.b))


def unfolded(factor: Convolution, rows: slice, cols: slice, accumulate: torch.dtype) -> Tensor:
    """``[r, c]`` in float64 for a convolution with one group, from its windows."""
    sides = _sides_of_windows(factor, accumulate)
    return _outer(sides, factor.positions, factor.positions * factor.windows_width, rows, cols, factor.large)


def unfolded_squares(factor: Convolution, accumulate: torch.dtype) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    sides = _sides_of_windows(factor, accumulate)
    return _outer_squares(sides, factor.n, factor.positions, factor.positions * factor.windows_width)


def shifted(factor: Convolution, rows: slice, cols: slice, accumulate: torch.dtype) -> Tensor:
    """``[r, c]`` in float64 for a convolution with one group."""

    def sides(part: slice) -> _Pair:
        return _positions(factor.large[part], accumulate), _positions(factor.small[part], accumulate)

    def block(left: _Pair, right: _Pair) -> Tensor:
        windows = _along_shifts(_pairs(left[0], right[0]), factor, len(left[0]), len(right[0]))
        return windows.mul_(_pairs(left[1], right[1]))

    entries = factor.large[0].numel() + factor.small[0].numel()
    extent = factor.large.shape[2:].numel()
    return _blocks(rows, cols, factor.positions, extent, entries, factor.large, sides, block)


def shifted_squares(factor: Convolution, accumulate: torch.dtype) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    step = max(1, ENTRIES // factor.large.shape[2:].numel() ** 2)
    found = []
    for start in range(0, factor.n, step):
        x = _positions(factor.large[start : start + step], accumulate)
        b = _positions(factor.small[start : start + step], accumulate)
        # pairs of a sample with itself alone: one column each
        windows = _along_shifts(batched(x, x), factor, len(x), 1).view(len(x), factor.positions, -1)
        found.append((windows * batched(b, b)).sum((1, 2), dtype=torch.float64))
    return torch.cat(found)


def _sides_of_outer(factor: Outer, dtype: torch.dtype) -> _Sides:
    return lambda part: (factor.A[part].to(dtype), factor.B[part].to(dtype))


def _sides_of_windows(factor: Convolution, dtype: torch.dtype) -> _Sides:
    def sides(part: slice) -> _Pair:
        found = factor.like({name: x[part].to(dtype) for name, x in factor.parts().items()}).outer()
        return found.A, found.B

    return sides


def _outer(sides: _Sides, T: int, entries: int, rows: slice, cols: slice, like: Tensor) -> Tensor:
    def block(left: _Pair, right: _Pair) -> Tensor:
        return _pairs(left[0], right[0]).mul_(_pairs(left[1], right[1]))

    return _blocks(rows, cols, T, T, entries, like, sides, block)


def _outer_squares(sides: _Sides, n: int, T: int, entries: int) -> Tensor:
    step = max(1, min(ENTRIES // T**2, CONVERTED // entries))
    found = []
    for start in range(0, n, step):
        A, B = sides(slice(start, start + step))
        found.append((batched(A, A) * batched(B, B)).sum((1, 2), dtype=torch.float64))
    return torch.cat(found)


def _positions(image: Tensor, dtype: torch.dtype) -> Tensor:
    """``[n, C, *spatial]`` → ``[n, T, C]``."""
    return image.flatten(2).transpose(1, 2).to(dtype, memory_format=torch.contiguous_format).contiguous()


def _pairs(x: Tensor, y: Tensor) -> Tensor:
    """``[i, T, C]``, ``[j, S, C]`` → ``[i·T, j·S]``."""
    return dot(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _both(x: Tensor, first: int, second: int, index: slice) -> Tensor:
    where = [slice(None)] * x.dim()
    where[first] = where[second] = index
    return x[tuple(where)]


def _blocks(
    rows: slice,
    cols: slice,
    T: int,
    extent: int,
    entries: int,
    like: Tensor,
    sides: _Sides,
    block: Callable[[_Pair, _Pair], Tensor],
) -> Tensor:
    """Sum ``block(left, right) [i·T, j·T]`` over positions, block by block.

    Args:
        extent: a block has ``extent²`` entries per pair at most.
        entries: of both parts of one sample.
        sides: the parts of some of the samples.
    """
    r, c, symmetric = rows.stop - rows.start, cols.stop - cols.start, rows == cols
    found = torch.zeros(r, c, dtype=torch.float64, device=like.device)
    step, pairs = max(1, CONVERTED // entries), max(1, ENTRIES // extent**2)
    for top in range(0, r, step):
        bottom = min(r, top + step)
        left = sides(slice(rows.start + top, rows.start + bottom))
        for start in range(0, bottom if symmetric else c, step):
            stop = min(c, start + step)
            diagonal = symmetric and start == top
            right = left if diagonal else sides(slice(cols.start + start, cols.start + stop))
            target = found[top:bottom, start:stop]
            for i, j in _schedule(bottom - top, stop - start, pairs, diagonal):
                both = block((left[0][i], left[1][i]), (right[0][j], right[1][j]))
                if T > 1:
                    both = both.view(i.stop - i.start, T, j.stop - j.start, T).sum((1, 3), dtype=torch.float64)
                target[i, j] = both
    return found


def _schedule(r: int, c: int, pairs: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Rectangles of at most ``pairs`` entries; of a symmetric product those on and below the diagonal."""
    start = 0
    while start < r:
        width = min(start + 1, c) if symmetric else c
        step = min(r - start, max(1, pairs // width))
        if symmetric:  # the rows that follow reach further to the right
            step = min(step, max(1, pairs // min(start + step, c)))
        stop = start + step
        reach = min(stop, c) if symmetric else c
        across = max(1, pairs // step)
        for left in range(0, reach, across):
            yield slice(start, stop), slice(left, min(reach, left + across))
        start = stop

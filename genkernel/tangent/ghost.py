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
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.tangent.factors import SLICE, Convolution, Outer
from genkernel.tangent.products import batched, dot

#: entries of one block of position products: it stays in the cache
ENTRIES = 1 << 19
#: slices of either side that are brought into the accumulating dtype at a time
CONVERTED = 2

#: what a block multiplies, ``[i, T, ...]`` each of some samples, in the accumulating dtype
_Parts = tuple[Tensor, ...]
_Sides = Callable[[slice], _Parts]


def most_pairs(limit: int) -> int:
    """Entries of one block of position products, where ``limit`` entries of gradients are worked on at a time."""
    return min(ENTRIES, limit // 4)


def outer(factor: Outer, rows: slice, cols: slice, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """``[r, c]`` in float64; for ``rows == cols`` the lower triangle at least."""
    sides, entries = _sides_of_outer(factor, accumulate), factor.T * (factor.a + factor.b)
    return _outer(sides, factor.T, entries, rows, cols, factor.A, limit)


def outer_squares(factor: Outer, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    sides = _sides_of_outer(factor, accumulate)
    return _outer_squares(sides, factor.n, factor.T, factor.T * (factor.a + factor.b), limit)


def unfolded(factor: Convolution, rows: slice, cols: slice, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """``[r, c]`` in float64 for a convolution with one group, from its windows."""
    sides, entries = _sides_of_windows(factor, accumulate), factor.positions * factor.windows_width
    return _outer(sides, factor.positions, entries, rows, cols, factor.large, limit)


def unfolded_squares(factor: Convolution, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    sides = _sides_of_windows(factor, accumulate)
    return _outer_squares(sides, factor.n, factor.positions, factor.positions * factor.windows_width, limit)


def shifted(factor: Convolution, rows: slice, cols: slice, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """``[r, c]`` in float64 for a convolution with one group."""
    phases, spatial = _phases(factor), list(factor.small.shape[2:])

    def sides(part: slice) -> _Parts:
        large = factor.large[part]
        images = [_positions(large[phase.where], accumulate) for phase in phases]
        return (_positions(factor.small[part], accumulate), *images)

    def block(left: _Parts, right: _Parts) -> Tensor:
        i, j = len(left[0]), len(right[0])
        windows: Tensor | None = None
        for phase, x, y in zip(phases, left[1:], right[1:], strict=True):
            part = _along_shifts(_pairs(x, y), phase, spatial, i, j)
            windows = part if windows is None else windows.add_(part)
        if windows is None:  # every window lies in the padding
            windows = left[0].new_zeros(i * factor.positions, j * factor.positions)
        return windows.mul_(_pairs(left[0], right[0]))

    entries = factor.large[0].numel() + factor.small[0].numel()
    extent = max([factor.positions, *(phase.positions for phase in phases)])
    return _blocks(rows, cols, factor.positions, extent, entries, factor.large, sides, block, limit)


def shifted_squares(factor: Convolution, accumulate: torch.dtype, limit: int = SLICE) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    phases, spatial = _phases(factor), list(factor.small.shape[2:])
    step = max(1, most_pairs(limit) // max([factor.positions, *(phase.positions for phase in phases)]) ** 2)
    found = []
    for start in range(0, factor.n, step):
        large = factor.large[start : start + step]
        b = _positions(factor.small[start : start + step], accumulate)
        outputs = batched(b, b)
        total = outputs.new_zeros(len(b), dtype=torch.float64)
        for phase in phases:
            x = _positions(large[phase.where], accumulate)
            # pairs of a sample with itself alone: one column each
            windows = _along_shifts(batched(x, x), phase, spatial, len(x), 1).view_as(outputs)
            total += windows.mul_(outputs).sum((1, 2), dtype=torch.float64)
        found.append(total)
    return torch.cat(found)


def _sides_of_outer(factor: Outer, dtype: torch.dtype) -> _Sides:
    return lambda part: (factor.A[part].to(dtype), factor.B[part].to(dtype))


def _sides_of_windows(factor: Convolution, dtype: torch.dtype) -> _Sides:
    def sides(part: slice) -> _Parts:
        found = factor.like({name: x[part].to(dtype) for name, x in factor.parts().items()}).outer()
        return found.A, found.B

    return sides


def _outer(sides: _Sides, T: int, entries: int, rows: slice, cols: slice, like: Tensor, limit: int) -> Tensor:
    def block(left: _Parts, right: _Parts) -> Tensor:
        return _pairs(left[0], right[0]).mul_(_pairs(left[1], right[1]))

    return _blocks(rows, cols, T, T, entries, like, sides, block, limit)


def _outer_squares(sides: _Sides, n: int, T: int, entries: int, limit: int) -> Tensor:
    step = max(1, min(most_pairs(limit) // T**2, CONVERTED * limit // entries))
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


@dataclass(frozen=True)
class _Phase:
    """The large positions of one residue of the stride, and the taps that see them.

    Attributes:
        where: index of these positions.
        spatial: how many there are along each axis.
        shifts: per axis, one for each tap: the window position p meets the position p + shift.
    """

    where: tuple[slice, ...]
    spatial: tuple[int, ...]
    shifts: tuple[tuple[int, ...], ...]

    @property
    def positions(self) -> int:
        return math.prod(self.spatial)


def _phases(factor: Convolution) -> list[_Phase]:
    """Only large positions of the same residue meet: each residue is an image of its own."""
    axes: list[list[tuple[slice, int, tuple[int, ...]]]] = []
    geometry = zip(
        factor.large.shape[2:], factor.shape[2:], factor.stride, factor.padding, factor.dilation, strict=True
    )
    for length, kernel, stride, padding, dilation in geometry:
        offsets = [tap * dilation - padding for tap in range(kernel)]
        axis = []
        for residue in range(min(stride, length)):
            shifts = tuple((offset - residue) // stride for offset in offsets if offset % stride == residue)
            if shifts:
                axis.append((slice(residue, None, stride), len(range(residue, length, stride)), shifts))
        axes.append(axis)
    return [
        _Phase((slice(None), slice(None), *where), spatial, shifts)
        for where, spatial, shifts in (tuple(zip(*choice, strict=True)) for choice in itertools.product(*axes))
    ]


def _along_shifts(products: Tensor, phase: _Phase, small: list[int], i: int, j: int) -> Tensor:
    """Products of large positions ``[i·L, j·L]`` → products of windows ``[i·T, j·T]``."""
    large, d = phase.spatial, len(small)
    found = products.view(i, *large, j, *large)
    for axis, shifts in enumerate(phase.shifts):
        first, second = 1 + axis, 2 + d + axis
        shape = list(found.shape)
        shape[first] = shape[second] = small[axis]
        total: Tensor | None = None
        for shift in shifts:
            # the window positions that meet a large position
            low, high = max(0, -shift), min(small[axis], large[axis] - shift)
            if high <= low:
                continue
            part = _both(found, first, second, slice(low + shift, high + shift))
            if total is None and (low, high) == (0, small[axis]):
                total = part if len(shifts) == 1 else part.clone()
                continue
            if total is None:
                total = found.new_zeros(shape)
            _both(total, first, second, slice(low, high)).add_(part)
        found = found.new_zeros(shape) if total is None else total
    return found.reshape(i * math.prod(small), j * math.prod(small))


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
    block: Callable[[_Parts, _Parts], Tensor],
    limit: int,
) -> Tensor:
    """Sum ``block(left, right) [i·T, j·T]`` over positions, block by block.

    Args:
        extent: a block has ``extent²`` entries per pair at most.
        entries: of both parts of one sample.
        sides: the parts of some of the samples.
        limit: entries of gradients that are worked on at a time elsewhere, for a measure.
    """
    r, c, symmetric = rows.stop - rows.start, cols.stop - cols.start, rows == cols
    found = torch.zeros(r, c, dtype=torch.float64, device=like.device)
    step, pairs = max(1, CONVERTED * limit // entries), max(1, most_pairs(limit) // extent**2)
    for top in range(0, r, step):
        bottom = min(r, top + step)
        left = sides(slice(rows.start + top, rows.start + bottom))
        for start in range(0, bottom if symmetric else c, step):
            stop = min(c, start + step)
            diagonal = symmetric and start == top
            right = left if diagonal else sides(slice(cols.start + start, cols.start + stop))
            target = found[top:bottom, start:stop]
            for i, j in _schedule(bottom - top, stop - start, pairs, diagonal):
                both = block(tuple(x[i] for x in left), tuple(y[j] for y in right))
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

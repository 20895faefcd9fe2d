"""Gram products that never form a per-sample gradient.

For G_i = Σ_t B_it A_itᵀ,

    ⟨G_i, G_j⟩ = Σ_{t,s} (A_it·A_js)(B_it·B_js).

For a convolution A_it is a window of the input, so that A_it·A_js is a sum of products of single
positions over the taps of the kernel. Those products are computed once for all pairs of positions
and summed along shifts, one spatial axis after the other: with C channels and k taps per axis in d
dimensions C + dk operations per pair of positions instead of C kᵈ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from genkernel.tangent.factors import Convolution, Outer
from genkernel.tangent.products import batched, dot

#: entries of one block of position products: it stays in the cache
ENTRIES = 1 << 19


def outer(factor: Outer, rows: slice, cols: slice, accumulate: torch.dtype) -> Tensor:
    """``[r, c]`` in float64; for ``rows == cols`` the lower triangle at least."""
    A, B = factor.A.to(accumulate), factor.B.to(accumulate)
    Ar, Br, Ac, Bc = A[rows], B[rows], A[cols], B[cols]
    if factor.T == 1:
        return (dot(Ar[:, 0], Ac[:, 0]) * dot(Br[:, 0], Bc[:, 0])).to(torch.float64)

    def block(i: slice, j: slice) -> Tensor:
        both = _pairs(Ar[i], Ac[j])
        return both.mul_(_pairs(Br[i], Bc[j]))

    return _blocks(len(Ar), len(Ac), factor.T, factor.T, rows == cols, A, block)


def outer_squares(factor: Outer, accumulate: torch.dtype) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    A, B = factor.A.to(accumulate), factor.B.to(accumulate)
    return (batched(A, A) * batched(B, B)).sum((1, 2), dtype=torch.float64)


def shifted(factor: Convolution, rows: slice, cols: slice, accumulate: torch.dtype) -> Tensor:
    """``[r, c]`` in float64 for a convolution with one group."""
    large, small = _positions(factor.large, accumulate), _positions(factor.small, accumulate)
    Lr, Lc, Sr, Sc = large[rows], large[cols], small[rows], small[cols]

    def block(i: slice, j: slice) -> Tensor:
        return _along_shifts(_pairs(Lr[i], Lc[j]), factor, len(Lr[i]), len(Lc[j])).mul_(_pairs(Sr[i], Sc[j]))

    return _blocks(len(Lr), len(Lc), factor.positions, large.shape[1], rows == cols, large, block)


def shifted_squares(factor: Convolution, accumulate: torch.dtype) -> Tensor:
    """Squared norms ``[n]`` of the per-sample gradients."""
    large, small = _positions(factor.large, accumulate), _positions(factor.small, accumulate)
    step = max(1, ENTRIES // large.shape[1] ** 2)
    found = []
    for start in range(0, factor.n, step):
        x, b = large[start : start + step], small[start : start + step]
        # pairs of a sample with itself alone: one column each
        windows = _along_shifts(batched(x, x), factor, len(x), 1).view(len(x), factor.positions, -1)
        found.append((windows * batched(b, b)).sum((1, 2), dtype=torch.float64))
    return torch.cat(found)


def _positions(image: Tensor, dtype: torch.dtype) -> Tensor:
    """``[n, C, *spatial]`` → ``[n, T, C]``."""
    return image.flatten(2).transpose(1, 2).to(dtype).contiguous()


def _pairs(x: Tensor, y: Tensor) -> Tensor:
    """``[i, T, C]``, ``[j, S, C]`` → ``[i·T, j·S]``."""
    return dot(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _along_shifts(products: Tensor, factor: Convolution, i: int, j: int) -> Tensor:
    """Products of large positions ``[i·L, j·L]`` → products of windows ``[i·T, j·T]``."""
    large, small = list(factor.large.shape[2:]), list(factor.small.shape[2:])
    d = len(large)
    found = products.view(i, *large, j, *large)
    geometry = zip(factor.shape[2:], factor.stride, factor.padding, factor.dilation, strict=True)
    for axis, (kernel, stride, padding, dilation) in enumerate(geometry):
        first, second = 1 + axis, 2 + d + axis
        shape = list(found.shape)
        shape[first] = shape[second] = small[axis]
        total: Tensor | None = None
        for tap in range(kernel):
            offset = tap * dilation - padding
            # the window position p meets the large position p · stride + offset, where there is one
            low = max(0, -(offset // stride))
            high = min(small[axis], (large[axis] - 1 - offset) // stride + 1)
            if high <= low:
                continue
            source = slice(low * stride + offset, (high - 1) * stride + offset + 1, stride)
            part = _both(found, first, second, source)
            if total is None and (low, high) == (0, small[axis]):
                total = part.clone()
                continue
            if total is None:
                total = found.new_zeros(shape)
            _both(total, first, second, slice(low, high)).add_(part)
        found = found.new_zeros(shape) if total is None else total
    return found.reshape(i * factor.positions, j * factor.positions)


def _both(x: Tensor, first: int, second: int, index: slice) -> Tensor:
    where = [slice(None)] * x.dim()
    where[first] = where[second] = index
    return x[tuple(where)]


def _blocks(
    r: int, c: int, T: int, extent: int, symmetric: bool, like: Tensor, block: Callable[[slice, slice], Tensor]
) -> Tensor:
    """Sum ``block(i, j) [i·T, j·T]`` over positions, block by block; ``extent²`` entries per pair at most."""
    found = torch.zeros(r, c, dtype=torch.float64, device=like.device)
    for i, j in _schedule(r, c, max(1, ENTRIES // extent**2), symmetric):
        both = block(i, j)
        found[i, j] = both.view(i.stop - i.start, T, j.stop - j.start, T).sum((1, 3), dtype=torch.float64)
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

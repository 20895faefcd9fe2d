"""Per-sample gradients of one tensor, in the form that its use gives them.

A factor stands for G ``[n, *shape]``, row i the gradient for sample i. ``slices`` walks a
fixed partition of the coordinates, so that Gram products never need all of G at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Factor:
    """Per-sample gradients ``[n, *shape]`` of one tensor."""

    n: int
    shape: tuple[int, ...]

    def dense(self) -> Tensor:
        """The gradients themselves, ``[n, *shape]``."""
        raise NotImplementedError

    def slices(self, limit: int, root: Tensor | None = None) -> Iterator[Tensor]:
        """Yield ``[n, p]`` blocks of about ``limit`` entries that partition the coordinates.

        ``root`` (shaped like the tensor) multiplies the coordinates: the square root of a
        diagonal preconditioner.
        """
        flat = self.dense().reshape(self.n, -1)
        if root is not None:
            flat = flat * root.reshape(1, -1)
        step = max(1, limit // self.n)
        for start in range(0, flat.shape[1], step):
            yield flat[:, start : start + step]


class Dense(Factor):
    """Gradients that are there already."""

    def __init__(self, gradient: Tensor):
        self.gradient = gradient
        self.n = gradient.shape[0]
        self.shape = tuple(gradient.shape[1:])

    def dense(self) -> Tensor:
        return self.gradient


class Outer(Factor):
    """G_i = Σ_t B_it A_itᵀ: linear maps, and convolutions after unfolding.

    Args:
        A: inputs ``[n, T, a]``.
        B: output-gradients ``[n, T, b]``.
        shape: shape of the tensor; its entries are ``[b, a]`` in memory order, or ``[a, b]``
            when ``transposed``.
    """

    def __init__(self, A: Tensor, B: Tensor, shape: Sequence[int] | None = None, transposed: bool = False):
        self.A, self.B, self.transposed = A, B, transposed
        self.n, self.T, self.a = A.shape
        self.b = B.shape[2]
        self.shape = tuple(shape) if shape is not None else ((self.a, self.b) if transposed else (self.b, self.a))

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """(left, right) with G = leftᵀ right in the memory order of the tensor."""
        return (self.A, self.B) if self.transposed else (self.B, self.A)

    def dense(self) -> Tensor:
        left, right = self.rows
        return torch.bmm(left.transpose(1, 2), right).reshape(self.n, *self.shape)

    def slices(self, limit: int, root: Tensor | None = None) -> Iterator[Tensor]:
        left, right = self.rows
        width = right.shape[2]
        step = max(1, limit // (self.n * width))
        weights = root.reshape(left.shape[2], width) if root is not None else None
        for start in range(0, left.shape[2], step):
            block = torch.bmm(left[:, :, start : start + step].transpose(1, 2), right)
            if weights is not None:
                block = block * weights[start : start + step]
            yield block.reshape(self.n, -1)


class Rows(Factor):
    """Embedding: row ``index[i, t]`` of the table receives B[i, t].

    Args:
        index: ``[n, T]`` integers; entries equal to ``padding`` receive nothing.
        B: ``[n, T, d]``.
    """

    def __init__(self, index: Tensor, B: Tensor, shape: Sequence[int], padding: int | None = None):
        if padding is not None:
            B = B * (index != padding)[..., None]
        self.index, self.B = index, B
        self.n, self.T, self.d = B.shape
        self.shape = tuple(shape)

    def dense(self) -> Tensor:
        table = self.B.new_zeros(self.n, *self.shape)
        return table.scatter_add_(1, self.index[..., None].expand_as(self.B), self.B)

    def slices(self, limit: int, root: Tensor | None = None) -> Iterator[Tensor]:
        # only rows that some sample touches can contribute
        touched, place = self.index.unique(return_inverse=True)
        compact = self.B.new_zeros(self.n, len(touched), self.d)
        compact.scatter_add_(1, place[..., None].expand_as(self.B), self.B)
        yield from Dense(compact).slices(limit, None if root is None else root[touched])


class Convolution(Factor):
    """Weight gradient of a convolution, one library call for all samples (groups = n · groups).

    Args:
        A: inputs ``[n, C_in, *spatial]`` (already padded where padding is not symmetric zeros).
        B: output-gradients ``[n, C_out, *spatial]``.
        shape: shape of the weight.
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        transposed: bool = False,
        output_padding: Sequence[int] = (0,),
    ):
        self.A, self.B = A, B
        self.n = A.shape[0]
        self.shape = tuple(shape)
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)
        self.groups, self.transposed = groups, transposed
        self.output_padding = tuple(output_padding)

    def dense(self) -> Tensor:
        return self._gradient(self.A, self.B)

    def slices(self, limit: int, root: Tensor | None = None) -> Iterator[Tensor]:
        rows, width = self.shape[0], math.prod(self.shape[1:])
        step = max(1, limit // (self.n * width)) if self.groups == 1 else rows
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            if self.groups > 1:
                block = self._gradient(self.A, self.B)
            elif self.transposed:
                block = self._gradient(self.A[:, start:stop], self.B)
            else:
                block = self._gradient(self.A, self.B[:, start:stop])
            if root is not None:
                block = block * root[start:stop]
            yield block.reshape(self.n, -1)

    def _gradient(self, A: Tensor, B: Tensor) -> Tensor:
        n, kernel = self.n, self.shape[2:]
        wide, narrow = (A.shape[1], B.shape[1]) if self.transposed else (B.shape[1], A.shape[1])
        weight = A.new_empty(1).expand(n * wide, narrow // self.groups, *kernel)  # only its shape is read
        gradient = torch.ops.aten.convolution_backward(
            B.reshape(1, -1, *B.shape[2:]),
            A.reshape(1, -1, *A.shape[2:]),
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            n * self.groups,
            (False, True, False),
        )[1]
        return gradient.view(n, wide, narrow // self.groups, *kernel)

    def outer(self) -> Outer:
        """The same gradient by unfolding (im2col); for one group only."""
        large, small = (self.B, self.A) if self.transposed else (self.A, self.B)
        windows = unfold(large, self.shape[2:], self.stride, self.padding, self.dilation, small.shape[2:])
        return Outer(windows, small.flatten(2).transpose(1, 2), self.shape)


def unfold(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Sequence[int],
) -> Tensor:
    """Sliding windows ``[n, prod(out), C · prod(kernel)]`` of ``x [n, C, *spatial]``.

    One strided copy, in any number of spatial dimensions; ``F.unfold`` is about ten times
    slower on a CPU and two-dimensional only.
    """
    if any(padding):
        x = torch.nn.functional.pad(x, [p for side in reversed(padding) for p in (side, side)])
    need = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    short = [max(0, want - have) for want, have in zip(need, x.shape[2:], strict=True)]
    if any(short):
        x = torch.nn.functional.pad(x, [p for extra in reversed(short) for p in (0, extra)])
    x = x.contiguous()
    n, channels = x.shape[:2]
    steps = x.stride()[2:]
    view = x.as_strided(
        (n, *out, channels, *kernel),
        (
            x.stride(0),
            *(step * s for step, s in zip(steps, stride, strict=True)),
            x.stride(1),
            *(step * d for step, d in zip(steps, dilation, strict=True)),
        ),
    )
    return view.reshape(n, math.prod(out), channels * math.prod(kernel))


def combine(factors: list[Factor]) -> Factor:
    """The sum of several factors of the same tensor (several uses of one parameter)."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(f, Outer) for f in factors):
        outers = [f for f in factors if isinstance(f, Outer)]
        first = outers[0]
        if all((f.a, f.b, f.transposed, f.shape) == (first.a, first.b, first.transposed, first.shape) for f in outers):
            return Outer(
                torch.cat([f.A for f in outers], 1), torch.cat([f.B for f in outers], 1), first.shape, first.transposed
            )
    total = factors[0].dense()
    for factor in factors[1:]:
        total = total + factor.dense()
    return Dense(total)

"""Linear maps: ``F.linear``, ``matmul`` with a parameter on either side, ``addmm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor, Outer
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule
from genkernel.tangent.rules.elementwise import broadcast_sum

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class Linear(Rule):
    """y = x Wᵀ + b with x ``[*, a]``, W ``[b, a]``; the samples on any axis but the last."""

    names = ("input", "weight", "bias")
    keeps = frozenset({"input"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, shape = arguments.name_of(position), use.slots[position].shape
        if len(shape) != (2 if name == "weight" else 1) or layout.axis == B.dim() - 1:
            return None
        per_sample = layout.split(B, n)
        if name == "bias":
            return Dense(per_sample.flatten(1, -2).sum(1) if per_sample.dim() > 2 else per_sample)
        x = arguments.get("input")
        if name != "weight" or x is None or not layout.fits(x.shape, n):
            return None
        return Outer(_positions(layout.split(x, n)), _positions(per_sample))


class MatMul(Rule):
    """y = x W (W second, 2-D), or y = W x (W first, 2-D), with batched x."""

    names = ("input", "other")
    keeps = frozenset({"input", "other"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, W = arguments.name_of(position), use.slots[position]
        if W.dim() != 2:
            return None
        if name == "other":
            x = arguments.get("input")
            if not isinstance(x, Tensor) or x.dim() < 2 or layout.axis == B.dim() - 1 or not layout.fits(x.shape, n):
                return None
            return Outer(_positions(layout.split(x, n)), _positions(layout.split(B, n)), transposed=True)
        x = arguments.get("other")
        if name != "input" or not isinstance(x, Tensor) or x.dim() < 2 or x.dim() != B.dim():
            return None
        if layout.axis == B.dim() - 2 or not layout.fits(x.shape, n):
            return None
        # y[..., b, t] = W[b, a] x[..., a, t]: swap the last two axes and it is x W'
        flip = Layout(layout.axis - 1 if layout.axis == B.dim() - 1 else layout.axis, layout.inner, layout.major)
        return Outer(_positions(flip.split(x.transpose(-1, -2), n)), _positions(flip.split(B.transpose(-1, -2), n)))


class AddMM(Rule):
    """y = bias + x W (``torch.addmm`` as in GPT-2's Conv1D), with beta = alpha = 1."""

    names = ("input", "mat1", "mat2")
    keeps = frozenset({"mat1"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        if arguments.get("beta", 1) != 1 or arguments.get("alpha", 1) != 1 or layout.axis != 0:
            return None
        name = arguments.name_of(position)
        if name == "input":
            return broadcast_sum(B, use.slots[position].shape, n, layout)
        x = arguments.get("mat1")
        if name != "mat2" or not isinstance(x, Tensor) or not layout.fits(x.shape, n):
            return None
        return Outer(_positions(layout.split(x, n)), _positions(layout.split(B, n)), transposed=True)


def _positions(x: Tensor) -> Tensor:
    """``[n, *, c]`` → ``[n, T, c]``."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)


class ReversedMatMul(MatMul):
    """``Tensor.__rmatmul__(x, W)`` computes W @ x."""

    names = ("other", "input")


_MATMUL = MatMul()
RULES: dict[Any, Rule] = {
    F.linear: Linear(),
    torch.matmul: _MATMUL,
    torch.mm: _MATMUL,
    torch.Tensor.matmul: _MATMUL,
    torch.Tensor.mm: _MATMUL,
    torch.Tensor.__matmul__: _MATMUL,
    torch.Tensor.__rmatmul__: ReversedMatMul(),
    torch.addmm: AddMM(),
    torch.Tensor.addmm: AddMM(),
}

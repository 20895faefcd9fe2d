"""Convolutions and transposed convolutions in one to three dimensions, any groups and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Convolution, Dense, Factor, Outer
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class Conv(Rule):
    """``F.conv{1,2,3}d`` and ``F.conv_transpose{1,2,3}d``; bias sums over positions."""

    keeps = frozenset({"input"})

    def __init__(self, dims: int, transposed: bool):
        self.dims, self.transposed = dims, transposed
        tail = ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")
        self.names = ("input", "weight", "bias", "stride", "padding", *tail)

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        if layout.axis != 0 or B.dim() != self.dims + 2:
            return None
        if name == "bias":
            return Dense(layout.split(B.flatten(2).sum(2), n).reshape(n, layout.inner, -1).sum(1))
        A = arguments.get("input")
        if name != "weight" or not layout.fits(A.shape, n):
            return None
        shape = use.slots[position].shape
        stride = self._expand(arguments.get("stride", 1))
        dilation = self._expand(arguments.get("dilation", 1))
        groups = arguments.get("groups", 1)
        padding = arguments.get("padding", 0)
        if padding == "valid":
            padding = 0
        if padding == "same":
            A, padding = self._pad_same(A, shape[2:], dilation), 0
        padding = self._expand(padding)
        pointwise = all(k == 1 for k in shape[2:]) and all(s == 1 for s in stride) and not any(padding) and groups == 1
        if pointwise and not self.transposed:
            found = Outer(A.flatten(2).transpose(1, 2), B.flatten(2).transpose(1, 2), shape)
            return _merge(found, n, layout)
        whole = Convolution(
            A, B, shape, stride, padding, dilation, groups, self.transposed,
            self._expand(arguments.get("output_padding", 0)),
        )  # fmt: skip
        if layout.inner == 1:
            return whole
        if groups == 1:
            return _merge(whole.outer(), n, layout)
        return Dense(layout.split(whole.dense(), n).sum(1))

    def _expand(self, value: Any) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return values * self.dims if len(values) == 1 else values

    def _pad_same(self, A: Tensor, kernel: Any, dilation: tuple[int, ...]) -> Tensor:
        """``padding="same"`` pads more on the far side when the total is odd."""
        pads: list[int] = []
        for k, d in zip(reversed(kernel), reversed(dilation), strict=True):
            total = d * (k - 1)
            pads += [total // 2, total - total // 2]
        return F.pad(A, pads)


def _merge(factor: Outer, n: int, layout: Layout) -> Outer:
    """Fold a merged sample axis into the positions."""
    if layout.inner == 1:
        return factor
    A, B = (layout.split(x, n).flatten(1, 2) for x in (factor.A, factor.B))
    return Outer(A, B, factor.shape, factor.transposed)


RULES: dict[Any, Rule] = {
    F.conv1d: Conv(1, False),
    F.conv2d: Conv(2, False),
    F.conv3d: Conv(3, False),
    F.conv_transpose1d: Conv(1, True),
    F.conv_transpose2d: Conv(2, True),
    F.conv_transpose3d: Conv(3, True),
}

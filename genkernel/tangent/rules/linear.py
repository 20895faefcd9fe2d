"""Linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent import products
from genkernel.tangent.factors import Dense, Factor, Outer
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class Linear(Rule):
    """y = x Wᵀ + b with x ``[*, a]``, W ``[b, a]``; the samples on any axis but the last."""

    names = ("input", "weight", "bias")
    keeps = frozenset({"input"})

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return products.linear(*args, **kwargs)

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


def _positions(x: Tensor) -> Tensor:
    """``[n, *, c]`` → ``[n, T, c]``."""
    return x[:, None] if x.dim() == 2 else x.flatten(1, -2)


RULES: dict[Any, Rule] = {F.linear: Linear()}

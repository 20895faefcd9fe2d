"""Tensors put side by side: a class token in front of the tokens, learned keys beside those of the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.tangent.factors import Factor
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class Cat(Rule):
    """``torch.cat``: what is joined to samples has a slot for each of them."""

    names = ("tensors", "dim")

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        return None

    def own(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        arguments = Arguments(use, self.names)
        dim = arguments.get("dim", 0) % B.dim()
        start = 0
        for p in arguments.leaf_positions("tensors"):
            shape = use.leaf_shapes[p]
            if p == position:
                return B.narrow(dim, start, shape[dim])
            start += shape[dim] if len(shape) == B.dim() else 0  # torch.cat skips empty vectors
        return None


class Stack(Cat):
    """``torch.stack``."""

    def own(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        arguments = Arguments(use, self.names)
        places = list(arguments.leaf_positions("tensors"))
        return B.select(arguments.get("dim", 0), places.index(position)) if position in places else None


RULES: dict[Any, Rule] = {
    **{f: Cat() for f in (torch.cat, torch.concat, torch.concatenate)},
    torch.stack: Stack(),
}

"""Look-up tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Factor, Rows
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class Embedding(Rule):
    """``F.embedding(index, table)``; rows at ``padding_idx`` receive no gradient."""

    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    keeps = frozenset({"input"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        index = arguments.get("input")
        if arguments.name_of(position) != "weight" or index is None or not layout.fits(index.shape, n):
            return None
        if arguments.get("max_norm") is not None or arguments.get("scale_grad_by_freq", False):
            return None  # the first rescales rows in place, the second couples samples
        shape = use.slots[position].shape
        padding = arguments.get("padding_idx")
        if padding is not None:
            padding = padding % shape[0]
        return Rows(layout.split(index, n).reshape(n, -1), layout.split(B, n).reshape(n, -1, shape[1]), shape, padding)


RULES: dict[Any, Rule] = {F.embedding: Embedding()}

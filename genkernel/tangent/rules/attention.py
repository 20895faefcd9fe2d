"""A learned bias of attention scores (relative positions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Factor
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule
from genkernel.tangent.rules.elementwise import broadcast_sum

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class ScoreBias(Rule):
    """y = P V with P = softmax(s Q Kᵀ + M); G_M = P ∘ (D − rowsum(D ∘ P)) with D = B Vᵀ."""

    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    keeps = frozenset({"query", "key", "value", "attn_mask"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        if arguments.name_of(position) != "attn_mask" or layout.axis >= B.dim() - 2:
            return None
        if arguments.get("dropout_p", 0.0) or arguments.get("is_causal", False) or arguments.get("enable_gqa", False):
            return None
        q, k, v, bias = (arguments.get(name) for name in ("query", "key", "value", "attn_mask"))
        scale = arguments.get("scale")
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1) + bias
        weights = scores.softmax(-1)
        gradient = B @ v.transpose(-2, -1)
        gradient = weights * (gradient - (gradient * weights).sum(-1, keepdim=True))
        return broadcast_sum(gradient, use.slots[position].shape, n, layout)


RULES: dict[Any, Rule] = {F.scaled_dot_product_attention: ScoreBias()}

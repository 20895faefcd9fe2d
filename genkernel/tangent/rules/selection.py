"""Entries chosen by index or by mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor, Rows
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule
from genkernel.tangent.rules.elementwise import broadcast_sum

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


def rows(index: Tensor, B: Tensor, shape: torch.Size, n: int, layout: Layout) -> Factor | None:
    """Gradient of a table of any rank whose rows ``index`` ``[*]`` were read, B ``[*, *row]``."""
    if layout.axis >= index.dim() or not layout.fits(index.shape, n):
        return None
    places = layout.split(index, n).reshape(n, -1) % shape[0]  # negative ones count from the end
    width = shape[1:].numel()
    found = Rows(places.long(), layout.split(B, n).reshape(n, places.shape[1], width), (shape[0], width))
    return found if len(shape) == 2 else Dense(found.dense().reshape(n, *shape))


class Subscript(Rule):
    """``table[index]`` with one tensor of integers that belong to the samples."""

    names = ("input", "index")
    keeps = frozenset({"index"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        index = arguments.get("index")
        if isinstance(index, tuple) and len(index) == 1:
            index = index[0]
        if arguments.name_of(position) != "input" or not isinstance(index, Tensor):
            return None
        if index.dtype in (torch.bool, torch.uint8):
            return None
        return rows(index, B, use.slots[position].shape, n, layout)


class IndexSelect(Rule):
    """``index_select`` along axis 0."""

    names = ("input", "dim", "index")
    keeps = frozenset({"index"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments, shape = Arguments(use, self.names), use.slots[position].shape
        if arguments.name_of(position) != "input" or arguments.get("dim") % len(shape) != 0:
            return None
        return rows(arguments.get("index"), B, shape, n, layout)


class EmbeddingBag(Rule):
    """Sum or mean over the rows of each sample's bag, bags of equal length."""

    names = ("input", "weight", "offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse",
             "per_sample_weights", "include_last_offset", "padding_idx")  # fmt: skip
    keeps = frozenset({"input"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        index, mode = arguments.get("input"), arguments.get("mode", "mean")
        outside = ("offsets", "max_norm", "per_sample_weights")
        # the positions, not the values: tensors that the rule does not read were dropped
        if any(
            isinstance(use.leaf_shapes.get(p), torch.Size) for name in outside for p in arguments.leaf_positions(name)
        ):
            return None
        if arguments.get("max_norm") is not None or arguments.get("scale_grad_by_freq", False) or mode == "max":
            return None
        if arguments.name_of(position) != "weight" or index.dim() != 2 or layout != Layout(0):
            return None
        shape, padding = use.slots[position].shape, arguments.get("padding_idx")
        if padding is not None:
            padding = padding % shape[0]
        if mode == "mean":
            length = torch.full_like(B[:, :1], index.shape[1]) if padding is None else (index != padding).sum(1, True)
            B = B / length.clamp_min(1)
        return Rows(index.long(), B[:, None].expand(-1, index.shape[1], -1), shape, padding)


class Where(Rule):
    """``where(condition, input, other)``: each entry comes from one of the two."""

    keeps = frozenset({"condition"})

    def __init__(self, *names: str):
        self.names = names

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, condition = arguments.name_of(position), arguments.get("condition")
        if name not in ("input", "other"):
            return None
        mask = condition if name == "input" else ~condition
        return broadcast_sum(B * mask, use.slots[position].shape, n, layout)


class MaskedFill(Rule):
    """``masked_fill(input, mask, value)`` with a learned value, or a learned input."""

    names = ("input", "mask", "value")
    keeps = frozenset({"mask"})

    def __init__(self, in_place: bool = False):
        self.in_place = in_place

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, mask = arguments.name_of(position), arguments.get("mask")
        if name not in ("input", "value"):
            return None
        return broadcast_sum(B * (mask if name == "value" else ~mask), use.slots[position].shape, n, layout)


T = torch.Tensor
RULES: dict[Any, Rule] = {
    T.__getitem__: Subscript(),
    **{f: IndexSelect() for f in (torch.index_select, T.index_select)},
    F.embedding_bag: EmbeddingBag(),
    torch.where: Where("condition", "input", "other"),
    T.where: Where("input", "condition", "other"),
    **{f: MaskedFill() for f in (torch.masked_fill, T.masked_fill)},
    T.masked_fill_: MaskedFill(True),
}

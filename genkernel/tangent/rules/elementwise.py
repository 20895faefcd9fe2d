"""Elementwise functions: a parameter added to a sample, multiplied with it, or interpolated towards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


def broadcast_sum(gradient: Tensor, shape: torch.Size, n: int, layout: Layout) -> Factor | None:
    """Per-sample sum of ``gradient`` (shaped like the output) over the axes ``shape`` was broadcast along."""
    lead = gradient.dim() - len(shape)
    if lead < 0:
        return None
    aligned = (1,) * lead + tuple(shape)
    if aligned[layout.axis] != 1:
        return None  # the argument has samples of its own
    per_sample = layout.split(gradient, n)
    # after the split the merged part, if any, sits where the axis was, one place further right
    sizes = list(aligned)
    if layout.inner == 1:
        del sizes[layout.axis]
    over = tuple(1 + d for d, want in enumerate(sizes) if want == 1 and per_sample.shape[1 + d] != 1)
    if over:
        per_sample = per_sample.sum(over, keepdim=True)
    return Dense(per_sample.reshape(n, *shape))


class Shift(Rule):
    """x + w, x − w, w − x."""

    names = ("input", "other")

    def __init__(self, signs: tuple[float, float], in_place: bool = False):
        self.signs, self.in_place = signs, in_place

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        if name not in self.names:
            return None
        alpha = arguments.get("alpha", 1) if name == "other" else 1
        if isinstance(alpha, Tensor):
            return None
        sign = self.signs[self.names.index(name)] * alpha
        return broadcast_sum(B if sign == 1 else B * sign, use.slots[position].shape, n, layout)


class Scale(Rule):
    """x ∘ w."""

    names = ("input", "other")
    keeps = frozenset({"input", "other"})

    def __init__(self, in_place: bool = False):
        self.in_place = in_place

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        if name not in self.names:
            return None
        partner = arguments.get("other" if name == "input" else "input")
        if not isinstance(partner, Tensor):
            return None
        return broadcast_sum(B * partner, use.slots[position].shape, n, layout)


class Quotient(Scale):
    """x / w (the gradient of w is −B x / w²); w / x."""

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        x, w = arguments.get("input"), arguments.get("other")
        if arguments.get("rounding_mode") is not None or not isinstance(w, Tensor) or name not in self.names:
            return None
        gradient = B / w if name == "input" else -B * x / (w * w)
        return broadcast_sum(gradient, use.slots[position].shape, n, layout)


class PReLU(Rule):
    """max(x, 0) + w ∘ min(x, 0), one w for all channels or one for each."""

    names = ("input", "weight")
    keeps = frozenset({"input"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments, shape = Arguments(use, self.names), use.slots[position].shape
        if arguments.name_of(position) != "weight":
            return None
        gradient = B * arguments.get("input").clamp_max(0)
        spread = shape if shape.numel() == 1 else torch.Size((*shape, *(1,) * (B.dim() - 2)))
        found = broadcast_sum(gradient, spread, n, layout)
        return None if found is None else Dense(found.dense().reshape(n, *shape))


class AddProduct(Rule):
    """input + value · a ∘ b (``addcmul``)."""

    names = ("input", "tensor1", "tensor2")
    keeps = frozenset({"tensor1", "tensor2"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, value = arguments.name_of(position), arguments.get("value", 1)
        if name in ("tensor1", "tensor2"):
            B = B * arguments.get("tensor2" if name == "tensor1" else "tensor1") * value
        elif name != "input":
            return None
        return broadcast_sum(B, use.slots[position].shape, n, layout)


class Interpolation(Rule):
    """start + w ∘ (end − start) (``lerp``)."""

    names = ("input", "end", "weight")
    keeps = frozenset({"input", "end", "weight"})

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, w = arguments.name_of(position), arguments.get("weight")
        if name == "input":
            B = B * (1 - w)
        elif name == "end":
            B = B * w
        elif name == "weight":
            B = B * (arguments.get("end") - arguments.get("input"))
        else:
            return None
        return broadcast_sum(B, use.slots[position].shape, n, layout)


T = torch.Tensor
_ADD, _ADD_, _SUB, _SUB_ = Shift((1, 1)), Shift((1, 1), True), Shift((1, -1)), Shift((1, -1), True)
RULES: dict[Any, Rule] = {
    **{f: _ADD for f in (torch.add, T.add, T.__add__, T.__radd__)},
    **{f: _ADD_ for f in (T.add_, T.__iadd__)},
    **{f: _SUB for f in (torch.sub, T.sub, T.__sub__, torch.subtract, T.subtract)},
    **{f: _SUB_ for f in (T.sub_, T.__isub__)},
    **{f: Scale() for f in (torch.mul, T.mul, T.__mul__, T.__rmul__, torch.multiply, T.multiply)},
    **{f: Scale(True) for f in (T.mul_, T.__imul__)},
    **{f: Quotient() for f in (torch.div, T.div, T.__truediv__, torch.true_divide)},
    **{f: Quotient(True) for f in (T.div_, T.__itruediv__)},
    **{f: PReLU() for f in (torch.prelu, T.prelu)},
    **{f: AddProduct() for f in (torch.addcmul, T.addcmul)},
    **{f: Interpolation() for f in (torch.lerp, T.lerp)},
}

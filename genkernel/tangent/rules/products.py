"""Sums of products: matmul in all its forms, bmm, bilinear, einsum, tensordot.

Every one of them is an einsum, y[o] = Σ W[w] · Π_k X_k[x_k] with an index letter per axis, and the
gradient of W for one sample is the einsum of the output-gradient with the other factors over
everything but the letters of W and of the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor, Outer
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule
from genkernel.tangent.rules.elementwise import broadcast_sum

if TYPE_CHECKING:
    from genkernel.tangent.use import Use

#: index letter of each axis; None for an axis of length 1 that is broadcast
Letters = list[int | None]

_ROW, _SUM, _COLUMN, _BATCH = 0, 1, 2, 3  # letters of matmul; batch axes count up from _BATCH, right to left


@dataclass
class Spec:
    """The factors of a product by leaf position, and what comes out."""

    factors: dict[int, Letters]
    out: Letters
    scale: float = 1.0


def product_gradient(
    W: Letters, shape: torch.Size, others: list[tuple[Tensor, Letters]], B: Tensor, out: Letters, n: int, layout: Layout
) -> Factor | None:
    """Per-sample gradient of one factor of a product.

    Args:
        W, shape: letters and shape of the factor.
        others: the other factors.
        B, out: output-gradient and its letters.
        n, layout: number of samples, and where they are in the output.

    Returns:
        An ``Outer`` where the product is a linear map, else the gradient itself; None where the
        factor has samples of its own or a letter is repeated.
    """
    sample = out[layout.axis]
    # beside one sample alone, an axis of length 1 that is broadcast looks like a sample axis
    W = [None if letter == sample and size == 1 else letter for letter, size in zip(W, shape, strict=True)]
    if sample is None or sample in W:
        return None
    B, letters = _squeezed(B, out)
    at = letters.index(sample)
    slot = max(letter for letter in [*letters, *W, *(x for _, xs in others for x in xs)] if letter is not None) + 1
    B, letters = _split(B, letters, replace(layout, axis=at), n, slot)
    terms = [_squeezed(x, xs) for x, xs in others]
    terms = [
        _split(x, xs, replace(layout, axis=xs.index(sample)), n, slot) if sample in xs else (x, xs) for x, xs in terms
    ]
    wanted = [letter for letter in W if letter is not None]
    if any(len(set(xs)) < len(xs) for xs in (letters, wanted, *(xs for _, xs in terms))):
        return None
    if len(terms) == 1:
        found = _outer(wanted, shape, *terms[0], B, letters, n, sample)
        if found is not None:
            return found
    seen = {letter for xs in (letters, *(xs for _, xs in terms)) for letter in xs}
    kept = [letter for letter in wanted if letter in seen]
    arguments: list[Any] = [B, letters]
    for x, xs in terms:
        arguments += [x, xs]
    gradient = torch.einsum(*arguments, [sample, *kept])
    sizes = dict(zip(W, shape, strict=True))
    for place, letter in enumerate(wanted):  # summed over in this factor alone
        if letter not in seen:
            gradient = gradient.unsqueeze(1 + place).expand(
                *gradient.shape[: 1 + place], sizes[letter], *gradient.shape[1 + place :]
            )
    return Dense(gradient.reshape(n, *shape))


def _outer(
    W: list[int], shape: torch.Size, x: Tensor, xs: list[int], B: Tensor, letters: list[int], n: int, sample: int
) -> Outer | None:
    """A linear map: each letter of W is either summed over or passed on, the two sorts not interleaved."""
    passed = [w for w in W if w in letters and w not in xs]
    summed = [w for w in W if w in xs and w not in letters]
    if W not in (passed + summed, summed + passed) or sample not in xs:
        return None
    for own, other in ((letters, xs), (xs, letters)):
        lonely = tuple(d for d, letter in enumerate(own) if letter not in other and letter not in W)
        if lonely and own is letters:
            B, letters = B.sum(lonely), [letter for d, letter in enumerate(letters) if d not in lonely]
        elif lonely:
            x, xs = x.sum(lonely), [letter for d, letter in enumerate(xs) if d not in lonely]
    positions = [letter for letter in letters if letter not in W and letter != sample]
    T = math.prod(B.shape[letters.index(letter)] for letter in positions)
    left = B.permute([letters.index(letter) for letter in (sample, *positions, *passed)]).reshape(n, T, -1)
    right = x.permute([xs.index(letter) for letter in (sample, *positions, *summed)]).reshape(n, T, -1)
    return Outer(right, left, shape, transposed=passed + summed != W)


def _squeezed(x: Tensor, letters: Letters) -> tuple[Tensor, list[int]]:
    """Without the broadcast axes of length 1."""
    keep = [size for size, letter in zip(x.shape, letters, strict=True) if letter is not None]
    return x.reshape(keep), [letter for letter in letters if letter is not None]


def _split(x: Tensor, letters: list[int], layout: Layout, n: int, slot: int) -> tuple[Tensor, list[int]]:
    """The sample axis in front; what it was merged with becomes an axis of its own."""
    sample, rest = letters[layout.axis], list(letters)
    if layout.inner == 1:
        del rest[layout.axis]
    else:
        rest[layout.axis] = slot
    return layout.split(x, n), [sample, *rest]


class Product(Rule):
    """A function that is an einsum of its tensor arguments."""

    def forget(self, use: Use) -> None:
        """The gradient of one factor needs all the others."""

    def spec(self, use: Use) -> Spec | None:
        """The letters of this call."""
        raise NotImplementedError

    def summand(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        """For a function that adds an argument to its product: the gradient before broadcasting."""
        return None

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        shape = use.slots[position].shape
        added = self.summand(use, position, B)
        if added is not None:
            return broadcast_sum(added, shape, n, layout)
        spec = self.spec(use)
        if spec is None or position not in spec.factors or len(spec.out) != B.dim():
            return None
        others = [(use.leaves[p], letters) for p, letters in spec.factors.items() if p != position]
        if spec.scale != 1:
            B = B * spec.scale
        return product_gradient(spec.factors[position], shape, others, B, spec.out, n, layout)


class MatMul(Product):
    """a @ b for any numbers of axes: batch axes are broadcast, vectors stand for one row or column."""

    names = ("input", "other")

    def spec(self, use: Use) -> Spec | None:
        positions = Arguments(use, self.names).positions
        return matmul_spec(use, positions["input"], positions["other"])


def matmul_spec(use: Use, a: int, b: int, scale: float = 1.0) -> Spec:
    """Letters of the matrix product of two leaves of a call."""
    left, right = use.leaf_shapes[a], use.leaf_shapes[b]
    depth = max(len(left), len(right), 2) - 2
    batch = list(range(_BATCH + depth - 1, _BATCH - 1, -1))
    longest = torch.broadcast_shapes(left[:-2], right[:-2])

    def letters(shape: torch.Size, last: list[int]) -> Letters:
        lead = shape[:-2]
        own = batch[depth - len(lead) :]
        sizes = longest[depth - len(lead) :]
        return [*(x if size == whole else None for size, whole, x in zip(lead, sizes, own, strict=True)), *last]

    factors = {
        a: letters(left, [_ROW, _SUM] if len(left) > 1 else [_SUM]),
        b: letters(right, [_SUM, _COLUMN] if len(right) > 1 else [_SUM]),
    }
    out: Letters = [*batch]
    out += [_ROW] if len(left) > 1 else []
    out += [_COLUMN] if len(right) > 1 else []
    return Spec(factors, out, scale)


class ReversedMatMul(MatMul):
    """``Tensor.__rmatmul__(x, W)`` computes W @ x."""

    names = ("other", "input")


class AddMatMul(Product):
    """beta · input + alpha · a @ b: ``addmm``, ``baddbmm``, ``addmv``."""

    def __init__(self, a: str, b: str):
        self.names = ("input", a, b)

    def spec(self, use: Use) -> Spec | None:
        arguments = Arguments(use, self.names)
        alpha = arguments.get("alpha", 1)
        if isinstance(alpha, Tensor):
            return None
        return matmul_spec(use, arguments.positions[self.names[1]], arguments.positions[self.names[2]], alpha)

    def summand(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        arguments = Arguments(use, self.names)
        if arguments.name_of(position) != "input":
            return None
        return B * arguments.get("beta", 1)


class Bilinear(Product):
    """y[…, o] = Σ x[…, i] W[o, i, j] z[…, j] + b[o]."""

    names = ("input1", "input2", "weight", "bias")

    def spec(self, use: Use) -> Spec | None:
        positions = Arguments(use, self.names).positions
        lead: Letters = list(range(3, 2 + len(use.leaf_shapes[positions["input1"]])))
        return Spec(
            {
                positions["input1"]: [*lead, 0],
                positions["input2"]: [*lead, 1],
                positions["weight"]: [2, 0, 1],
            },
            [*lead, 2],
        )

    def summand(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        return B if Arguments(use, self.names).name_of(position) == "bias" else None


class Einsum(Product):
    """``torch.einsum`` with an equation (not with lists of indices)."""

    names = ("equation",)

    def spec(self, use: Use) -> Spec | None:
        arguments = Arguments(use, self.names)
        equation = arguments.get("equation")
        if not isinstance(equation, str):
            return None
        first = arguments.positions["equation"]
        positions = [p for p in range(len(use.leaves)) if p != first and p in use.leaf_shapes]
        return equation_spec(equation, {p: use.leaf_shapes[p] for p in positions})


def equation_spec(equation: str, shapes: dict[int, torch.Size]) -> Spec | None:
    """Read an einsum equation; shapes by leaf position in the order of the operands."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    if len(parts) != len(shapes):
        return None
    depth = max(
        (len(s) - len(p.replace("...", "")) for p, s in zip(parts, shapes.values(), strict=True) if "..." in p),
        default=0,
    )

    def letters(part: str, count: int) -> list[int]:
        """Letters by code point; the axes of an ellipsis count down from −1, right to left."""
        before, dots, after = part.partition("...")
        return [*map(ord, before), *(range(-count, 0) if dots else ()), *map(ord, after)]

    found = {
        p: letters(part, len(shape) - len(part.replace("...", "")))
        for part, (p, shape) in zip(parts, shapes.items(), strict=True)
    }
    if arrow:
        out = letters(output, depth)
    else:
        named = [letter for own in found.values() for letter in own if letter >= 0]
        out = [*range(-depth, 0), *sorted(letter for letter in set(named) if named.count(letter) == 1)]
    longest: dict[int, int] = {}
    for p, own in found.items():
        for letter, size in zip(own, shapes[p], strict=True):
            longest[letter] = max(size, longest.get(letter, 1))
    offset = depth + 1  # einsum takes letters from 0 on
    order = {letter: i for i, letter in enumerate(sorted(longest, key=lambda v: v + offset))}
    factors: dict[int, Letters] = {
        p: [
            None if size == 1 and longest[letter] > 1 else order[letter]
            for letter, size in zip(own, shapes[p], strict=True)
        ]
        for p, own in found.items()
    }
    return Spec(factors, [order[letter] for letter in out])


class TensorDot(Product):
    """``torch.tensordot(a, b, dims)``."""

    names = ("a", "b", "dims")

    def spec(self, use: Use) -> Spec | None:
        arguments = Arguments(use, self.names)
        a, b = arguments.positions["a"], arguments.positions["b"]
        left, right = use.leaf_shapes[a], use.leaf_shapes[b]
        dims = arguments.get("dims", 2)
        if isinstance(dims, int):
            dims = (range(len(left) - dims, len(left)), range(dims))
        if isinstance(dims, Tensor) or len(dims) != 2:
            return None
        pairs = dict(zip((d % len(right) for d in dims[1]), (d % len(left) for d in dims[0]), strict=True))
        first: Letters = list(range(len(left)))
        second: Letters = [pairs.get(d, len(left) + d) for d in range(len(right))]
        summed = set(pairs.values())
        return Spec(
            {a: first, b: second}, [x for x in first if x not in summed] + [x for x in second if x not in summed]
        )


_MATMUL, _ADDMM, _BADDBMM, _ADDMV = (
    MatMul(),
    AddMatMul("mat1", "mat2"),
    AddMatMul("batch1", "batch2"),
    AddMatMul("mat", "vec"),
)
T = torch.Tensor
RULES: dict[Any, Rule] = {
    **{f: _MATMUL for f in (torch.matmul, torch.mm, torch.bmm, torch.mv, T.matmul, T.mm, T.bmm, T.mv, T.__matmul__)},
    T.__rmatmul__: ReversedMatMul(),
    **{f: _ADDMM for f in (torch.addmm, T.addmm)},
    **{f: _BADDBMM for f in (torch.baddbmm, T.baddbmm)},
    **{f: _ADDMV for f in (torch.addmv, T.addmv)},
    torch.nn.functional.bilinear: Bilinear(),
    torch.bilinear: Bilinear(),
    torch.einsum: Einsum(),
    torch.tensordot: TensorDot(),
}

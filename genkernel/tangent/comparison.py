"""What the proof compares: autograd's own gradients, and those that are assembled from what was captured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genkernel.tangent.assembly import Signs
from genkernel.tangent.capture import Tape

#: of the outputs of the samples that are compared: divided by without rounding
WEIGHTS = (1.0, -0.5, 0.25)


@dataclass
class Record:
    """A recorded forward pass, and the seconds that it took."""

    tape: Tape
    out: Tensor
    seconds: float = 0.0


@dataclass
class Comparison:
    """Assembled gradients against autograd's.

    Attributes:
        failed: parameters that disagree. ``worst``: largest error among the others.
        silent: parameters without influence on the samples. ``weak``: too small beside others to be compared.
        signs: uses that had an influence, and whose gradients could be nonzero.
    """

    failed: set[str] = field(default_factory=set)
    worst: float = 0.0
    silent: list[str] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)
    signs: Signs = field(default_factory=Signs)


@dataclass(frozen=True)
class Truth:
    """What autograd itself gives for a record whose parameters are in the graph, its samples weighted differently.

    Attributes:
        received: output-gradients of the uses.
        gradients: of the parameters.
    """

    received: dict[int, Tensor]
    gradients: dict[str, Tensor]

    @classmethod
    def of(cls, record: Record, tensors: dict[str, Tensor]) -> Truth:
        tape, out = record.tape, record.out
        received: dict[int, Tensor] = {}
        leaves = {name: t for name, t in tensors.items() if t.requires_grad}
        if not out.requires_grad:
            return cls({}, {})
        v = random_cotangent(out)
        weighted = v * torch.tensor(WEIGHTS).to(v).view(-1, *[1] * (v.dim() - 1))
        tape.deliver = lambda use, B: received.__setitem__(use.index, B)
        try:
            ends: list[Any] = [*leaves.values(), *tape.ends(set(range(len(tape.uses))))]
            found = torch.autograd.grad(out, ends, weighted, retain_graph=True, allow_unused=True)[: len(leaves)]
        finally:
            tape.deliver = None
        gradients = {name: g for name, g in zip(leaves, found, strict=True) if g is not None}
        return cls(received, gradients)


@dataclass(frozen=True)
class Gap:
    """Autograd's gradient of one parameter: whether there is any, its norm, and its distance from the assembled one."""

    any: bool
    size: float
    gap: float

    @classmethod
    def between(cls, true: Tensor | None, mine: Tensor | None) -> Gap:
        """``mine`` may be overwritten; None is zero."""
        if true is None:
            return cls(False, 0.0, 0.0 if mine is None else float(mine.norm()))
        true = (true.to_dense() if true.is_sparse else true).detach().reshape(-1)
        size = float(true.norm())
        gap = size if mine is None else float((mine.to(true) if mine.dtype != true.dtype else mine).sub_(true).norm())
        return cls(size > 0 or bool(true.any()), size, gap)


def received_alone(record: Record, i: int, three: Tensor) -> dict[int, Tensor]:
    """Output-gradients of the uses under the cotangent of sample ``i`` alone (the pair is in reverse)."""
    received: dict[int, Tensor] = {}
    tape, out = record.tape, record.out
    if tape.leaves and out.requires_grad:
        tape.deliver = lambda use, B: received.__setitem__(use.index, B)
        v = torch.zeros_like(out)
        v[i] = random_cotangent(three)[1 - i]
        torch.autograd.grad(out, tape.leaves, v, retain_graph=True, allow_unused=True)
        tape.deliver = None
    return received


def random_cotangent(out: Tensor) -> Tensor:
    """The same for every output of this shape."""
    draw = torch.Generator().manual_seed(2)
    return torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out)

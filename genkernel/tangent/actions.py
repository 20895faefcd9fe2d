"""Linear operators on blocks of parameters, given by what they do to rows of gradients.

A block is one parameter or several; rows are tensors ``[r, *shape]`` by parameter name. The
operators stand for symmetric positive semidefinite P.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.fingerprint import fingerprint

Block = tuple[str, ...]
Rows = dict[str, Tensor]

_TRIED_ROWS = 4
# relative disagreement allowed between ⟨u, P w⟩ and ⟨w, P u⟩, by the dtype P is tried in
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


class Action(Protocol):
    """P on blocks of parameters."""

    def apply(self, rows: Rows) -> Rows:
        """P times each row: name → ``[r, *shape]``, for the names of one block."""

    def check(self, block: Block, parameters: Mapping[str, Tensor]) -> None:
        """Raise InputError unless it is symmetric, positive semidefinite and fits the parameters."""

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Action:
        """The same on another device, in another dtype."""

    def fingerprint(self) -> str:
        """sha256 of what decides its numbers."""


class Function:
    """A function of the user's.

    Args:
        fn: rows by name to P times each row.
    """

    def __init__(self, fn: Callable[[Rows], Rows]):
        self.fn = fn
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self._tried: set[Any] = set()

    def apply(self, rows: Rows) -> Rows:
        with torch.no_grad():
            found = self.fn(dict(rows))
        if not isinstance(found, Mapping) or found.keys() != rows.keys():
            names = f"rows of {sorted(found)}" if isinstance(found, Mapping) else type(found).__name__
            raise InputError(f"the preconditioner {self.name} got rows of {sorted(rows)} and returned {names}")
        for name, row in rows.items():
            p = found[name]
            if not isinstance(p, Tensor) or (p.shape, p.dtype, p.device) != (row.shape, row.dtype, row.device):
                got = f"{tuple(p.shape)} {p.dtype} on {p.device}" if isinstance(p, Tensor) else type(p).__name__
                raise InputError(
                    f"the preconditioner {self.name} got rows of {name!r} {tuple(row.shape)} {row.dtype} on "
                    f"{row.device} and returned {got}"
                )
        return dict(found)

    def check(self, block: Block, parameters: Mapping[str, Tensor]) -> None:
        """Try it on a few random rows u, and on P u: linear, symmetric, no negative eigenvalue in their span."""
        key = tuple((name, p.shape, p.dtype, p.device) for name, p in parameters.items() if name in block)
        if key in self._tried:
            return
        draw = torch.Generator().manual_seed(0)
        rows = {
            name: torch.randn(_TRIED_ROWS, *parameters[name].shape, generator=draw, dtype=torch.float64).to(
                parameters[name].detach()
            )
            for name in block
        }
        before = {name: row.clone() for name, row in rows.items()}
        image = self.apply(rows)
        if any(not torch.equal(rows[name], before[name]) for name in block):
            raise InputError(f"the preconditioner {self.name} writes to the rows it is given: let it return new ones")
        u, p = _flat(rows, block), _flat(image, block)
        where = f"the preconditioner {self.name} on {' and '.join(map(repr, block))}"
        if not torch.isfinite(p).all():
            raise InputError(f"{where} returns NaN or infinity")
        tolerance = _TOLERANCE.get(next(iter(rows.values())).dtype, 2e-2)
        size = float(p.norm(dim=1).max())
        mixed = _flat(self.apply({name: row[:1] + 2 * row[1:2] for name, row in rows.items()}), block)
        if float((mixed - p[:1] - 2 * p[1:2]).norm()) > 10 * tolerance * size:
            raise InputError(f"{where} is not linear in each row alone")
        # Rayleigh quotients over the span of u and P u, each scaled to length 1
        twice = _flat(self.apply(image), block)
        lengths = torch.cat([u.norm(dim=1), p.norm(dim=1).clamp_min(1e-300)])
        basis, images = torch.cat([u, p]) / lengths[:, None], torch.cat([p, twice]) / lengths[:, None]
        products = basis @ images.T
        largest = float(images.norm(dim=1).max())
        if float((products - products.T).abs().max()) > tolerance * largest:
            raise InputError(f"{where} is not symmetric: ⟨u, P w⟩ and ⟨w, P u⟩ differ")
        gram, vectors = torch.linalg.eigh(basis @ basis.T)
        kept = gram > tolerance**0.5 * gram[-1]
        whitened = vectors[:, kept] / gram[kept].sqrt()
        lowest = float(torch.linalg.eigvalsh(whitened.T @ products @ whitened)[0])
        if lowest < -10 * tolerance * largest:
            raise InputError(f"{where} is not positive semidefinite: ⟨u, P u⟩ = {lowest:.2g} ‖u‖² for some u")
        self._tried.add(key)

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Function:
        """Itself: it works where its rows are."""
        return self

    def fingerprint(self) -> str:
        return fingerprint(["function", self.fn])


class Between:
    """D P D, with the diagonal of D by name."""

    def __init__(self, inner: Action, diagonal: Mapping[str, Tensor | float]):
        self.inner, self.diagonal = inner, dict(diagonal)

    def apply(self, rows: Rows) -> Rows:
        return self._times(self.inner.apply(self._times(rows)))

    def _times(self, rows: Rows) -> Rows:
        return {
            name: row * (d.to(row) if isinstance(d := self.diagonal[name], Tensor) else d) for name, row in rows.items()
        }

    def check(self, block: Block, parameters: Mapping[str, Tensor]) -> None:
        for name in block:
            check_shape(name, self.diagonal[name], parameters[name])
        self.inner.check(block, parameters)

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Between:
        moved = {n: d.to(device, dtype) if isinstance(d, Tensor) else d for n, d in self.diagonal.items()}
        return Between(self.inner.to(device, dtype), moved)

    def fingerprint(self) -> str:
        return fingerprint(["between", self.inner.fingerprint(), self.diagonal])


def check_shape(name: str, diagonal: Tensor | float, parameter: Tensor) -> None:
    """Raise InputError unless a diagonal is shaped like its parameter."""
    if isinstance(diagonal, Tensor) and diagonal.shape != parameter.shape:
        raise InputError(
            f"the preconditioner of {name!r} has shape {tuple(diagonal.shape)}, the parameter {tuple(parameter.shape)}"
        )


def _flat(rows: Mapping[str, Tensor], block: Block) -> Tensor:
    """``[r, entries of the block]``, float64."""
    return torch.cat([rows[name].detach().reshape(len(rows[name]), -1).double() for name in block], 1)

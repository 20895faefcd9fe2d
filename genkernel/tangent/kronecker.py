"""Kronecker-factored P on one layer's parameters.

With a gradient as a matrix G ``[rows, columns]`` (a parameter reshaped to its first axis by the
rest), (L ⊗ R) G = L G R. From L = U diag(a) Uᵀ and R = V diag(b) Vᵀ follows, exactly,

    (L ⊗ R + λ)⁻¹ G = U ( (Uᵀ G V) / (a bᵀ + λ) ) Vᵀ .

With R the second moment of a layer's inputs and L that of its output-gradients this is the
preconditioner of K-FAC (Martens & Grosse 2015, §4.2 and §6.3, the damping not factored).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.actions import Block, Rows
from genkernel.tangent.fingerprint import fingerprint

# of the largest entry: estimates of second moments in float32 are this far from symmetric and semidefinite
_ROUNDING = 1e-5
_SINGULAR = 1e-13


class Kronecker:
    """L ⊗ R + λ, or its inverse, on the columns of a block's parameters side by side.

    Args:
        block: names of the parameters.
        left, right: L ``[rows, rows]`` and R ``[columns, columns]``.
        damping: λ ≥ 0.
        inverse: invert.

    Raises:
        InputError: a factor is not square, symmetric and positive semidefinite, or there is no inverse.
    """

    def __init__(self, block: Block, left: Tensor, right: Tensor, damping: float = 0.0, inverse: bool = False):
        if not (damping >= 0 and math.isfinite(damping)):
            raise InputError(f"damping is a finite number ≥ 0, not {damping}")
        self.rows, self.columns = (_checked(f, block) for f in (left, right))
        self.damping, self.inverse = float(damping), inverse
        if inverse:
            a, u = torch.linalg.eigh(self.rows)
            b, v = torch.linalg.eigh(self.columns)
            spectrum = a.clamp_min(0)[:, None] * b.clamp_min(0) + damping
            if float(spectrum.min()) <= _SINGULAR * float(spectrum.max()):
                raise InputError(
                    f"the Kronecker factors of {_said(block)} have no inverse: their product is singular; "
                    "damping= makes it regular"
                )
            self.rows, self.columns, self.gains = u, v, 1 / spectrum

    def apply(self, rows: Rows) -> Rows:
        G = torch.cat([_matrix(row) for row in rows.values()], 2)
        left, right = self.rows.to(G), self.columns.to(G)
        if self.inverse:
            G = left @ ((left.T @ G @ right) * self.gains.to(G)) @ right.T
        else:
            G = left @ G @ right + self.damping * G
        parts = G.split([_matrix(row).shape[2] for row in rows.values()], 2)
        return {name: part.reshape(rows[name].shape) for name, part in zip(rows, parts, strict=True)}

    def check(self, block: Block, parameters: Mapping[str, Tensor]) -> None:
        shapes = [_matrix(parameters[name].detach()[None]).shape for name in block]
        have = self.rows.shape[0], self.columns.shape[0]
        if any(shape[1] != have[0] for shape in shapes) or sum(shape[2] for shape in shapes) != have[1]:
            want = " and ".join(f"{shape[1]} × {shape[2]}" for shape in shapes)
            raise InputError(
                f"the Kronecker factors of {_said(block)} are for a gradient of {have[0]} × {have[1]}, which is {want}"
            )

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Kronecker:
        other = object.__new__(Kronecker)
        vars(other).update({k: v.to(device, dtype) if isinstance(v, Tensor) else v for k, v in vars(self).items()})
        return other

    def fingerprint(self) -> str:
        return fingerprint(["Kronecker", vars(self)])


def _matrix(row: Tensor) -> Tensor:
    """``[r, *shape]`` → ``[r, rows, columns]``."""
    return row.reshape(len(row), row.shape[1] if row.dim() > 1 else 1, -1)


def _checked(factor: Tensor, block: Block) -> Tensor:
    if not isinstance(factor, Tensor) or factor.dim() != 2 or factor.shape[0] != factor.shape[1] or not len(factor):
        got = tuple(factor.shape) if isinstance(factor, Tensor) else type(factor).__name__
        raise InputError(f"the Kronecker factors of {_said(block)} have to be square matrices, not {got}")
    factor = factor.detach().double()
    if not torch.isfinite(factor).all():
        raise InputError(f"a Kronecker factor of {_said(block)} holds NaN or infinity")
    size = float(factor.abs().max())
    if float((factor - factor.T).abs().max()) > _ROUNDING * size:
        raise InputError(f"a Kronecker factor of {_said(block)} is not symmetric")
    factor = (factor + factor.T) / 2
    lifted = factor + max(_ROUNDING * size, 1e-300) * torch.eye(len(factor)).to(factor)
    if size > 0 and int(torch.linalg.cholesky_ex(lifted).info):
        raise InputError(f"a Kronecker factor of {_said(block)} is not positive semidefinite")
    return factor


def _said(block: Block) -> str:
    return " and ".join(map(repr, block))

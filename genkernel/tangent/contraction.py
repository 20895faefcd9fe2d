"""Gram products of factors: K[r, c] += Σ_p G_rp P_p G_cp, by the cheaper of two routes.

* **ghost**: Σ_{t,s} (A_it·A_js)(B_it·B_js), never forming G; for few positions T;
* **materialise**: G in slices of a few million entries, one GEMM per slice.

Products are accumulated in float64 by default: a float32 Gram product of float32 gradients
invents rank that is not there (docs/engine.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from genkernel.tangent.factors import Convolution, Factor, Outer

#: entries of one materialised slice: large enough for GEMM, small enough for cache and scratch
SLICE = 1 << 21
#: entries of the position products in one ghost block
GHOST = 1 << 22
#: from this many samples on, symmetric products compute the lower triangle only
TRIANGLE = 256


@dataclass
class Block:
    """One rectangle of the kernel while its tile runs.

    Args:
        rows, cols: which samples of the tile are on the two sides.
        count: number of separately kept totals (one per probe, or one).
        layer_of: parameter → layer, or None to keep totals only.
        accumulate: dtype of products and sums.
        norms: also keep the squared norm of every sample of the tile.
    """

    rows: slice
    cols: slice
    samples: int
    count: int
    layer_of: dict[str, str] | None
    accumulate: torch.dtype
    device: torch.device
    norms: bool = False
    totals: Tensor = field(init=False)
    layers: dict[str, Tensor] = field(init=False)
    squares: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start from zero."""
        r, c = self.rows.stop - self.rows.start, self.cols.stop - self.cols.start
        self.totals = torch.zeros(self.count, r, c, dtype=torch.float64, device=self.device)
        self.layers = {}
        self.squares = (
            torch.zeros(self.count, self.samples, dtype=torch.float64, device=self.device) if self.norms else None
        )

    @property
    def symmetric(self) -> bool:
        return self.rows == self.cols

    def add(self, which: int, parameter: str, factor: Factor, root: Tensor | None) -> None:
        """Add the contribution of one parameter under one cotangent.

        Args:
            which: index of the total.
            parameter: name, for the layer.
            factor: per-sample gradients of the parameter, or of a view of it.
            root: square root of the diagonal preconditioner in the factor's coordinates.

        Raises:
            FloatingPointError: a sample's gradient is not finite.
        """
        if isinstance(factor, Convolution) and root is None and self._prefers_ghost(_shape_only(factor)):
            factor = factor.outer()
        if isinstance(factor, Outer) and root is None and self._prefers_ghost(factor):
            product = self._ghost(factor)
            squares = self._ghost_squares(factor) if self.squares is not None else None
        else:
            product, squares = self._materialised(factor, root)
        # a sample's NaN or infinity always reaches its own squared norm
        if not torch.isfinite(squares if squares is not None else product.diagonal()).all():
            raise FloatingPointError(parameter)
        self.totals[which] += product
        if self.squares is not None and squares is not None:
            self.squares[which] += squares
        if self.layer_of is not None:
            layer = self.layer_of[parameter]
            if layer in self.layers:
                self.layers[layer] += product
            else:
                self.layers[layer] = product

    def mirror(self) -> None:
        """Fill the upper triangle of a symmetric block, once, after the last contribution."""
        if self.symmetric:
            for matrix in (*self.totals, *self.layers.values()):
                matrix.copy_(torch.tril(matrix) + torch.tril(matrix, -1).T)

    # ------------------------------------------------------------------- routes

    def _prefers_ghost(self, factor: Outer | _Shape) -> bool:
        r, c = self.rows.stop - self.rows.start, self.cols.stop - self.cols.start
        T, a, b, n = factor.T, factor.a, factor.b, factor.n
        materialised = 2 * n * T * a * b + 2 * r * c * a * b
        ghost = r * c * T * T * (2 * (a + b) + 20)
        return ghost < materialised

    def _materialised(self, factor: Factor, root: Tensor | None) -> tuple[Tensor, Tensor | None]:
        r, c = self.rows.stop - self.rows.start, self.cols.stop - self.cols.start
        product = torch.zeros(r, c, dtype=torch.float64, device=self.device)
        squares = torch.zeros(self.samples, dtype=torch.float64, device=self.device) if self.norms else None
        triangle = self.symmetric and r >= TRIANGLE
        for part in factor.slices(SLICE, root):
            part = part.to(self.accumulate)
            left, right = part[self.rows], part[self.cols]
            if squares is not None:
                squares += part.square().sum(1)
            if triangle:
                for start in range(0, r, TRIANGLE // 2):
                    stop = min(r, start + TRIANGLE // 2)
                    self._accumulate(product[start:stop, :stop], left[start:stop], right[:stop])
            else:
                self._accumulate(product, left, right)
        return product, squares

    def _accumulate(self, product: Tensor, left: Tensor, right: Tensor) -> None:
        if left.dtype == product.dtype:
            product.addmm_(left, right.T)
        else:
            product += left @ right.T

    def _ghost(self, factor: Outer) -> Tensor:
        A, B, T = factor.A.to(self.accumulate), factor.B.to(self.accumulate), factor.T
        Ar, Br, Ac, Bc = A[self.rows], B[self.rows], A[self.cols], B[self.cols]
        if T == 1:
            return ((Ar[:, 0] @ Ac[:, 0].T) * (Br[:, 0] @ Bc[:, 0].T)).to(torch.float64)
        r, c = len(Ar), len(Ac)
        Ac, Bc = Ac.reshape(c * T, -1), Bc.reshape(c * T, -1)
        step = max(1, GHOST // (c * T * T))
        blocks = []
        for start in range(0, r, step):
            a, b = Ar[start : start + step].reshape(-1, factor.a), Br[start : start + step].reshape(-1, factor.b)
            both = (a @ Ac.T).mul_(b @ Bc.T)
            blocks.append(both.view(-1, T, c, T).sum((1, 3), dtype=torch.float64))
        return torch.cat(blocks)

    def _ghost_squares(self, factor: Outer) -> Tensor:
        A, B = factor.A.to(self.accumulate), factor.B.to(self.accumulate)
        return (torch.bmm(A, A.transpose(1, 2)) * torch.bmm(B, B.transpose(1, 2))).sum((1, 2), dtype=torch.float64)


@dataclass
class _Shape:
    n: int
    T: int
    a: int
    b: int


def _shape_only(factor: Convolution) -> _Shape:
    """What ``factor.outer()`` would be; one that never prefers the ghost route when grouped."""
    small = factor.A if factor.transposed else factor.B
    positions = small.shape[2:].numel()
    if factor.groups > 1:
        return _Shape(factor.n, 1 << 20, 1, 1)
    wide = factor.shape[0]
    return _Shape(factor.n, positions, torch.Size(factor.shape[1:]).numel(), wide)

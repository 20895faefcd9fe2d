"""Gram products of factors: K[r, c] += Σ_p G_rp P_p G_cp, by the cheapest of the exact routes.

* **ghost**: from pairs of positions, never forming G (:mod:`genkernel.tangent.ghost`);
* **materialised**: G in slices of a few million entries, one matrix product per slice.

Products are accumulated in float64 by default: a float32 Gram product of float32 gradients
invents rank that is not there (docs/engine.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genkernel.tangent import costs, ghost
from genkernel.tangent.factors import SLICE, Factor
from genkernel.tangent.products import dot
from genkernel.tangent.workspace import room

#: rows of a strip of a triangle, at the least: of float32 products, of those in the dtype of their sum
LEAST_STRIP = {False: 32, True: 16}
#: rows of a matrix that are worked on together, where that needs memory beside it
STRIP = 512

#: route → (product ``[r, c]``, squared norms ``[n]``)
_GHOSTS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "ghost": (ghost.outer, ghost.outer_squares),
    "unfolded ghost": (ghost.unfolded, ghost.unfolded_squares),
    "shifted ghost": (ghost.shifted, ghost.shifted_squares),
}


@dataclass
class Block:
    """One rectangle of the kernel while its samples run.

    Args:
        rows, cols: which of the samples are on the two sides.
        samples: how many there are.
        count: number of separately kept totals (one per probe, or one).
        layer_of: parameter → layer, or None to keep totals only.
        accumulate: dtype of products and sums.
        norms: also keep the squared norm of every sample.
        limit: entries of gradients that are worked on at a time.
    """

    rows: slice
    cols: slice
    samples: int
    count: int
    layer_of: dict[str, str] | None
    accumulate: torch.dtype
    device: torch.device
    norms: bool = False
    limit: int = SLICE
    totals: Tensor = field(init=False)
    layers: dict[str, Tensor] = field(init=False)
    squares: Tensor | None = field(init=False)
    routes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start from zero."""
        r, c = self._sides
        self.totals = torch.zeros(self.count, r, c, dtype=torch.float64, device=self.device)
        self.layers = {}
        self.squares = (
            torch.zeros(self.count, self.samples, dtype=torch.float64, device=self.device) if self.norms else None
        )
        self.routes = {}

    @property
    def _sides(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    @property
    def symmetric(self) -> bool:
        return self.rows == self.cols

    def add(self, which: int, parameter: str, factor: Factor, root: Tensor | None = None) -> None:
        """Add the contribution of one parameter under one cotangent.

        Args:
            which: index of the total.
            parameter: name, for the layer.
            factor: per-sample gradients of the parameter, or of a view of it.
            root: square root of the diagonal preconditioner in the factor's coordinates.
        """
        route = self.route(factor, root)
        self.routes[route] = self.routes.get(route, 0) + 1
        if route in _GHOSTS:
            pairs, diagonal = _GHOSTS[route]
            product = pairs(factor, self.rows, self.cols, self.accumulate, self.limit)
            squares = diagonal(factor, self.accumulate, self.limit) if self.squares is not None else None
        else:
            product, squares = self._materialised(factor, root)
        self._keep(which, parameter, product, squares)

    def add_pair(self, which: int, parameter: str, left: Tensor, right: Tensor) -> None:
        """Add ``left @ rightᵀ`` for rows of gradients ``[samples, p]`` and the same rows times P."""
        product = torch.zeros(self._sides, dtype=torch.float64, device=self.device)
        squares = torch.zeros(self.samples, dtype=torch.float64, device=self.device) if self.norms else None
        step = max(1, self.limit // max(1, self.samples))
        for start in range(0, left.shape[1], step):
            part = slice(start, start + step)
            a, b = left[self.rows, part].to(self.accumulate), right[self.cols, part].to(self.accumulate)
            self._accumulate(product, a, b, False)
            if squares is not None:
                squares += (left[:, part] * right[:, part]).sum(1, dtype=torch.float64)
        self._keep(which, parameter, product, squares)

    def _keep(self, which: int, parameter: str, product: Tensor, squares: Tensor | None) -> None:
        self.totals[which] += product
        if self.squares is not None and squares is not None:
            self.squares[which] += squares
        if self.layer_of is not None:
            layer = self.layer_of[parameter]
            if layer in self.layers:
                self.layers[layer] += product
            else:
                self.layers[layer] = product

    def broken(self) -> bool:
        """True when some sample's gradient was not finite: that always reaches its own squared norm."""
        diagonal = self.squares if self.squares is not None else self.totals.diagonal(dim1=1, dim2=2)
        return not bool(torch.isfinite(diagonal).all())

    def mirror(self) -> None:
        """Fill the upper triangle of a symmetric block, once, after the last contribution."""
        if self.symmetric:
            for matrix in (*self.totals, *self.layers.values()):
                for start in range(0, len(matrix), STRIP):
                    part = slice(start, start + STRIP)
                    matrix[:start, part] = matrix[part, :start].T
                    corner = torch.tril(matrix[part, part])
                    matrix[part, part] = corner + torch.tril(corner, -1).T

    # ------------------------------------------------------------------- routes

    def route(self, factor: Factor, root: Tensor | None = None) -> str:
        """The cheapest route."""
        size = costs.Rectangle(*self._sides, self.samples, self.symmetric, self.accumulate, self.limit)
        return costs.cheapest(factor, size, scaled=root is not None)[0]

    def _materialised(self, factor: Factor, root: Tensor | None) -> tuple[Tensor, Tensor | None]:
        product = torch.zeros(self._sides, dtype=torch.float64, device=self.device)
        squares = torch.zeros(self.samples, dtype=torch.float64, device=self.device) if self.norms else None
        for part in factor.slices(self.limit, root):
            with self._converted(part) as part:
                if squares is not None:
                    squares += part.square().sum(1)
                self._accumulate(product, part[self.rows], part[self.cols], self.symmetric)
        return product, squares

    @contextmanager
    def _converted(self, part: Tensor) -> Iterator[Tensor]:
        """In the dtype of the products."""
        if part.dtype == self.accumulate and part.device == self.device:
            yield part
            return
        with room(self.totals, *part.shape, dtype=self.accumulate) as wide:
            yield wide.copy_(part)

    def _accumulate(self, product: Tensor, left: Tensor, right: Tensor, symmetric: bool) -> None:
        """Add ``left @ rightᵀ`` in strips of rows; what lies above them may stay away if it is ``symmetric``."""
        r, same = len(left), left.dtype == product.dtype
        least = LEAST_STRIP[same]
        triangle = symmetric and r > least
        stride = max(least, min(STRIP, r // 4)) if triangle else r if same else STRIP
        for start in range(0, r, stride):
            stop = min(r, start + stride)
            reach = stop if triangle else len(right)
            if same:
                product[start:stop, :reach].addmm_(left[start:stop], right[:reach].T)
            else:
                product[start:stop, :reach] += dot(left[start:stop], right[:reach])

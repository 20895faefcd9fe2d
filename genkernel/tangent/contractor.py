"""From the gradients of one batch to a block of the kernel, with the preconditioner between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genkernel.tangent.contraction import Block
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Factor
from genkernel.tangent.preconditioner import Preconditioner


class Contractor:
    """A sink that contracts every parameter as soon as its gradients are there.

    Parameters that the preconditioner couples wait for each other.

    Args:
        block: where the products go.
        metric: the preconditioner on the block's device, or None.
        shapes: shape of every parameter.
        index: cotangent → index of the block's total.
    """

    def __init__(
        self,
        block: Block,
        metric: Preconditioner | None,
        shapes: Mapping[str, tuple[int, ...]],
        index: Callable[[int], int],
    ):
        self.block, self.metric, self.shapes, self.index = block, metric, shapes, index
        self._coupled = {name: names for names in (metric.blocks if metric is not None else ()) for name in names}
        self._waiting: dict[tuple[int, tuple[str, ...]], dict[str, Tensor]] = {}

    def begin(self) -> None:
        self.block.clear()
        self._waiting.clear()

    def add(
        self, which: int, parameter: str, factor: Factor, view: Geometry | None, columns: slice | None = None
    ) -> None:
        """``columns``: the factor holds these coordinates of the parameter alone."""
        if parameter in self._coupled:
            rows = factor.dense().reshape(factor.n, -1)
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # as P is
            if view is not None:
                rows = view.scatter(rows, math.prod(self.shapes[parameter]))
            names = self._coupled[parameter]
            waiting = self._waiting.setdefault((which, names), {})
            waiting[parameter] = rows.view(factor.n, *self.shapes[parameter])
            if len(waiting) == len(names):
                self._multiply(which, self._waiting.pop((which, names)))
            return
        root = self.metric.diagonal_root(parameter) if self.metric is not None else None
        if root is not None and view is not None:
            root = view.of(root)
        if root is not None and columns is not None:
            root = root.reshape(-1)[columns]
        self.block.add(self.index(which), parameter, factor, root)

    def finish(self) -> None:
        """Multiply what waited for parameters without a gradient."""
        for (which, names), rows in self._waiting.items():
            like = next(iter(rows.values()))
            for name in names:
                if name not in rows:
                    rows[name] = like.new_zeros(len(like), *self.shapes[name])
            self._multiply(which, rows)
        self._waiting.clear()

    def finite(self) -> bool:
        self.finish()
        return not self.block.broken()

    def _multiply(self, which: int, rows: dict[str, Tensor]) -> None:
        assert self.metric is not None
        moved = self.metric.apply(rows)
        for name, left in rows.items():
            n = len(left)
            self.block.add_pair(self.index(which), name, left.reshape(n, -1), moved[name].reshape(n, -1))

"""The matrices of a kernel while the results of its tasks are added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genkernel.tangent.plan import Task

_LAYER, _SKETCH = "layer/", "sketch/"


class Matrices:
    """Totals ``[kept, n, m]``, layers ``[n, m]`` and squared norms, in float64 on the CPU.

    Args:
        kept: totals kept apart (probes), or 1.
        n, m: rows and columns.
        symmetric: entries below the diagonal also give those above it.
        layers: names, in order; empty for none.
        sketch: (layers, probes, dim) of the rows of a sketch made alongside; None for none.
    """

    def __init__(
        self,
        kept: int,
        n: int,
        m: int,
        symmetric: bool,
        layers: list[str],
        sketch: tuple[int, int, int] | None = None,
    ):
        self.symmetric = symmetric
        self.totals = torch.zeros(kept, n, m, dtype=torch.float64)
        self.layers = {name: torch.zeros(n, m, dtype=torch.float64) for name in layers}
        self.squares_x = torch.zeros(kept, n, dtype=torch.float64)
        self.squares_y = self.squares_x if symmetric else torch.zeros(kept, m, dtype=torch.float64)

        self.sketches: dict[str, tuple[Tensor, Tensor]] = {}
        for side, count in (("x", n), ("y", 0 if symmetric else m)) if sketch is not None else ():
            assert sketch is not None
            rows = torch.zeros(count, *sketch, dtype=torch.float64)
            self.sketches[side] = rows, torch.zeros(count, *sketch[:2], dtype=torch.float64)

    def add(self, task: Task, result: Mapping[str, Tensor], outputs: int = 1) -> None:
        """Add what :func:`pack` made of a task; with ``outputs`` rows for each sample."""
        r, c = (slice(a * outputs, b * outputs) for a, b in (task.rows, task.cols))
        mirrored = self.symmetric and not task.same
        places = list(range(len(self.totals))) if task.which is None or len(self.totals) == 1 else list(task.which)
        for place, values in zip(places, result["totals"], strict=True):
            self.totals[place, r, c] += values
            if mirrored:
                self.totals[place, c, r] += values.T
        for name, values in result.items():
            if name.startswith(_LAYER):
                layer = self.layers[name.removeprefix(_LAYER)]
                layer[r, c] += values
                if mirrored:
                    layer[c, r] += values.T
        for side, bounds in (("x", task.rows), ("y", task.cols)):
            if _SKETCH + side in result:
                rows, norms = self.sketches[side]
                rows[slice(*bounds)] += result[_SKETCH + side]
                norms[slice(*bounds)] += result[_SKETCH + side + "/norms"]
        if not self.symmetric and "squares_x" in result:
            # every tile of a row of tiles gives the same squares: take them once
            if task.cols[0] == 0:
                self.squares_x[places, r] += result["squares_x"]
            if task.rows[0] == 0:
                self.squares_y[places, c] += result["squares_y"]

    def finish(self) -> None:
        """After the last task."""
        if self.symmetric:
            self.squares_x = self.squares_y = self.totals.diagonal(dim1=1, dim2=2).clone()


def pack(
    totals: Tensor,
    layers: Mapping[str, Tensor],
    squares: tuple[Tensor, Tensor] | None,
    sketches: Mapping[str, tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """The result of a task as named tensors on the CPU."""
    found = {"totals": totals.cpu(), **{_LAYER + name: values.cpu() for name, values in layers.items()}}
    if squares is not None:
        found["squares_x"], found["squares_y"] = (s.cpu() for s in squares)
    for side, (rows, norms) in sketches.items():
        found[_SKETCH + side], found[_SKETCH + side + "/norms"] = rows.cpu(), norms.cpu()
    return found

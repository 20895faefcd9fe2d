"""Gradients of some parameters for all samples, collected batch by batch before they are multiplied.

A parameter is kept as what its gradient is made of (inputs and output-gradients) where that is
smaller than the gradient itself: 2 · 256 · 64 numbers instead of 590,000 for a 256-channel 3×3
convolution of an 8×8 image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Dense, Factor


def compact(factor: Factor) -> bool:
    """True when the parts of a factor are smaller than the gradients that it stands for."""
    return sum(part[0].numel() for part in factor.parts().values()) < math.prod(factor.shape)


@dataclass
class _Entry:
    template: Factor
    view: Geometry | None
    parts: dict[str, Tensor]


class Stash:
    """Gradients ``[rows]`` of each (cotangent, parameter).

    Args:
        rows: number of samples in all (times outputs, where those are kept apart).
        shapes: shape of every parameter.
        device: where the rows are kept.
        columns: keep only these coordinates of the (one) parameter.
    """

    def __init__(
        self, rows: int, shapes: Mapping[str, tuple[int, ...]], device: torch.device, columns: slice | None = None
    ):
        self.rows, self.shapes, self.device, self.columns = rows, shapes, device, columns
        self.entries: dict[tuple[int, str], _Entry] = {}

    def put(self, which: int, parameter: str, factor: Factor, view: Geometry | None, where: Tensor | slice) -> None:
        """Keep the gradients of the samples at ``where``."""
        if self.columns is not None:
            factor, view = self._columns(parameter, factor, view), None
        elif not compact(factor):
            factor = Dense(factor.dense())
        entry = self.entries.get((which, parameter))
        if entry is None:
            parts = {k: self._empty(part) for k, part in factor.parts().items()}
            entry = self.entries[which, parameter] = _Entry(
                factor.like({k: p[:0] for k, p in parts.items()}), view, parts
            )
        if (entry.template.kind, entry.view) != (factor.kind, view):
            # another branch of the model gives another form: all as plain gradients of the parameter
            entry = self._plain(which, parameter, entry)
            factor = Dense(self._flat(parameter, factor, view))
        for k, part in factor.parts().items():
            entry.parts[k][where] = part.to(self.device)

    def release(self) -> Iterator[tuple[int, str, Factor, Geometry | None]]:
        """Hand over (cotangent, parameter, gradients of all rows, view) one by one, and let go of them."""
        for which, parameter in list(self.entries):
            entry = self.entries.pop((which, parameter))
            yield which, parameter, entry.template.like(entry.parts), entry.view

    def _empty(self, part: Tensor) -> Tensor:
        pinned = self.device.type == "cpu" and part.device.type == "cuda"
        return torch.zeros(self.rows, *part.shape[1:], dtype=part.dtype, device=self.device, pin_memory=pinned)

    def _plain(self, which: int, parameter: str, entry: _Entry) -> _Entry:
        rows = self._flat(parameter, entry.template.like(entry.parts), entry.view)
        plain = _Entry(Dense(rows[:0]), None, {"gradient": rows})
        self.entries[which, parameter] = plain
        return plain

    def _flat(self, parameter: str, factor: Factor, view: Geometry | None) -> Tensor:
        rows = factor.dense().reshape(factor.n, -1)
        return rows if view is None else view.scatter(rows, math.prod(self.shapes[parameter]))

    def _columns(self, parameter: str, factor: Factor, view: Geometry | None) -> Dense:
        assert self.columns is not None
        return Dense(self._flat(parameter, factor, view)[:, self.columns].contiguous())


class Collector:
    """A sink that puts the gradients of one batch into a stash."""

    def __init__(self, stash: Stash, start: int, outputs: int | None = None):
        """``outputs``: rows are (sample, output), one output per cotangent, instead of samples."""
        self.stash, self.start, self.outputs = stash, start, outputs
        self._finite = True

    def begin(self) -> None:
        self._finite = True

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        for part in factor.parts().values():
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                self._finite = False
        if self.outputs is None:
            self.stash.put(which, parameter, factor, view, slice(self.start, self.start + factor.n))
            return
        rows = torch.arange(self.start, self.start + factor.n, device=self.stash.device) * self.outputs + which
        self.stash.put(0, parameter, factor, view, rows)

    def finite(self) -> bool:
        return self._finite

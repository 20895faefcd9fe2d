"""Gradients of some parameters for all samples, collected batch by batch before they are multiplied.

A parameter is kept as what its gradient is made of (inputs and output-gradients) where that is
smaller than the gradient itself: 2 · 256 · 64 numbers instead of 590,000 for a 256-channel 3×3
convolution of an 8×8 image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import SLICE, Dense, Factor
from genkernel.tangent.shortage import out_of_memory


def compact(factor: Factor) -> bool:
    """True when the parts of a factor are smaller than the gradients that it stands for."""
    return sum(part[0].numel() for part in factor.parts().values()) < math.prod(factor.shape)


def columns(factor: Factor, view: Geometry | None, size: int, some: slice) -> Tensor:
    """Gradients ``[n, len(some)]`` of some of the ``size`` coordinates of a parameter."""
    if view is None or view.is_whole(size):
        return factor.columns(some.start, some.stop)
    return view.scatter(factor.dense().reshape(factor.n, -1), size)[:, some].contiguous()


def finite(factor: Factor) -> bool:
    """No part of it is NaN or infinite."""
    parts = (part for part in factor.parts().values() if part.is_floating_point() and part.numel())
    # without a copy of the part; NaN passes through
    return all(bool(torch.isfinite(torch.stack(torch.aminmax(part))).all()) for part in parts)


@dataclass
class _Entry:
    template: Factor
    view: Geometry | None
    parts: dict[str, Tensor]


class _Arena:
    """Zeros carved from large blocks.

    malloc maps those apart. Small blocks would lie between the activations of the batch in which they
    were made, and keep the memory around them from being used again.
    """

    BLOCK = 64 * 2**20
    ALIGNED = 64

    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        taken = -(-size // self.ALIGNED) * self.ALIGNED
        if taken > len(self._left):
            if taken > self.BLOCK // 2:  # malloc maps these, too
                return torch.zeros(shape, dtype=dtype)
            try:
                self._left = torch.empty(self.BLOCK, dtype=torch.uint8)
            except RuntimeError as error:  # there may be room for the tensor alone
                if not out_of_memory(error):
                    raise
                return torch.zeros(shape, dtype=dtype)
        found, self._left = self._left[:size], self._left[taken:]
        return found.view(dtype).view(shape).zero_()


class Stash:
    """Gradients ``[rows]`` of each (cotangent, parameter).

    Args:
        rows: number of samples in all (times outputs, where those are kept apart).
        shapes: shape of every parameter.
        device: where the rows are multiplied.
        columns: keep only these coordinates of the (one) parameter.
        home: where the rows are kept in the meantime; None for ``device``. On a CPU beside a GPU they
            are kept in pinned memory, from which copies go at the full rate of the bus.
        limit: entries of gradients that are made at a time.
    """

    def __init__(
        self,
        rows: int,
        shapes: Mapping[str, tuple[int, ...]],
        device: torch.device,
        columns: slice | None = None,
        home: torch.device | None = None,
        limit: int = SLICE,
    ):
        self.rows, self.shapes, self.columns, self.limit = rows, shapes, columns, limit
        self.device, self.home = device, home or device
        self.entries: dict[tuple[int, str], _Entry] = {}
        self._arena = _Arena()

    def put(self, which: int, parameter: str, factor: Factor, view: Geometry | None, where: Tensor | slice) -> None:
        """Keep the gradients of the samples at ``where``."""
        if self.columns is not None:
            size = math.prod(self.shapes[parameter])
            factor, view = Dense(columns(factor, view, size, self.columns)), None
        entry = self.entries.get((which, parameter))
        kept = factor if compact(factor) or isinstance(factor, Dense) else None
        if entry is None:
            if kept is not None:
                like, empty = kept, {k: self._empty(part.shape[1:], part) for k, part in kept.parts().items()}
            else:
                part = next(part for part in factor.parts().values() if part.is_floating_point())
                empty = {"gradient": self._empty(factor.shape, part)}
                like = Dense(empty["gradient"])
            template = like.like({k: p[:0] for k, p in empty.items()})
            entry = self.entries[which, parameter] = _Entry(template, view, empty)
        kind = kept.kind if kept is not None else (Dense, tuple(factor.shape))
        if (entry.template.kind, entry.view) != (kind, view):
            # another branch of the model gives another form: all as plain gradients of the parameter
            entry = self._plain(which, parameter, entry)
            kept = Dense(self._flat(parameter, factor, view))
        if kept is not None:
            for k, part in kept.parts().items():
                self._copy(entry.parts[k], where, part)
            return
        rows, width = entry.parts["gradient"].view(self.rows, -1), max(1, math.prod(factor.shape[1:]))
        step = max(1, self.limit // max(1, factor.n * width)) * width
        for start in range(0, rows.shape[1], step):
            stop = min(rows.shape[1], start + step)
            self._copy(rows[:, start:stop], where, factor.columns(start, stop))

    @property
    def nbytes(self) -> int:
        """Bytes held where the rows are multiplied."""
        kept = (part for entry in self.entries.values() for part in entry.parts.values())
        return sum(part.nbytes for part in kept if part.device.type == self.device.type)

    def release(self) -> Iterator[tuple[int, str, Factor, Geometry | None]]:
        """Hand over (cotangent, parameter, gradients of all rows, view) one by one, and let go of them."""
        for which, parameter in list(self.entries):
            entry = self.entries.pop((which, parameter))
            parts = entry.parts
            if self.home != self.device:
                parts = {k: part.to(self.device, non_blocking=True) for k, part in parts.items()}
            yield which, parameter, entry.template.like(parts), entry.view

    def _copy(self, target: Tensor, where: Tensor | slice, part: Tensor) -> None:
        if isinstance(where, slice):
            # from a GPU in the order of its stream, which the copy back waits for as well
            target[where].copy_(part, non_blocking=True)
        else:
            target[where] = part.to(self.home)

    def _empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        if self.home.type == self.device.type == "cpu":
            return self._arena.zeros((self.rows, *shape), like.dtype)
        pinned = self.home.type == "cpu" and like.device.type == "cuda"
        return torch.zeros(self.rows, *shape, dtype=like.dtype, device=self.home, pin_memory=pinned)

    def _plain(self, which: int, parameter: str, entry: _Entry) -> _Entry:
        rows = self._flat(parameter, entry.template.like(entry.parts), entry.view)
        plain = _Entry(Dense(rows[:0]), None, {"gradient": rows})
        self.entries[which, parameter] = plain
        return plain

    def _flat(self, parameter: str, factor: Factor, view: Geometry | None) -> Tensor:
        rows = factor.dense().reshape(factor.n, -1)
        return rows if view is None else view.scatter(rows, math.prod(self.shapes[parameter]))


class Collector:
    """A sink that puts the gradients of one batch into a stash."""

    def __init__(self, stash: Stash, start: int, outputs: int | None = None):
        """``outputs``: rows are (sample, output), one output per cotangent, instead of samples."""
        self.stash, self.start, self.outputs = stash, start, outputs
        self._finite = True

    def begin(self) -> None:
        self._finite = True

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        self._finite = self._finite and finite(factor)
        if self.outputs is None:
            self.stash.put(which, parameter, factor, view, slice(self.start, self.start + factor.n))
            return
        rows = torch.arange(self.start, self.start + factor.n, device=self.stash.home) * self.outputs + which
        self.stash.put(0, parameter, factor, view, rows)

    def finite(self) -> bool:
        return self._finite

"""Contributions by time: what is added goes to the window of training steps that is open."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError


class Windows:
    """Net and gross contributions of sources, in windows of consecutive steps.

    Args:
        windows: at most so many windows of equal length (they double in length, in pairs, as the run grows: no total
            has to be known), or the steps at which windows start.
        layers, count, shape: of the values: L, m and the shape of one output.

    Attributes:
        setting: what was asked for.
        edges: the steps at which windows start.
        outputs: f at every edge, each ``[m, *out]``.
        net: per window ``[S, L, m, *out]``.
        gross: per window ``[S, L, m]``: Σ of the sizes of what was added.
    """

    def __init__(self, windows: int | Sequence[int], layers: int, count: int, shape: tuple[int, ...]):
        self._most = 0
        if isinstance(windows, int):
            if windows < 1:
                raise InputError(f"windows is at least 1, or the steps at which windows start, not {windows}")
            # pairs are merged, so the number is even
            self._most, self._length = max(2, windows - windows % 2) if windows > 1 else 1, 1
            self._starts: list[int] = []
        else:
            if any(int(step) != step or step < 0 for step in windows):
                raise InputError(f"windows start at whole steps from 0 on, not at {list(windows)}")
            self._starts = sorted({0, *(int(step) for step in windows)})
        self.setting = self._most or list(self._starts)
        self._value = (layers, count, *shape)
        self.edges: list[int] = []
        self.outputs: list[Tensor] = []
        self.net: list[Tensor] = []
        self.gross: list[Tensor] = []

    def starts_at(self, step: int) -> bool:
        """A window starts with this step."""
        if not self._most:
            return step in self._starts
        if self._most == 1:
            return step == 0
        return step % self._length == 0

    def open(self, step: int, outputs: Tensor) -> None:
        """Start a window; earlier ones are merged when there are too many."""
        if self._most > 1 and len(self.edges) == self._most:
            self._merge()
        net = torch.zeros(0, *self._value, dtype=torch.float64)
        gross = torch.zeros(0, *self._value[:2], dtype=torch.float64)
        # in one statement, so that Ctrl-C hardly comes between
        self.edges, self.outputs, self.net, self.gross = (
            [*self.edges, step], [*self.outputs, outputs], [*self.net, net], [*self.gross, gross]
        )  # fmt: skip

    def add(self, source: int, value: Tensor) -> None:
        """Add ``[L, m, *out]`` to a source in the window that is open."""
        if source >= len(self.net[-1]):
            self.net[-1] = _grown(self.net[-1], source + 1)
            self.gross[-1] = _grown(self.gross[-1], source + 1)
        self.net[-1][source] += value
        self.gross[-1][source] += value.reshape(*value.shape[:2], -1).norm(dim=2)

    def copy(self) -> Windows:
        """The same, whose open window can be added to by itself."""
        other = copy.copy(self)
        other.edges, other.outputs = list(self.edges), list(self.outputs)
        other.net, other.gross = ([*parts[:-1], *(p.clone() for p in parts[-1:])] for parts in (self.net, self.gross))
        return other

    def closed(self) -> Windows:
        """Without the window that is open."""
        other = copy.copy(self)
        other.edges, other.outputs = self.edges[:-1], self.outputs[:-1]
        other.net, other.gross = self.net[:-1], self.gross[:-1]
        return other

    def stacked(self, sources: int) -> tuple[Tensor, Tensor]:
        """Net ``[W, S, L, m, *out]`` and gross ``[W, S, L, m]``."""
        return (
            torch.stack([_grown(one, sources) for one in self.net]),
            torch.stack([_grown(one, sources) for one in self.gross]),
        )

    def _merge(self) -> None:
        def paired(parts: list[Tensor]) -> list[Tensor]:
            size = max(len(part) for part in parts)
            grown = [_grown(part, size) for part in parts]
            return [a + b for a, b in zip(grown[::2], grown[1::2], strict=True)]

        self._length *= 2
        self.net, self.gross = paired(self.net), paired(self.gross)
        self.edges, self.outputs = self.edges[::2], self.outputs[::2]

    def state(self) -> dict[str, Any]:
        """Everything, for :meth:`restore`."""
        size = max((len(one) for one in self.net), default=0)
        net, gross = self.stacked(size) if self.net else (torch.zeros(0), torch.zeros(0))
        return {
            "edges": list(self.edges),
            "outputs": torch.stack(self.outputs) if self.outputs else torch.zeros(0),
            "net": net,
            "gross": gross,
            "length": self._length if self._most else 0,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.edges = [int(step) for step in state["edges"]]
        self.outputs = list(state["outputs"])
        self.net, self.gross = list(state["net"]), list(state["gross"])
        if self._most:
            self._length = int(state["length"])


def _grown(part: Tensor, sources: int) -> Tensor:
    missing = sources - len(part)
    return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing > 0 else part

"""Where the time of a run went, and the most memory it was seen to hold."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from genkernel.tangent.heap import resident


class Stopwatch:
    """Seconds by section; the time of an inner section does not count for the outer one.

    On a GPU the sections are synchronised, so that each is charged for its own work.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[list[float]] = []  # started, spent in inner sections
        self._before = self._most = self._held()
        self._mark = self._top()

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        self._synchronize()
        self._open.append([time.perf_counter(), 0.0])
        try:
            yield
        finally:
            self._synchronize()
            started, inner = self._open.pop()
            spent = time.perf_counter() - started
            self.seconds[section] = self.seconds.get(section, 0.0) + spent - inner
            if self._open:
                self._open[-1][1] += spent
            self.look()

    @property
    def grown(self) -> int:
        """Bytes held now above what was held when the watch started."""
        return self._held() - self._before

    def look(self) -> None:
        """See how much memory is held now."""
        self._most = max(self._most, self._held())

    def forget_peak(self) -> int:
        """Look for a new peak from now on; the one so far."""
        peak = self.peak
        self._most, self._mark = self._held(), self._top()
        return peak

    @property
    def peak(self) -> int:
        """Most bytes seen (on a CPU at the ends of sections), above what was held when the watch started."""
        top = self._top()
        return (top if top > self._mark else self._most) - self._before

    def _held(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else resident()

    def _top(self) -> int:
        """The device's own record, which is the user's to reset; it says something once it is broken."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

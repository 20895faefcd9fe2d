"""Where the time of a run went, and the most memory it was seen to hold."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")
_PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of memory that this process holds now (its peak so far where the system does not say)."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Stopwatch:
    """Seconds by section; the time of an inner section does not count for the outer one.

    On a GPU the sections are synchronised, so that each is charged for its own work.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = {}
        self._open: list[list[float]] = []  # started, spent in inner sections
        self._before = self._held()
        self._most = self._before

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
            self._most = max(self._most, self._held())

    @property
    def peak(self) -> int:
        """Most bytes seen at the ends of sections, above what was held when the watch started."""
        return self._most - self._before

    def _held(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

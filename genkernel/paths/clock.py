"""What a recording costs: its own time beside that of the loop it is in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch


class Clock:
    """Time spent on recording, and in total."""

    def __init__(self, device: torch.device):
        self._device = device
        self.spent, self._total, self._opened = 0.0, 0.0, 0.0
        self._depth = 0

    def open(self) -> None:
        self._opened = self._now()

    def close(self) -> None:
        self._total += self._now() - self._opened
        self._opened = 0.0

    def ours(self) -> Clock:
        return self

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._since = self._now()

    def __exit__(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self._opened:  # afterwards there is no loop whose time it would be taken from
            self.spent += self._now() - self._since

    @property
    def overhead(self) -> float:
        total = self._total + (self._now() - self._opened if self._opened else 0.0)
        return self.spent / max(total - self.spent, 1e-9)

    def state(self) -> list[float]:
        return [self.spent, self._total + (self._now() - self._opened if self._opened else 0.0)]

    def restore(self, state: Sequence[float]) -> None:
        self.spent, self._total = state

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

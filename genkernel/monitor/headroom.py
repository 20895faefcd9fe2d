"""How much memory a reading may hold: what the training has held at its peak and has free between two steps."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from genkernel.tangent import workspace
from genkernel.tangent.heap import give_back
from genkernel.tangent.plan import parse_memory

LEAST = 128 * 2**20  # bytes that a reading is given in any case
PART = 0.75  # of what is free


class Headroom:
    """Bytes for the next reading.

    Between two steps of a training its activations are freed. A reading that fits into what they took does not raise
    the peak; a part of it is left for what libraries take beside.

    Args:
        memory: a bound (``"512MiB"``, bytes), or None to measure.

    Raises:
        InputError: the bound cannot be read.
    """

    def __init__(self, memory: str | int | None = None):
        self._given = None if memory is None else parse_memory(memory)
        self._last = 0

    def bytes(self, device: torch.device) -> int:
        """The given bound; else most of what this process has held on the device at its peak and holds no more.

        The same as last time where that fits and is at least half of it: convolutions are compiled for each number of
        samples that runs together, and what is compiled stays in memory.
        """
        if self._given is not None:
            return self._given
        if device.type == "cuda":
            free = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        else:
            workspace.give_back()  # what was freed is otherwise still counted as held
            give_back()
            free = _peak() - _held()
        now = max(LEAST, int(PART * free))
        if not self._last <= now <= 2 * self._last:
            self._last = now
        return self._last


def _peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _held() -> int:
    """Resident bytes of this process; where they cannot be read, all that it ever held."""
    try:
        import resource

        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ImportError):
        return _peak()

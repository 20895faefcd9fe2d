"""The process's memory: what it holds, what the machine can still give, and giving back what was freed."""

from __future__ import annotations

import ctypes
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

#: Memory held on a CPU, as a multiple of what tensors take: malloc leaves gaps between blocks that
#: come and go (measured: 1.15 to 1.25 after a forward pass of the networks of docs/benchmarks.md).
GAPS = 1.25
#: what libraries take for themselves in a first large run: compiled kernels, buffers per thread
LIBRARIES = 32 * 2**20

_STATM, _MEMINFO = Path("/proc/self/statm"), Path("/proc/meminfo")
_PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of memory that this process holds now (its peak so far where the system does not say)."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available() -> int | None:
    """Bytes that the machine can still give; None where it does not say."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes is not None else None


def available_on(device: torch.device) -> int | None:
    """The same for a device: free memory, and what torch keeps there for reuse."""
    if device.type != "cuda":
        return available()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def give_back() -> None:
    """Return freed memory to the system, where the C library can be told to (glibc).

    It keeps freed blocks for itself otherwise, below its threshold for blocks of their own: half a
    gigabyte after the proof of a network of 40 million parameters.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None

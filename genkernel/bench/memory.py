"""Peak memory of one call, above what the process holds when it is called."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS, CLEAR, TOTALS = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


@dataclass
class Peak:
    """Bytes above those held at the start: of the process, and of the GPU where one is used."""

    host: int | None = None
    device: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the largest resident memory inside of the block.

    The kernel's own high-water mark where it can be reset (Linux), a thread that looks every two
    milliseconds elsewhere. On platforms without /proc ``host`` stays None.
    """
    found = Peak()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        on_device = torch.cuda.memory_allocated(device)
    marked = _reset_mark()
    before = _resident("VmRSS")
    watcher = None if marked or before is None else _Watcher()
    try:
        yield found
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            found.device = torch.cuda.max_memory_allocated(device) - on_device
        if before is not None:
            top = watcher.stop() if watcher is not None else _resident("VmHWM")
            found.host = max(0, (top or before) - before)


def resident() -> int | None:
    """Bytes that the process holds; None where the platform does not say."""
    return _resident("VmRSS")


def _reset_mark() -> bool:
    """Set the high-water mark to what is resident now (5: see proc(5), clear_refs)."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith(f"{field}:")), None)
    return int(kilobytes) * 1024 if kilobytes is not None else None


class _Watcher:
    def __init__(self) -> None:
        self.top = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(0.002):
            self.top = max(self.top, _resident("VmRSS") or 0)

    def stop(self) -> int:
        self.over.set()
        self.thread.join()
        return max(self.top, _resident("VmRSS") or 0)


def available() -> int | None:
    """Bytes of memory the machine could still give, None where it does not say."""
    try:
        lines = TOTALS.read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes is not None else None


def limit_to_available(share: float = 0.9) -> None:
    """Let this process fail to allocate, rather than be killed, when memory runs out (Linux)."""
    room = available()
    if room is None or sys.platform != "linux":
        return
    import resource

    held = _resident("VmRSS") or 0
    resource.setrlimit(resource.RLIMIT_DATA, (held + int(share * room), resource.RLIM_INFINITY))

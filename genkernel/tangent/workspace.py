"""Memory that one contraction after the other works in.

A large allocation is new to the process each time, and the system fills it page by page: for the gradients of a
wide convolution that took half as long as computing them on one core, and as long on two (measured: 0.35 s per GiB,
and 0.06 s with large pages). What a call worked in waits for the next one, marked as free: the system takes it
when it runs short of memory.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

#: bytes below which memory comes from torch: it gives back what was used before
SMALL = 1 << 22
#: bytes that may wait for the next call
WAITING = 1 << 28

_here = threading.local()
_waiting: list[mmap.mmap] = []
_lock = threading.Lock()


class _Store:
    """Bytes that grow with what is asked for, lent to one borrower at a time."""

    def __init__(self) -> None:
        self.lent = False
        self.bytes: Tensor | None = None
        self.memory: mmap.mmap | None = None

    def take(self, size: int) -> Tensor:
        if self.bytes is None or len(self.bytes) < size:
            self.forget()  # the old ones go before the new ones come
            try:
                memory = _from_earlier(size)
                if memory is None:
                    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                    memory.madvise(mmap.MADV_HUGEPAGE)
                self._hold(memory)
            except (AttributeError, OSError, ValueError, OverflowError):  # not Linux, or not to be had
                self.bytes = torch.empty(size, dtype=torch.uint8)
        assert self.bytes is not None
        return self.bytes[:size]

    def forget(self) -> None:
        self.bytes = self.memory = None

    def leave(self) -> None:
        """Let the memory wait for the next call, unless someone may still look at it."""
        memory = None if self.lent else self.memory
        self.forget()
        if memory is None or len(memory) > WAITING:
            return
        try:
            memory.madvise(mmap.MADV_FREE)
        except (AttributeError, OSError, ValueError):
            return
        with _lock:
            _waiting.append(memory)
            while sum(map(len, _waiting)) > WAITING:
                del _waiting[0]  # the newest is the likeliest to fit again

    def _hold(self, memory: mmap.mmap) -> None:
        self.memory, self.bytes = memory, torch.frombuffer(memory, dtype=torch.uint8)


def _from_earlier(size: int) -> mmap.mmap | None:
    """The smallest that waits and is large enough."""
    with _lock:
        fitting = [memory for memory in _waiting if len(memory) >= size]
        if not fitting:
            return None
        best = min(fitting, key=len)
        _waiting.remove(best)
        return best


@contextmanager
def kept() -> Iterator[None]:
    """While this is open, rooms on the CPU use the same memory again in this thread."""
    if getattr(_here, "stores", None) is not None:
        yield
        return
    stores: list[_Store] = []
    _here.stores = stores
    try:
        yield
    finally:
        _here.stores = None
        for store in stores:
            store.leave()


def give_back() -> None:
    """Return what waits for the next call to the system: that call is far away, and it counts as held until then."""
    with _lock:
        _waiting.clear()


def forget() -> None:
    """Give the memory back: what comes next needs the place for something else."""
    for store in getattr(_here, "stores", None) or []:
        if not store.lent:
            store.forget()


@contextmanager
def room(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
    """An uninitialised tensor of a dtype and device, not to be used after this is closed.

    Rooms may be opened inside of each other: each has its own memory, the outermost the same as the last outermost one.
    """
    stores: list[_Store] | None = getattr(_here, "stores", None)
    dtype = dtype or like.dtype
    size = math.prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or size < SMALL or stores is None:
        yield like.new_empty(shape, dtype=dtype)
        return
    free = next((store for store in stores if not store.lent), None)
    if free is None:
        free = _Store()
        stores.append(free)
    free.lent = True
    try:
        yield free.take(size).view(dtype).view(shape)
    finally:
        free.lent = False

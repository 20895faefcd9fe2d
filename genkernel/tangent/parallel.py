"""CPU threads: how many there are, and work that falls apart into samples shared out among them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

#: omp_pause_soft: threads keep what they know, and wake up for the next operation
_SOFT = 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with ``count`` threads: sums depend on it in their last bits."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def over_samples(n: int, work: Callable[[range], object]) -> None:
    """Call ``work`` for parts of ``range(n)``, one thread for each part.

    An operation on one sample is too small to be shared out: two threads take longer for it than one
    (measured for weight gradients of 5 MFLOP). What ``work`` calls has to let go of Python's lock, as torch does.
    Threads of the user's that call torch for the first time meanwhile get one thread each from it.
    """
    count = torch.get_num_threads()
    workers = min(count, n)
    if workers <= 1:
        work(range(n))
        return
    parts = [range(n * k // workers, n * (k + 1) // workers) for k in range(workers)]
    _rest()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting = [_started(pool, work, part) for part in parts]
            for part, future in zip(parts, waiting, strict=True):
                if future is None:  # no thread to be had
                    work(part)
                else:
                    future.result()
    finally:
        torch.set_num_threads(count)  # new threads begin with the last number that any of them set


def _rest() -> None:
    """Send torch's own threads to sleep: they spin for milliseconds after each operation, in the way of ours."""
    pause = _pause()
    if pause is not None:
        pause(_SOFT)


@cache
def _pause() -> Callable[[int], int] | None:
    """OpenMP's function for that, of the library that torch has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        found = next(line.split(maxsplit=5)[5] for line in lines if re.search(r"/libgomp[^/]*$", line))
        pause: Callable[[int], int] = ctypes.CDLL(found).omp_pause_resource_all
    except (OSError, StopIteration, AttributeError):
        return None
    return pause


def _started(pool: ThreadPoolExecutor, work: Callable[[range], object], part: range) -> Future[object] | None:
    try:
        return pool.submit(work, part)
    except RuntimeError:  # "can't start new thread"
        return None

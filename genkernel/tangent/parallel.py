"""Work that falls apart into samples, on as many CPU threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def over_samples(n: int, work: Callable[[range], object]) -> None:
    """Call ``work`` for parts of ``range(n)``, one thread for each part.

    An operation on one sample is too small to be shared out: two threads take longer for it than one
    (measured for weight gradients of 5 MFLOP). What ``work`` calls has to let go of Python's lock, as torch does.
    """
    threads = torch.get_num_threads()
    workers = min(threads, n)
    if workers <= 1:
        work(range(n))
        return
    parts = [range(n * k // workers, n * (k + 1) // workers) for k in range(workers)]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # new threads begin with the last number that any of them set

"""The program as one of several processes that torchrun started.

Rank 0 speaks for all. When something goes wrong, the first rank that fails says so and the others,
which mostly fail because of it, keep quiet; torchrun ends those that have not noticed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

_RANK, _WORLD, _LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_PATIENCE = timedelta(seconds=5)  # for the store of torchrun to answer


class Ranks:
    """Where this process stands among the others.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    def __init__(self) -> None:
        numbers = [os.environ.get(name, "") for name in (_RANK, _WORLD)]
        self.rank, self.world = map(int, numbers) if all(text.isdecimal() for text in numbers) else (0, 1)
        self._stderr = sys.stderr

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Whatever other ranks than 0 would print goes nowhere."""
        if self.rank == 0:
            yield
            return
        with _quiet():
            yield

    @contextlib.contextmanager
    def failing(self) -> Iterator[str | None]:
        """For saying what went wrong: yields what to call it, or None when another rank says it.

        From here on this process ends by itself: requests to do so are ignored.
        """
        if self.world == 1:
            yield "error"
            return
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        if self._is_first():
            with contextlib.redirect_stderr(self._stderr):
                yield "error" if self.rank == 0 else f"error on rank {self.rank}"
        else:
            with _quiet():
                yield None

    def _is_first(self) -> bool:
        """No other rank has said that it failed. Without torchrun's store to ask, each says it for itself."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        if self.rank > 0:
            time.sleep(0.5)  # what goes wrong on all ranks, rank 0 says
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            from torch.distributed import TCPStore

            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = TCPStore(host, port, is_master=False, timeout=_PATIENCE, wait_for_workers=False)
            first = store.compare_set(f"genkernel/{attempt}/failed first", "", str(self.rank))
        except (KeyError, ValueError, RuntimeError, ImportError):
            return True
        return first == str(self.rank).encode()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What runs inside, other programs included, is one process and knows of no others."""
    before = {name: os.environ.pop(name) for name in (_RANK, _WORLD, _LOCAL) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)

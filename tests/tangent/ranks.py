"""Several ranks in one test: processes forked from it, with the environment that torchrun gives."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Killed(Exception):
    """What a rank that was killed returns."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_ranks(world: int, work: Callable[[int], Any], seconds: float = 60) -> list[Any]:
    """``work(rank)`` on each rank: what it returned, or the exception it raised.

    A rank that is not done after ``seconds`` is killed: nothing that is tested here may hang.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        children = [_fork(world, rank, port, Path(folder) / str(rank), work) for rank in range(world)]
        end = time.monotonic() + seconds
        waiting = set(children)
        try:
            while waiting and time.monotonic() < end:
                waiting -= {child for child in waiting if os.waitpid(child, os.WNOHANG)[0]}
                time.sleep(0.005)
            late = [children.index(child) for child in waiting]
            assert not late, f"ranks {late} did not end within {seconds} seconds"
        finally:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        return [_read(Path(folder) / str(rank)) for rank in range(world)]


def torchrun(world: int, script: str, folder: Path, *arguments: str, seconds: float = 180) -> Any:
    """Run a script the way users do on one machine; returns the completed process."""
    file = folder / "script.py"
    file.write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", str(file)]
    root = str(Path(__file__).resolve().parents[2])
    paths = filter(None, [os.environ.get("PYTHONPATH")])
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, root])},
    )


def _fork(world: int, rank: int, port: int, answer: Path, work: Callable[[int], Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        try:
            result = work(rank)
        except BaseException as error:
            traceback.print_exc()
            result = error
        answer.with_suffix(".part").write_bytes(pickle.dumps(result))
        answer.with_suffix(".part").rename(answer)
        if rank == 0:  # it serves the store that the others may still be asking
            others = [answer.with_name(str(r)) for r in range(1, world)]
            end = time.monotonic() + 2
            while not all(o.exists() for o in others) and time.monotonic() < end:
                time.sleep(0.005)
    finally:
        os._exit(0)


def _read(answer: Path) -> Any:
    return pickle.loads(answer.read_bytes()) if answer.exists() else Killed()


@contextlib.contextmanager
def process_group(rank: int, world: int) -> Iterator[None]:
    """The default group as a user's training script sets it up."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()

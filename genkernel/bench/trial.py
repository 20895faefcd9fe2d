"""One contender with one setting in a process of its own: does it run, is it right, what does it hold?

A crash, an exhausted memory or an endless run thus stays away from everything else. The processes
are forked from a server that has imported the libraries and computed nothing, which takes a
fraction of a second where a new interpreter takes several.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from genkernel.bench import memory
from genkernel.bench.contenders import Contender, Setting, UnsupportedError
from genkernel.bench.roster import contenders, find
from genkernel.bench.truth import read, relative_error
from genkernel.bench.workloads import WORKLOADS, Problem
from genkernel.tangent import batches
from genkernel.tangent.precision import full_precision
from genkernel.tangent.shortage import out_of_memory

IMPORTED = [
    "genkernel.bench.trial",
    "genkernel.bench.peers",
    "genkernel.tangent.engine",
    "torchvision.models.resnet",
    "diffusers.models",
]

#: seconds to build the network, import a peer and warm up
START = 600


@dataclass
class Trial:
    """What came of it.

    Attributes:
        status: "ok", "wrong", "absent" (not installed), "unsupported" (it says so, or leaves parameters out), "failed",
            "out of memory", or "over the time limit".
        seconds: of this first call.
        error: relative Frobenius error against the float64 loop.
        host_bytes, device_bytes: peak memory of the call above what was held before it.
    """

    status: str
    message: str = ""
    setting: Setting = field(default_factory=dict)
    seconds: float | None = None
    error: float | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int | None:
        return self.host_bytes if self.device_bytes is None else self.device_bytes


def installed(contender: Contender) -> bool:
    try:
        return contender.package is None or bool(metadata.version(contender.package))
    except metadata.PackageNotFoundError:
        return False


def trial(
    contender: str,
    setting: Setting,
    workload: str,
    sizes: dict[str, Any],
    *,
    device: str = "cpu",
    truth_file: Path | None = None,
    limit: float = 120.0,
) -> Trial:
    """Run one contender once in a fresh process.

    Args:
        contender: as for :func:`genkernel.bench.roster.find`.
        sizes: the arguments of the workload's builder.
        truth_file: the kernel to compare with; None to skip that.
        limit: seconds for the call itself.
    """
    question = {
        "contender": contender, "setting": setting, "workload": workload, "sizes": sizes, "device": device,
        "truth": truth_file, "threads": torch.get_num_threads(),
    }  # fmt: skip
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(question, sender), daemon=True)
    process.start()
    sender.close()
    found: Trial | None = None
    try:
        if not receiver.poll(START):
            return Trial("failed", f"was not ready to begin after {START} s", setting)
        if (answer := receiver.recv()) is None:  # everything is in place, the call begins
            if not receiver.poll(limit):
                return Trial("over the time limit", f"more than {limit:.0f} s", setting)
            answer = receiver.recv()
        found = answer
    except EOFError:  # it ended without an answer
        pass
    finally:
        receiver.close()
        process.join(0.2 if found is None else 5)  # one that ended by itself is given the time to do so
        process.kill()
        process.join()
    if found is None:
        killed = process.exitcode == -9
        said = "the system ended the process" if killed else f"the process ended with status {process.exitcode}"
        return Trial("out of memory" if killed else "failed", said, setting)
    if found.seconds is not None and found.seconds > limit:
        return Trial("over the time limit", f"{found.seconds:.0f} s", setting)
    return found


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def best(
    contender: str, problem: Problem, workload: str, sizes: dict[str, Any], *, search: bool = True, **options: Any
) -> Trial:
    """The trial with the fastest setting that is right; without one, the one that came furthest.

    Settings come smallest first; two in a row that are slower than the best, or too slow, end the search. Without
    ``search`` only the last one is tried.
    """
    chosen = find(contender)
    if not installed(chosen):
        return Trial("absent", f"pip install {chosen.package}")
    tried: list[Trial] = []
    slower = 0
    settings = chosen.settings(problem)
    for setting in settings if search else settings[-1:]:
        found = trial(contender, setting, workload, sizes, **options)
        good = [t.seconds for t in tried if t.status == "ok" and t.seconds is not None]
        tried.append(found)
        worse = found.status != "ok" or (found.seconds or 0) > min(good, default=math.inf)
        slower = slower + 1 if (good and worse) or found.status == "over the time limit" else 0
        if slower == 2:
            break
    order = ("ok", "wrong", "unsupported", "out of memory", "over the time limit", "failed")
    return min(tried, key=lambda t: (order.index(t.status), t.seconds or 0.0))


# ------------------------------------------------------------------------ inside of the process


def _answer(question: dict[str, Any], sender: Connection) -> None:
    gc.freeze()  # what was imported is not to be collected again and again
    with _silence():
        found = _try(**question, begin=lambda: sender.send(None))
    sender.send(found)
    sender.close()


def _try(
    contender: str,
    setting: Setting,
    workload: str,
    sizes: dict[str, Any],
    device: str,
    truth: Path | None,
    threads: int,
    begin: Callable[[], None],
) -> Trial:
    torch.set_num_threads(threads)
    if not device.startswith("cuda"):
        memory.limit_to_available()
    try:
        chosen = find(contender)
        problem = WORKLOADS[workload].problem(device, **sizes)
        with full_precision():
            return _measure(chosen, setting, problem, read(truth) if truth else None, begin)
    except UnsupportedError as error:
        return Trial("unsupported", str(error), setting)
    except Exception as error:
        return Trial("out of memory" if out_of_memory(error) else "failed", _first_line(error), setting)


def _measure(
    chosen: Contender, setting: Setting, problem: Problem, expected: torch.Tensor | None, begin: Callable[[], None]
) -> Trial:
    warm_up(problem)
    run = chosen.prepare(problem, setting)
    gc.collect()
    begin()
    with memory.peak_memory(problem.device) as peak:
        start = time.perf_counter()
        outcome = run()
        if problem.device.type == "cuda":
            torch.cuda.synchronize(problem.device)
        seconds = time.perf_counter() - start
    found = Trial("ok", "", setting, seconds, None, peak.host, peak.device, outcome.timing)
    if chosen.kernel and expected is not None:
        if outcome.values is None or outcome.values.shape != expected.shape:
            return Trial("failed", "returned no kernel of the right shape", setting)
        found.error = relative_error(outcome.values, expected)
        if not found.error <= chosen.tolerance:
            found.status, found.message = "wrong", f"relative error {found.error:.1g}"
    return found


def warm_up(problem: Problem) -> None:
    """Load the libraries' kernels and start the threads: a plain step on two samples."""
    few = Problem(
        problem.module, problem.call, batches.take(problem.batch, slice(0, 2)), problem.cotangents, problem.vectors,
        problem.scale,
    )  # fmt: skip
    contenders()["step"].prepare(few, {})()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What peers print and warn, from compiled code, too, is not the benchmark's to say."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

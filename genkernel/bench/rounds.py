"""Interleaved rounds: those that are right take turns, each in a process that stays from round to round.

What one leaves behind (freed memory in pieces, caches of compiled code, threads) thus meets its own next call,
as it does for whoever uses it, and nobody else's.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from genkernel.bench import memory
from genkernel.bench.contenders import Run, Setting, find
from genkernel.bench.processes import START, context, first_line, silence
from genkernel.bench.trial import Trial, warm_up
from genkernel.bench.workloads import WORKLOADS
from genkernel.tangent.precision import full_precision
from genkernel.tangent.shortage import out_of_memory

#: whoever needs this many times as long as genkernel is timed once instead of in every round
SLOW = 8.0


class Failed(Exception):
    """A contender that does not get through its turn; ``status`` as of a :class:`Trial`."""

    def __init__(self, status: str, message: str):
        super().__init__(status, message)
        self.status, self.message = status, message


class Seat:
    """A process in which some contenders are ready to run.

    Args:
        settings: by contender.
        workload: its name, and the arguments of its builder.
    """

    def __init__(self, settings: dict[str, Setting], workload: str, sizes: dict[str, Any], device: torch.device):
        question = {
            "settings": settings, "workload": workload, "sizes": sizes, "device": str(device),
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        source = context()
        self._ours, theirs = source.Pipe()
        self._process = source.Process(target=_serve, args=(question, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._answer(START)

    def run(self, name: str, limit: float) -> tuple[float, dict[str, float]]:
        """Seconds of one call, and by part where known.

        Args:
            limit: seconds that it may take.

        Raises:
            Failed: it raised, its process ended, or it went on for too long.
        """
        with contextlib.suppress(OSError):
            self._ours.send(name)
        found: tuple[float, dict[str, float]] = self._answer(limit)
        return found

    def _answer(self, limit: float) -> Any:
        try:
            if not self._ours.poll(limit):
                self.close()
                raise Failed("over the time limit", f"in the rounds, more than {limit:.0f} s")
            answer = self._ours.recv()
        except (EOFError, OSError):
            self._process.join(START)
            status = self._process.exitcode
            self.close()
            said = "the system ended the process" if status == -9 else f"it ended with status {status}"
            raise Failed("out of memory" if status == -9 else "failed", f"in the rounds, {said}") from None
        if isinstance(answer, Failed):
            raise answer
        return answer

    @property
    def open(self) -> bool:
        return not self._ours.closed

    def close(self) -> None:
        """End the process."""
        if not self.open:
            return
        self._process.kill()
        self._process.join()
        self._ours.close()


def interleave(
    workload: str, sizes: dict[str, Any], device: torch.device, trials: dict[str, Trial], rounds: int, limit: float
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]]]:
    """Seconds per round of every contender whose trial went well, and seconds by part where known.

    Each round begins with another contender; one untimed call comes before the first. On a GPU, whose memory
    processes do not hand to each other, they share one process.

    Args:
        trials: of whoever fails in the rounds, the trial says so afterwards.
        limit: seconds for one call.
    """
    settings = {name: found.setting for name, found in trials.items() if found.status == "ok"}
    base = min(
        (trials[name].seconds or math.inf for name in settings if name.startswith("genkernel")), default=math.inf
    )
    often = [name for name in settings if (trials[name].seconds or 0) <= SLOW * base]
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in settings}

    with contextlib.ExitStack() as stack:
        seats: dict[str, Seat] = {}

        def turn(names: Sequence[str], timed: bool = True) -> None:
            for name in names:
                if trials[name].status != "ok":
                    continue
                try:
                    if name not in seats or not seats[name].open:
                        seats.update(_seated(settings, name, workload, sizes, device))
                        stack.callback(seats[name].close)
                    taken, parts = seats[name].run(name, limit)
                    if name not in often and device.type == "cpu":
                        seats[name].close()  # it was the only time: what it holds is for others
                except Failed as failure:
                    trials[name] = replace(trials[name], status=failure.status, message=failure.message)
                    seconds[name], timings[name] = [], []
                    continue
                if timed:
                    seconds[name].append(taken)
                    if parts:
                        timings[name].append(parts)

        turn(often, timed=False)
        for count in range(rounds):
            order = list(settings) if count == 0 else often
            shift = count % max(1, len(order))
            turn(order[shift:] + order[:shift])
    return seconds, timings


def _seated(
    settings: dict[str, Setting], name: str, workload: str, sizes: dict[str, Any], device: torch.device
) -> dict[str, Seat]:
    here = settings if device.type == "cuda" else {name: settings[name]}
    return dict.fromkeys(here, Seat(here, workload, sizes, device))


# ------------------------------------------------------------------------ inside of the process


def _serve(question: dict[str, Any], theirs: Connection) -> None:
    gc.freeze()  # what was imported is not to be collected again and again
    with silence(), full_precision():
        runs: _Runs | None = None
        name = ""
        while True:
            try:
                if runs is None:
                    runs = _Runs(**question)
                    theirs.send(None)
                else:
                    theirs.send(runs.timed(name))
            except Exception as error:
                status = "out of memory" if out_of_memory(error) else "failed"
                theirs.send(Failed(status, f"in the rounds, {first_line(error)}"))
            try:
                name = theirs.recv()
            except EOFError:
                return


class _Runs:
    """Contenders on one problem, made ready when they are first asked for."""

    def __init__(self, settings: dict[str, Setting], workload: str, sizes: dict[str, Any], device: str, threads: int):
        torch.set_num_threads(threads)
        if not device.startswith("cuda"):
            memory.limit_to_available()
        self.settings, self.device = settings, torch.device(device)
        self.problem = WORKLOADS[workload].problem(device, **sizes)
        warm_up(self.problem)
        self.ready: dict[str, Run] = {}

    def timed(self, name: str) -> tuple[float, dict[str, float]]:
        if name not in self.ready:
            self.ready[name] = find(name).prepare(self.problem, self.settings[name])
        gc.collect()
        self._finish()
        start = time.perf_counter()
        outcome = self.ready[name]()
        self._finish()
        return time.perf_counter() - start, outcome.timing

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

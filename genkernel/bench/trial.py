"""One contender with one setting in a process of its own: does it run, is it right, what does it hold?

``python -m genkernel.bench.trial`` reads the question as JSON from standard input and writes the
answer as JSON to the file the question names. A crash, an exhausted memory or an endless run
thus stays away from everything else.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from genkernel.bench import memory, truth
from genkernel.bench.contenders import Contender, Setting, UnsupportedError, contenders, find
from genkernel.bench.workloads import WORKLOADS, Problem
from genkernel.tangent import batches
from genkernel.tangent.precision import full_precision

#: a relative error above this is a wrong kernel
TOLERANCE = 1e-3


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
        contender: as for :func:`genkernel.bench.contenders.find`.
        sizes: the arguments of the workload's builder.
        truth_file: the kernel to compare with; None to skip that.
        limit: seconds for the call itself; the process gets a minute more to start.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        question = {
            "contender": contender, "setting": setting, "workload": workload, "sizes": sizes, "device": device,
            "truth": str(truth_file) if truth_file else None, "threads": torch.get_num_threads(), "answer": str(answer),
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "genkernel.bench.trial"], input=json.dumps(question), text=True,
                capture_output=True, timeout=limit + 60, env=environment, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Trial("over the time limit", f"more than {limit:.0f} s", setting)
        if answer.is_file():
            found = Trial(**json.loads(answer.read_text()))
            slow = found.seconds is not None and found.seconds > limit
            return Trial("over the time limit", f"{found.seconds:.0f} s", setting) if slow else found
        if ended.returncode == -9:
            return Trial("out of memory", "the system ended the process", setting)
        said = ended.stderr.strip().splitlines()
        return Trial("failed", f"exit status {ended.returncode}: {said[-1] if said else 'no message'}", setting)


def best(
    contender: str, problem: Problem, workload: str, sizes: dict[str, Any], **options: Any
) -> Trial:  # fmt: skip
    """The trial with the fastest setting that is right; without one, the last that came furthest.

    Settings come smallest first; two in a row that are slower than the best end the search.
    """
    chosen = find(contender)
    if not installed(chosen):
        return Trial("absent", f"pip install {chosen.package}")
    tried: list[Trial] = []
    slower = 0
    for setting in chosen.settings(problem):
        found = trial(contender, setting, workload, sizes, **options)
        good = [t.seconds for t in tried if t.status == "ok" and t.seconds is not None]
        tried.append(found)
        if good:
            slower = slower + 1 if found.status != "ok" or (found.seconds or 0) > min(good) else 0
        if slower == 2:
            break
    order = ("ok", "wrong", "unsupported", "out of memory", "over the time limit", "failed")
    return min(tried, key=lambda t: (order.index(t.status), t.seconds or 0.0))


# ------------------------------------------------------------------------ inside of the process


def main() -> None:
    question = json.load(sys.stdin)
    torch.set_num_threads(question["threads"])
    setting = question["setting"]
    chosen = find(question["contender"])
    problem = WORKLOADS[question["workload"]].problem(question["device"], **question["sizes"])
    expected = truth.read(Path(question["truth"])) if question["truth"] else None
    if problem.device.type == "cpu":
        memory.limit_to_available()
    try:
        with full_precision():
            found = _measure(chosen, setting, problem, expected)
    except UnsupportedError as error:
        found = Trial("unsupported", _first_line(error), setting)
    except Exception as error:
        found = Trial("out of memory" if _is_memory(error) else "failed", _first_line(error), setting)
    Path(question["answer"]).write_text(json.dumps(asdict(found)))


def _measure(chosen: Contender, setting: Setting, problem: Problem, expected: torch.Tensor | None) -> Trial:
    warm_up(problem)
    run = chosen.prepare(problem, setting)
    gc.collect()
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
        found.error = truth.relative_error(outcome.values, expected)
        if not found.error <= TOLERANCE:
            found.status, found.message = "wrong", f"relative error {found.error:.1g}"
    return found


def warm_up(problem: Problem) -> None:
    """Load the libraries' kernels and start the threads: a plain step on two samples."""
    few = Problem(
        problem.module, problem.call, batches.take(problem.batch, slice(0, 2)), problem.cotangents, problem.vectors,
        problem.scale,
    )  # fmt: skip
    contenders()["step"].prepare(few, {})()


def _is_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


@contextmanager
def quietly() -> Iterator[None]:
    """Peers warn and print; their words are not the benchmark's."""
    import contextlib
    import warnings

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    with quietly():
        main()

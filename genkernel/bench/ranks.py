"""Do several processes give the kernel of one, and how much sooner? One thread for each process, on CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.bench.truth import relative_error
from genkernel.bench.workloads import WORKLOADS
from genkernel.errors import GenkernelError
from genkernel.tangent.cotangents import probes

Say = Callable[[str], None]

#: the figures of two processes are wrong from this relative error on
TOLERANCE = 1e-6
HEAD = f"{'':34}{'tasks':>6}{'one, s':>10}{'several, s':>12}{'ratio':>8}{'error':>10}  plan"


@dataclass(frozen=True)
class Case:
    """One kernel of a workload with random probes."""

    workload: str
    n: int
    probes: int
    memory: str

    @property
    def title(self) -> str:
        return f"{self.workload} n={self.n} {self.probes} probe(s) {self.memory}"


CASES = [Case("W2", 64, 4, "8GiB"), Case("W3", 400, 1, "1GiB"), Case("W3", 64, 1, "8GiB"), Case("W4", 32, 2, "8GiB")]
QUICK = [Case("W2", 4, 2, "8GiB"), Case("W3", 12, 1, "128MiB")]


def check(cases: Iterable[Case], processes: int = 2, say: Say = lambda message: None) -> dict[str, Any]:
    """Every case in one process, then shared among ``processes`` by torchrun with gloo.

    Raises:
        GenkernelError: a run failed.
    """
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "ranks",
        "what": "seconds: of kernel() on the slowest rank, after one untimed call, one thread for each process; error: "
        "relative Frobenius distance between the kernels",
        "provenance": provenance(torch.device("cpu")) | {"threads": 1},
        "processes": processes,
        "rows": [],
    }
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            one, several = (_run(case, count, Path(folder) / str(count)) for count in (1, processes))
        row = {
            **asdict(case),
            "seconds": one["seconds"],
            "seconds_shared": several["seconds"],
            "ratio": one["seconds"] / several["seconds"],
            "error": relative_error(several.pop("values"), one.pop("values")),
            "tasks": several["tasks"],
            "plan": several["plan"],
        }
        record["rows"].append(row)
        say(line(case, row))
    return record


def line(case: Case, row: dict[str, Any]) -> str:
    plan = row["plan"].split(" in ", 1)[1].split(";")[0]
    return (
        f"{case.title:34}{row['tasks']:6}{row['seconds']:10.3g}{row['seconds_shared']:12.3g}{row['ratio']:8.2f}"
        f"{row['error']:10.0e}  {plan}"
    )


def _run(case: Case, processes: int, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    arguments = [sys.executable, *command, "-m", "genkernel.bench.ranks", json.dumps(asdict(case)), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise GenkernelError(f"{case.title} with {processes} process(es) ended with status {done.returncode}: {said}")
    found = [torch.load(file) for file in sorted(folder.iterdir())]
    assert len(found) == processes and all(torch.equal(found[0]["values"], other["values"]) for other in found)
    return found[0] | {"seconds": max(other["seconds"] for other in found)}


def _answer(case: Case, folder: Path) -> None:
    """What each process of a case runs."""
    from genkernel.tangent import TangentModel, kernel

    problem = WORKLOADS[case.workload].problem(n=case.n)
    model = TangentModel(problem.module, call=problem.call)
    options: dict[str, Any] = {"cotangents": probes(case.probes, seed=0), "by": None, "memory": case.memory}
    kernel(model, problem.batch, progress=False, **options)
    started = time.perf_counter()
    found = kernel(model, problem.batch, progress=False, **options)
    answer = {"seconds": time.perf_counter() - started, "values": found.values}
    rank = os.environ.get("RANK", "0")
    torch.save(answer | {"tasks": found.meta["tasks"], "plan": found.meta["plan"]}, folder / f"{rank}.pt")


if __name__ == "__main__":
    _answer(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))

"""Is ``memory=`` a bound, and are plans right? One kernel per budget, each in a process of its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genkernel.bench.memory import peak_memory
from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.bench.truth import relative_error
from genkernel.bench.workloads import WORKLOADS, Problem
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.plan import parse_memory

Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One call of ``kernel()``.

    Attributes:
        workload: a name of ``WORKLOADS``, ``"mlp"`` or ``"wide"`` (a perceptron of 0.7 or 46 million parameters).
        n, m: samples on the two sides; ``m = 0`` for a symmetric kernel.
        memory, by, accumulate: as for :func:`genkernel.kernel`.
        probes: number of random cotangents.
        store: give the run a folder, in which it may keep gradients.
    """

    workload: str
    n: int
    memory: str
    by: str | None = None
    accumulate: str = "float64"
    probes: int = 1
    m: int = 0
    store: bool = False

    @property
    def question(self) -> tuple[Any, ...]:
        """Cases with the same one have the same answer."""
        return self.workload, self.n, self.m, self.probes


CASES = [
    *(Case("W4", 32, memory, by) for by in (None, "layer") for memory in ("8GiB", "2GiB", "1400MiB")),
    *(Case("W4", n, memory) for n in (64, 100) for memory in ("8GiB", "2GiB")),
    *(Case("W4", 100, "700MiB", store=store) for store in (False, True)),
    *(Case("W2", 64, memory) for memory in ("8GiB", "512MiB")),
    *(Case("W5", 32, memory) for memory in ("8GiB", "2GiB")),
    *(Case("W3", 300, memory, "layer") for memory in ("8GiB", "1GiB", "256MiB")),
    *(Case("W3", 100, memory, None, "float64", 8, 60) for memory in ("8GiB", "512MiB")),
    *(Case("W3", 2000, "4GiB", None, accumulate) for accumulate in ("float64", "float32")),
    *(Case("mlp", 5000, memory) for memory in ("8GiB", "1GiB")),
    *(Case("wide", 500, memory) for memory in ("8GiB", "1GiB")),
]
QUICK = [
    *(Case("mlp", 400, memory, "layer", probes=3, m=300) for memory in ("8GiB", "96MiB")),
    *(Case("W2", 8, memory) for memory in ("8GiB", "256MiB")),
]


def measure(case: Case, values: Path | None = None) -> dict[str, Any]:
    """Run a case in this process, which should have done nothing else before.

    Args:
        values: a file for the kernel.

    Returns:
        Seconds, bytes and the plan, all of which JSON can hold.
    """
    from genkernel.tangent import TangentModel, batches, kernel

    problem = _problem(case)
    model = TangentModel(problem.module, call=problem.call)
    x, y = problem.batch, None
    if case.m:
        x, y = (batches.take(problem.batch, part) for part in (slice(0, case.n), slice(case.n, None)))
    warm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    kernel(warm, torch.randn(8, 3, 16, 16))  # what libraries load once belongs to nobody
    gc.collect()
    with tempfile.TemporaryDirectory() as folder, peak_memory(problem.device) as peak:
        started = time.perf_counter()
        found = kernel(
            model, x, y, cotangents=problem.cotangents, by=case.by, accumulate=case.accumulate, memory=case.memory,
            store=folder if case.store else None, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    if values is not None:
        torch.save(found.values, values)
    return {
        "seconds": seconds,
        "peak_bytes": peak.host if problem.device.type == "cpu" else peak.device,
        "plan": found.meta["plan"],
        "tasks": found.meta["tasks"],
        "expected": found.meta["expected"],
        "found": found.meta["found"],
        "timing": found.meta["timing"],
    }


def _problem(case: Case) -> Problem:
    n, cotangents = case.n + case.m, probes(case.probes, seed=0)
    if case.workload in WORKLOADS:
        problem = WORKLOADS[case.workload].problem(n=n)
        problem.cotangents = cotangents
        return problem
    width = {"mlp": 512, "wide": 6400}[case.workload]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )  # fmt: skip
        return _plain(net, torch.randn(n, 784), cotangents)


def _plain(net: nn.Module, x: torch.Tensor, cotangents: Cotangents) -> Problem:
    return Problem(net, lambda module, batch: module(batch), x, cotangents, torch.ones(1, 10), 1.0)


def check(cases: Iterable[Case], say: Say = lambda message: None) -> dict[str, Any]:
    """Every case in a fresh process; the kernels of the same question are compared with the first one's."""
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "memory",
        "what": "peak_bytes: resident memory of a first call in a fresh process above what it held before; expected: "
        "by the plan; error: relative Frobenius distance from the kernel of the first case with the same samples",
        "provenance": provenance(torch.device("cpu")),
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        firsts: dict[tuple[Any, ...], torch.Tensor] = {}
        for case in cases:
            values = Path(folder) / "values.pt"
            row: dict[str, Any] = {**asdict(case), "budget_bytes": parse_memory(case.memory)}
            row |= _in_a_process(case, values)
            if "failure" not in row:
                kernel = torch.load(values)
                row["error"] = relative_error(kernel, firsts.setdefault(case.question, kernel))
            record["rows"].append(row)
            say(line(row))
    return record


def _in_a_process(case: Case, values: Path) -> dict[str, Any]:
    code = "import json, sys; from genkernel.bench import budgets; budgets.answer(json.loads(sys.argv[1]), sys.argv[2])"
    options = ["-W", "ignore", "-c", code, json.dumps(asdict(case)), str(values)]
    done = subprocess.run([sys.executable, *options], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return {"failure": f"the process ended with status {done.returncode}: {said}"[:300]}
    return json.loads(done.stdout.splitlines()[-1])


def answer(case: dict[str, Any], values: str) -> None:
    """What the process of a case runs."""
    print(json.dumps(measure(Case(**case), Path(values))))


HEAD = (
    f"{'':50}{'budget':>8}{'expected':>10}{'peak':>8}{'expected':>10}{'run':>8}{'in all':>8}{'error':>9}  plan\n"
    f"{'':50}{'MiB':>8}{'MiB':>10}{'MiB':>8}{'s':>10}{'s':>8}{'s':>8}"
)


def line(row: dict[str, Any]) -> str:
    """A row for a terminal."""
    side = f"{row['n']}×{row['m'] or row['n']}"
    store = " store" * row["store"]
    name = f"{row['workload']} {side} by={row['by']} {row['accumulate']} {row['probes']} probe(s){store}"
    if "failure" in row:
        return f"{name:50}{row['failure']}"
    mib = [value / 2**20 for value in (row["budget_bytes"], row["expected"]["bytes"], row["peak_bytes"])]
    mark = " " if row["peak_bytes"] <= row["budget_bytes"] else "!"
    plan = row["plan"].split(" in ", 1)[1].split(";")[0]
    return (
        f"{name:50}{mib[0]:8.0f}{mib[1]:10.0f}{mib[2]:7.0f}{mark}{row['expected']['seconds']:10.3g}"
        f"{row['found']['seconds']:8.3g}{row['seconds']:8.3g}{row['error']:9.0e}  {plan}"
    )


def wrong(row: dict[str, Any]) -> bool:
    """It failed, took more memory than allowed, or gave another kernel."""
    return "failure" in row or row["peak_bytes"] > row["budget_bytes"] or row["error"] > 1e-6

"""``memory=`` is a bound: budgets, measured in processes of their own, and what happens when memory runs out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from genkernel.bench import budgets
from genkernel.bench.budgets import HEAD, QUICK, Case, check, line, wrong
from scripts import check_memory


def assert_kept(cases: list[Case]) -> list[dict[str, Any]]:
    rows = check(cases)["rows"]
    for row in rows:
        assert not wrong(row), line(row)
        assert row["peak_bytes"] <= row["budget_bytes"] and row["error"] <= 1e-6
        assert 0 < row["expected"]["bytes"] <= row["budget_bytes"]
    return rows


SMALL = Case("mlp", 300, "1GiB", "layer", m=200)


def test_a_budget_is_kept_by_the_same_kernel() -> None:
    roomy, tight = assert_kept([SMALL, replace(SMALL, memory="96MiB")])
    assert roomy["tasks"] == 1 < tight["tasks"]
    assert tight["peak_bytes"] < roomy["peak_bytes"]
    assert roomy["error"] == 0 < tight["error"]  # other matrices, but the same kernel


@pytest.mark.slow
@pytest.mark.parametrize("workload", sorted({case.workload for case in QUICK}))
def test_budgets_are_kept(workload: str) -> None:
    assert_kept([case for case in QUICK if case.workload == workload])


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", ["float64", "float32"])
def test_budgets_are_kept_for_many_samples(accumulate: str) -> None:
    """Passes in batches: W3's generator, whose activations alone exceed the budget."""
    case = Case("W3", 96, "4GiB", None, accumulate)
    roomy, tight = assert_kept([case, replace(case, memory="192MiB")])
    assert tight["tasks"] > roomy["tasks"] and tight["peak_bytes"] < roomy["peak_bytes"] / 2


def test_what_is_wrong_with_a_row() -> None:
    good = {"peak_bytes": 5, "budget_bytes": 6, "error": 1e-7}
    assert not wrong(good)
    assert wrong({**good, "peak_bytes": 7})
    assert wrong({**good, "error": 1e-5})
    assert wrong({"failure": "killed"})


def test_a_process_that_fails_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "QUICK", [Case("mlp", 0, "1GiB")])
    assert check_memory.main(["--quick"]) == 1
    said = capsys.readouterr().out
    assert HEAD in said and "the process ended with status 1" in said
    assert "1 cases, 1 outside of their budget or wrong" in said


# What the machine refuses to give (RLIMIT_DATA: /proc/meminfo does not know) though the plan was allowed to take it.
STARVED = """
import json, logging, resource, sys
import torch, genkernel as gk
from torch import nn

logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *(nn.Tanh() for _ in range(24)), nn.Flatten(), nn.Linear(8192, 10))
x = torch.randn(256, 8, 32, 32)  # activations of 200 MB
sides = {"tile": (x, None), "tile of two sides": (x[:150], x[150:]), "passes": (x, None)}[sys.argv[1]]
options = {"cotangents": gk.total(), "progress": False}
if sys.argv[1] == "passes":  # two models take them
    options["model_y"] = gk.TangentModel(net).at({k: v * 1.1 for k, v in net.state_dict().items()})
gk.kernel(net, x[:8], memory="64MiB", **options)  # what libraries load once
held = int(next(row for row in open("/proc/self/status") if row.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + int(sys.argv[2]), resource.RLIM_INFINITY))
K = gk.kernel(net, *sides, memory="4GiB", **options)
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
true = gk.kernel(net, *sides, memory="4GiB", **options).values
print(json.dumps({"error": float((K.values - true).norm() / true.norm()), "plan": K.meta["plan"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits on memory are Linux's")
@pytest.mark.parametrize(("schedule", "mib"), [("tile", 120), ("tile of two sides", 150), ("passes", 220)])
def test_a_machine_with_less_memory_than_it_says(schedule: str, mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STARVED, schedule, str(mib * 2**20)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert ("pass(es)" in found["plan"]) == (schedule == "passes")
    assert "out of memory" in done.stderr, "the limit was not reached"
    assert found["error"] < 1e-6

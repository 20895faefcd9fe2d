"""``memory=`` is a bound: budgets, measured in processes of their own, and what happens when memory runs out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from genkernel.bench import budgets
from genkernel.bench.budgets import HEAD, QUICK, Case, check, line, wrong
from genkernel.tangent import stash
from genkernel.tangent.shortage import out_of_memory
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
    roomy, tight = assert_kept([SMALL, replace(SMALL, memory="84MiB")])
    assert roomy["tasks"] == 1 and roomy["error"] == 0
    assert tight["plan"] != roomy["plan"]  # several tiles or a pass, whichever is faster on this machine
    assert tight["expected"]["bytes"] < roomy["expected"]["bytes"]


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
    assert tight["plan"] != roomy["plan"] and tight["budget_bytes"] < roomy["peak_bytes"]  # the budget was needed


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


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("could not create a primitive"), True),  # oneDNN
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_shortages_are_recognised(error: Exception, short: bool) -> None:
    assert out_of_memory(error) == short


def test_gradients_are_kept_where_a_block_for_several_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    arena = stash._Arena()
    first = arena.zeros((3, 4), torch.float32)
    monkeypatch.setattr(stash._Arena, "BLOCK", 1 << 20)
    monkeypatch.setattr(stash.torch, "empty", refuse)
    arena._left = arena._left[:8]
    second = arena.zeros((5, 4), torch.float64)
    assert second.shape == (5, 4) and second.dtype == torch.float64 and not second.any()
    second.fill_(1)
    assert not first.any()

"""The command that compares several processes with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import check_ranks


@pytest.mark.slow
def test_two_processes_give_the_kernel_of_one(tmp_path: Path) -> None:
    assert check_ranks.main(["--quick", "--out", str(tmp_path / "ranks.json")]) == 0
    record = json.loads((tmp_path / "ranks.json").read_text())
    assert record["processes"] == 2 and len(record["rows"]) == 2
    assert all(row["error"] < 1e-6 and row["ratio"] > 0 for row in record["rows"])

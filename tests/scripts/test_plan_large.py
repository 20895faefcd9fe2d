"""The dry run of a large transformer, on a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import plan_large


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    asked = ["--size", "small", "--samples", "6", "--pairs", "6", "--dim", "1024", "--run", "--out", str(out)]
    assert plan_large.main(asked) == 0
    said = capsys.readouterr().out
    assert "kernel 6×6 of 1,934,736 parameters" in said and "sjlt sketch of 1024 entries" in said
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["kernel"]["schedule"] == "tiles" and record["kernel"]["proof"]["generic"] == []
    ways = {name: row["relative_error"] for name, row in record["bfloat16_error"]["ways"].items()}
    assert ways["float32"] < 1e-5 < ways["bfloat16"] < 2e-2
    assert all(ways["bfloat16"] < error for name, error in ways.items() if name.startswith("sketch"))
    run = record["run"]
    assert run["found"]["seconds"] > 0 and run["sketch_rms_error_of_a_cosine"] < 0.1

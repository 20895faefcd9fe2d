"""The script that measures what random probes do to cosines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import check_probes


@pytest.mark.usefixtures("one_thread")
def test_errors_fall_with_probes_and_are_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "errors.json"
    given = [
        "--models",
        "mnist-classifier",
        "--probes",
        "2",
        "32",
        "--draws",
        "4",
        "--samples",
        "10",
        "--out",
        str(out),
    ]
    check_probes.main(given)
    record = json.loads(out.read_text())
    few, many = record["rows"]
    assert (few["outputs"], few["probes"], many["probes"]) == (10, 2, 32)
    assert many["error"] < few["error"] / 2  # a quarter, in the mean
    assert 0.5 < many["stated"] / many["error"] < 2
    assert 0 < many["mean cosine"] < 1
    assert f"| mnist-classifier | 10 | 32 | {many['error']:.4f} |" in capsys.readouterr().out

"""The script that takes the leading modes of many samples."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_spectrum.py"


def test_modes_agree_with_those_of_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("check_spectrum", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=images, y_train=draw.integers(0, 10, 60))
    out = tmp_path / "record.json"
    given = [str(tmp_path / "digits.npz"), "--samples", "60", "--modes", "5", "--memory", "1GiB", "--out", str(out)]
    assert script.main(given) == 0
    record = json.loads(out.read_text())
    assert (
        record["within"] and len(record["eigenvalues"]) == 5 and record["dense"]["largest_relative_difference"] < 1e-4
    )
    assert "eigenvalues differ by" in capsys.readouterr().out

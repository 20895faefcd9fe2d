"""The script that measures what a monitor costs, on a training of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.check_monitor import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_overheads_of_two_caps_and_equal_weights(tmp_path: Path) -> None:
    out = tmp_path / "monitor.json"
    arguments = ["gan", str(ROOT / "assets" / "mnist-16.npz"), "--steps", "4", "--every", "2", "--batch", "16"]
    main([*arguments, "--cap", "0.001", "50", "--quiet", "--out", str(out)])
    found = json.loads(out.read_text())
    tight, loose = found["runs"]
    assert (tight["readings"], loose["readings"]) == (1, 2)  # the first is taken in any case, and not paid back
    assert tight["same_weights"] and loose["same_weights"] and not tight["problems"]
    assert loose["overhead_measured"] > 0 and found["memory"]["more"] > -0.1

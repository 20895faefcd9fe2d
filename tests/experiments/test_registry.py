"""What the list says of each experiment."""

from __future__ import annotations

import json
from pathlib import Path

from genkernel.experiments.registry import EXPERIMENTS

TIMES = Path(__file__).parents[2] / "benchmarks" / "experiments" / "times.json"


def test_minutes_are_those_that_were_measured() -> None:
    measured = {name: took["full"]["processors"] for name, took in json.loads(TIMES.read_text()).items()}
    assert {name: max(1, round(seconds / 60)) for name, seconds in measured.items()} == {
        name: study.minutes for name, study in EXPERIMENTS.items()
    }

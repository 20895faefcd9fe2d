"""The example programs with monitors: each trains, and leaves a log that can be read."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from genkernel.monitor import read_log

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
EXAMPLES = {
    "monitor_diffusers": ("denoiser", [0, 2, 4], ()),
    "monitor_accelerate": ("denoiser", [1, 3, 5], ("--cpu",)),
    "monitor_dcgan": ("gan", [0, 2, 4], ()),
    "monitor_lightning_gan": ("gan", [1, 3, 5, 7], ()),  # whole epochs of 4 batches
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_trains_and_leaves_a_log(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "monitor_accelerate":
        pytest.importorskip("accelerate")
    if name == "monitor_lightning_gan":
        pytest.importorskip("lightning")
    kind, steps, words = EXAMPLES[name]
    script = importlib.import_module(f"scripts.{name}")
    script.main(["--out", str(tmp_path / "out"), "--steps", "5", "--every", "2", "--overhead", "1e9", *words])
    trace = read_log(tmp_path / "out")
    assert trace.header.kind == kind and trace.steps.tolist() == steps
    assert not [problem for reading in trace.readings for problem in reading.problems]
    said = capsys.readouterr().out
    assert f"{len(steps)} readings, " in said and "log.jsonl" in said

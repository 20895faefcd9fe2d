"""The clock of the GAN analysis, on networks that take a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from scripts.time_gan import main


def test_stages_are_timed(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        main(["--latents", "16", "--jacobians", "2", "--size", "8", "--width", "4", "--threads", str(threads),
              "--json", str(tmp_path / "found.json")])  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["seconds"] >= sum(found["stages"].values()) > 0 and "kernel" in found["stages"]

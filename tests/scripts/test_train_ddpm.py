"""The training script, from the command line's words to the files it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.train_ddpm import main

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_ddpm.py"
TINY = [
    *("--size", "8", "--widths", "8", "16", "--steps", "2", "--batch", "2"),
    *("--samples", "4", "--sample-steps", "2", "--quiet"),
]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "set.npz", x_train=np.random.default_rng(0).integers(0, 256, (6, 10, 10), np.uint8))
    return tmp_path / "set.npz"


def test_archive_becomes_a_pipeline(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main([str(archive), "--out", str(out), *TINY])
    said = capsys.readouterr().out
    assert "6 images 1×8×8 from set.npz:x_train (resized 10×10 → 8×8, antialiased bilinear)" in said
    assert f"saved {out}" in said
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").is_file() and (out / "model_index.json").is_file()
    assert Image.open(out / "samples.png").size == (2 * 9 + 1, 2 * 9 + 1)


def test_colour_folder_without_samples(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.new("RGB", (9, 12), (i * 80, 20, 200)).save(pictures / f"{i}.png")
    out = tmp_path / "out"
    main([str(pictures), "--out", str(out), "--channels", "3", *TINY, "--samples", "0"])
    assert (out / "training.json").is_file() and not (out / "samples.png").exists()


def test_bad_words_are_one_sentence(tmp_path: Path) -> None:
    for words in (["nowhere/at/all"], [str(SCRIPT)], [str(SCRIPT), "--size", "7"]):
        run = subprocess.run(
            [sys.executable, str(SCRIPT), *words, "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()

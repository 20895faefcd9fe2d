"""The training scripts of GANs, from the command line's words to the files they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import train_gan, train_mnist_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(train_gan.__file__)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        f"{axis}_{split}": rng.integers(0, *high, np.uint8)
        for split in ("train", "test")
        for axis, high in (("x", (256, (12, 28, 28))), ("y", (10, 12)))
    }
    np.savez(tmp_path / "digits.npz", **arrays)
    return tmp_path / "digits.npz"


def record(out: Path) -> dict:
    return json.loads((out / "training.json").read_text())


def test_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--recipe collapsing --seed 3 --steps 4 --batch 8 --width 8 --activation tanh --latent 5 --r1 0.5 --quiet"
    train_gan.main(["ring", "--out", str(tmp_path), "--snapshots", "2", *words.split()])
    assert f"saved {tmp_path}: " in (said := capsys.readouterr().out) and "of 8 modes" in said
    found = record(tmp_path)
    assert (found["recipe"]["seed"], found["recipe"]["steps"], found["recipe"]["r1"]) == (3, 4, 0.5)
    assert found["generator"]["arguments"] == {"width": 8, "activation": "tanh", "latent": 5}
    assert found["discriminator"]["arguments"] == {"width": 8, "activation": "tanh"}
    assert len(list((tmp_path / "snapshots").iterdir())) == 6
    assert Image.open(tmp_path / "samples.png").size == (400, 400)


def test_digits_with_the_classifier_of_the_other_script(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = tmp_path / "judge"
    train_mnist_classifier.main([str(archive), "--out", str(judge), "--steps", "2", "--quiet"])
    assert "of 12 test images" in capsys.readouterr().out
    short = ["--classifier", str(judge), "--steps", "2", "--batch", "4", "--width", "4", "--quiet"]
    for name, channels, modes in (("mnist", 1, 10), ("stacked-mnist", 3, 1000)):
        out = tmp_path / name
        train_gan.main([name, "--data", str(archive), "--out", str(out), *short, "--samples", "4"])
        assert f"of {modes} modes" in capsys.readouterr().out
        assert record(out)["generator"]["arguments"]["channels"] == channels
        assert Image.open(out / "samples.png").size == (2 * 33 + 1, 2 * 33 + 1)


def test_bad_words_are_one_sentence(archive: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for words, says in (
        (["ring", "--recipe", "wild"], "the recipes for ring are healthy, collapsing"),
        (["ring", "--data", str(archive)], "leave --data out"),
        (["mnist"], "mnist needs --data"),
        (["mnist", "--data", "nowhere/at/all"], "no images at"),
        (["mnist", "--data", str(archive), "--activation", "tanh"], "not 'activation'"),
        (["mnist", "--data", str(archive), "--classifier", str(tmp_path)], "holds no classifier"),
    ):
        with pytest.raises(Exception, match=says) as caught:
            train_gan.main([*words, "--out", out, "--steps", "1", "--quiet"])
        assert type(caught.value).__module__ == "genkernel.errors"
    assert not (tmp_path / "out").exists()


def test_error_is_printed_without_a_traceback(tmp_path: Path) -> None:
    words = ["grid", "--loss", "wgan", "--recipe", "collapsing", "--out", str(tmp_path / "out")]
    run = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1

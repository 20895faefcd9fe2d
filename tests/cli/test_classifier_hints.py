"""What errors of ``genkernel classifier`` mean on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genkernel.cli.app import run
from genkernel.cli.hints import hint
from tests.classifier.toys import mlp


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("the sample shape of this is not known: pass sample_shape=(C, H, W)", "--sample-shape 3,32,32 of genkernel"),
        ("data has no labels: give a folder with one folder per class, or labels=", "--data FOLDER with a folder"),
        ("labels are names such as 'cat': give names= in the order of the logits", "--names cat,dog,frog"),
        ("pass the classifier's class as factory='module:Class'", "--factory MODULE:CLASS, the network's class, or"),
        ("pass factory='module:Class'", "--factory MODULE:CLASS, the generator's class"),
    ],
)
def test_hints_name_the_flag(message: str, advice: str) -> None:
    assert str(hint(message)).startswith(advice)


def test_weights_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(mlp().state_dict(), tmp_path / "r18.pth")
    assert run(["classifier", str(tmp_path / "r18.pth"), "--data", "mnist-16", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "does not say what network it belongs to" in said and "or torchvision:NAME --weights FILE" in said
    assert "generator" not in said

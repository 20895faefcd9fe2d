"""What the page of a classifier says where something cannot be known, or is not what it seems."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import nn

import genkernel as gk
from tests.classifier.toys import blobs, mlp


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.plots.classifier.classifier_figures", lambda result: {})


@pytest.mark.usefixtures("undrawn")
def test_small_classes_and_probabilities_are_said_on_the_page(tmp_path: Path) -> None:
    x, y = blobs(9)
    gk.similarity(nn.Sequential(mlp(), nn.Softmax(1)), x, labels=y, controls=False, out=tmp_path / "run")
    page = unescape((tmp_path / "run" / "index.html").read_text(encoding="utf-8"))
    assert "look like the probabilities of a softmax, not like logits" in page
    assert "the smallest class has 3 samples, and cross-validation takes 4 of each" in page
    assert "Neighbours: 2 of each sample and not 10, as the smallest class has 3" in page
    assert "2 nearest neighbours" in page and not re.search(r"\bnan\b", page)


def test_figures_of_what_has_no_spread(tmp_path: Path) -> None:
    x = torch.linspace(1, 2, 12)[:, None]
    report = gk.similarity(nn.Linear(1, 1, bias=False), x, labels=[0] * 6 + [1] * 6, out=tmp_path / "run")
    assert report.folder is not None and (report.folder / "figures" / "plane.png").is_file()
    assert any("point the same way" in note for note in report.summary()["notes"])

"""From a classifier and samples to a report, in memory and as a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.cli.app import run
from genkernel.errors import InputError
from genkernel.workflows.similarity import SimilarityReport, samples_for
from tests.classifier.toys import blobs, mlp, trained

DIGITS = Path(gk.__file__).parents[1] / "assets" / "mnist-16.npz"
FIGURES = {"class_blocks", "kernel", "controls", "layers", "plane", "course", "reach", "new_classes"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SimilarityReport:
    x, y = blobs(80)
    new, labels = blobs(60, seed=2, spread=1.5)
    return gk.similarity(
        trained(mlp(), x, y), x, labels=y, new=(new, labels), held_out=blobs(60, seed=3)[0], names=["a", "b", "c"],
        samples=60, checkpoints={"start": mlp()}, out=tmp_path_factory.mktemp("runs") / "run",
    )  # fmt: skip


def test_a_run_s_folder_is_complete_and_reads_back(report: SimilarityReport) -> None:
    assert report.folder is not None
    found = gk.open_run(report.folder, kind="classifier")
    assert isinstance(found, gk.SimilarityReport) and found.kernel is not None
    assert json.dumps(found.summary()) == json.dumps(report.summary())
    np.testing.assert_allclose(found.result.cosines, report.result.cosines)
    assert {path.stem for path in (report.folder / "figures").glob("*.png")} == FIGURES
    page = (report.folder / "index.html").read_text()
    assert "Does the kernel know the classes?" in page and "http" not in page.split("<body", 1)[1].replace(
        "https://github.com", ""
    ).replace("http://www.w3.org", "")
    summary = report.summary()
    for key in ("similarity", "alignment", "neighbours", "separability", "extrapolation", "rank_gap"):
        assert summary[key] is not None
    assert summary["classes"]["names"] == ["a", "b", "c"] and len(summary["reading"]) >= 5
    assert "SimilarityReport(60 samples, 3 classes" in repr(found)


def test_resuming_gives_the_same_run_and_refuses_another(tmp_path: Path) -> None:
    given: dict[str, Any] = {"samples": 20, "controls": False, "probes": 2, "out": tmp_path / "run"}
    first = gk.similarity("mnist-classifier", DIGITS, **given)
    again = gk.similarity("mnist-classifier", DIGITS, resume=True, **given)
    assert again.reused and again.summary() == first.summary()
    with pytest.raises(InputError, match="neighbours"):
        gk.similarity("mnist-classifier", DIGITS, resume=True, neighbours=3, **given)
    with pytest.raises(InputError, match="network"):
        gk.similarity("mnist-classifier", DIGITS, resume=True, params="last.*", **given)
    earlier = {"start": gk.load("mnist-classifier").module}
    with pytest.raises(InputError, match="checkpoints"):
        gk.similarity("mnist-classifier", DIGITS, resume=True, checkpoints=earlier, **given)


def test_images_become_what_the_classifier_takes() -> None:
    clf = gk.load("mnist-classifier")
    found = samples_for(clf, DIGITS, None, 50)
    assert found.inputs.shape == (50, 1, 32, 32) and float(found.inputs.min()) < -0.9
    assert found.labels is not None and np.bincount(found.labels).tolist() == [5] * 10
    rest = samples_for(clf, DIGITS, None, 50, without=found.inputs)
    assert "50 that are part of data left out" in rest.description
    known = {row.numpy().tobytes() for row in found.inputs}
    assert not any(row.numpy().tobytes() in known for row in rest.inputs)
    with pytest.raises(InputError, match="part of data"):
        samples_for(clf, found.inputs, None, 50, without=found.inputs)


def test_the_command_prints_the_reading_and_writes_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    call = ["classifier", "mnist-classifier", "--data", str(DIGITS), "--samples", "40", "--no-controls"]
    assert run([*call, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "nearest neighbours by the kernel" in said and "index.html" in said
    assert gk.open_run(out).result.answers.accuracy > 0.9
    assert run([*call, "--out", str(tmp_path / "json"), "--json", "--probes", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "classifier"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no labels"),
        ({"labels": [0, 1]}, "80 samples of data and 2 labels"),
        ({"labels": blobs(80)[1], "held_out": blobs(9)[0]}, "new ones"),
        ({"labels": blobs(80)[1], "samples": 2}, "samples"),
        ({"labels": blobs(80)[1], "classes": 3}, "no option of a classifier"),
        ({"labels": torch.zeros(80, dtype=torch.long)}, "two of them"),
    ],
)
def test_what_cannot_be_analysed(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        gk.similarity(mlp(), blobs(80)[0], out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "index.html").exists()

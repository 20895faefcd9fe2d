"""Which labels count in ``gk.similarity``: folders by name, and those of new samples when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.cli.app import run
from genkernel.errors import InputError
from genkernel.workflows.similarity import SimilarityReport
from tests.docs.props import pictures


def network(classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)).eval()


def look(data: Any, classes: int = 3, **options: Any) -> tuple[SimilarityReport, list[str]]:
    said: list[str] = []
    given = {"sample_shape": (1, 8, 8), "controls": False, **options}
    return gk.similarity(network(classes), data, say=said.append, **given), said


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures("val", classes=("cat", "dog"))
    pictures("val/frog", count=6)


def classes_by_darkness(report: SimilarityReport) -> list[int]:
    """Numbers of the classes of the first samples of every folder, in the order of the folders."""
    places = report.result.labels[::6]
    return [int(report.result.classes[place]) for place in places]


def test_folders_are_matched_with_names() -> None:
    report, said = look("val", names=["frog", "Dog", "cat"])
    assert report.result.names == ["frog", "Dog", "cat"] and classes_by_darkness(report) == [2, 1, 0]
    assert not any("are taken as" in line for line in said)


def test_as_many_folders_as_classes_are_taken_in_order_and_named_so() -> None:
    report, said = look("val")
    assert report.result.names == ["cat", "dog", "frog"] and classes_by_darkness(report) == [0, 1, 2]
    note = "data: folders cat, dog, frog are taken as classes 0, 1, 2"
    assert note in said and note in report.summary()["notes"]


def test_folders_named_by_numbers() -> None:
    for number, name in enumerate(("cat", "dog", "frog")):
        Path("val", name).rename(Path("val", str(3 * number)))
    report, _ = look("val", 7)
    assert report.result.classes.tolist() == [0, 3, 6] and report.result.names == ["0", "3", "6"]


def test_folders_that_match_nothing() -> None:
    with pytest.raises(InputError, match=r"tells 1000 classes apart.*names="):
        look("val", 1000)
    report, _ = look("val", 1000, labels=np.repeat([5, 900, 7], 6))
    assert report.result.classes.tolist() == [5, 7, 900]


def test_labels_by_name() -> None:
    x = torch.rand(12, 1, 8, 8)
    report, _ = look(x, labels=["cat", "frog"] * 6, names=["frog", "Dog", "cat"])
    assert report.result.names == ["frog", "cat"] and report.result.labels[:2].tolist() == [1, 0]


def test_labels_of_new_samples_count_when_asked_for() -> None:
    pictures("other", classes=("one", "two"), count=7)
    report, said = look("val", new="other")
    assert report.result.extrapolation is not None and report.result.extrapolation.labels is None
    assert "rightly" not in " ".join(report.summary()["reading"])
    assert sum(line.startswith("new: its labels are left out") for line in said) == 1
    with pytest.raises(InputError, match="folders of new cannot be matched"):
        look("val", new="other", new_labels=True)
    pictures("flat", count=7)
    with pytest.raises(InputError, match="none do"):
        look("val", new="flat", new_labels=True)


def test_labels_of_an_archive_of_new_samples() -> None:
    draw = np.random.default_rng(0)
    np.savez("other.npz", x=draw.random((9, 8, 8), dtype=np.float32), y=np.arange(9) % 3)
    for given, counted in ((None, False), (True, True), (np.zeros(9, dtype=int), True)):
        report, _ = look("val", new="other.npz", new_labels=given)
        found = report.result.extrapolation
        assert found is not None and (found.labels is not None) == counted


def test_new_folders_with_names_of_classes_count() -> None:
    pictures("other", classes=("dog", "frog"), count=7)
    for names in (None, ["frog", "dog", "cat"]):
        found = look("val", new="other", names=names)[0].result.extrapolation
        assert (
            found is not None
            and found.labels is not None
            and set(found.labels.tolist()) == set([1, 2] if names is None else [0, 1])
        )
    pictures("more", classes=("dog", "eel"), count=7)
    report, said = look("val", 4, new="more", names=["frog", "dog", "cat", "eel"])
    assert report.result.extrapolation is not None and report.result.extrapolation.labels is None
    assert "new: its labels are left out, as data has no samples of eel" in said


def test_the_command_has_flags_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("nets.py").write_text("from tests.workflows.test_similarity_labels import network as Net\n")
    torch.save(network().state_dict(), "net.pt")
    call = ["classifier", "net.pt", "--factory", "nets:Net", "--sample-shape", "1,8,8", "--no-controls"]
    pictures("other", classes=("eel", "fly"), count=7)
    pictures("other/owl", count=7)
    options = ["--data", "val", "--names", "frog,dog, cat", "--new", "other", "--new-labels", "--out", "run"]
    assert run([*call, *options]) == 0
    said = capsys.readouterr()
    assert "of the new samples are answered rightly" in said.out.replace("\n", " ")
    assert "folders eel, fly, owl are taken as classes 0 (frog), 1 (dog), 2 (cat)" in said.err.replace("\n", " ")
    assert run([*call, "--data", "val/dog", "--out", "flat"]) == 2
    assert "hint: --data FOLDER with a folder of images for each class" in capsys.readouterr().err
    assert run([*call, "--data", "val", "--names", "frog,toad,cat", "--out", "toad"]) == 2
    assert "hint: --names cat,dog,frog" in capsys.readouterr().err
    assert run(["classifier", "net.pt", "--data", "val", "--out", "none"]) == 2
    said = capsys.readouterr()
    assert "hint: --factory MODULE:CLASS, the network's class" in said.err and "generator" not in said.err

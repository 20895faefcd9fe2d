"""``genkernel experiment``: the list, the folder of an outcome, and what goes wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure

from genkernel.cli.app import run
from genkernel.errors import ConvergenceError
from genkernel.experiments import registry
from genkernel.experiments.outcome import Claim, Outcome, Table


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """One experiment of nothing, and one that fails."""
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []

    def work(*, quick: bool, seed: int, progress: bool) -> Outcome:
        print("a library that talks")
        asked.append({"quick": quick, "seed": seed, "progress": progress})
        figure = Figure((1, 1))
        figure.subplots().plot([0, 1])
        return Outcome(
            "stub",
            {"seed": seed, "widths": (16, 32)},
            [Claim("[it] is so", "it is 0.5", "yes"), Claim("it is more", "it is not", "no")],
            [Table("Errors", ("width", "error"), [(16, 0.25)])],
            {"errors": figure},
            {"errors": [0.25, float("nan")]},
        )

    def broken(**_: Any) -> Outcome:
        raise ConvergenceError("it does not converge")

    for name, function in (("stub", work), ("broken", broken)):
        module = ModuleType(f"genkernel.experiments.{name}")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(registry.EXPERIMENTS, name, registry.Study(name, f"a {name} of an experiment", 1))
    return asked


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment", "--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in registry.EXPERIMENTS) and "a stub of an experiment" in said
    assert run(["experiment", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiments"]["stub"] == {
        "about": "a stub of an experiment",
        "minutes": 1,
    }


def test_an_outcome_is_a_folder_and_a_table_of_claims(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["experiment", "stub", "--quick", "--seed", "3", "--out", "runs/it"]) == 0
    assert calls == [{"quick": True, "seed": 3, "progress": True}]
    out = Path("runs/it")
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert names == ["figures/errors.png", "figures/errors.svg", "run.json", "summary.json", "tables.md"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["schema_version"], summary["kind"], summary["name"]) == (1, "experiment", "stub")
    assert summary["settings"] == {"seed": 3, "widths": [16, 32]} and summary["numbers"] == {"errors": [0.25, None]}
    assert summary["claims"][1] == {"claim": "it is more", "measured": "it is not", "holds": "no"}
    origin = summary["provenance"]
    assert origin["versions"]["torch"] and origin["threads"] >= 1 and origin["date"].endswith("+00:00")
    assert origin["machine"]["cores"] >= 1 and "processor_model" in origin["machine"]
    assert "| 16 | 0.25 |" in (out / "tables.md").read_text()
    record = json.loads((out / "run.json").read_text())
    assert record["arguments"] == {"name": "stub", "quick": True, "seed": 3} and record["files"] == names
    assert record["timings"]["experiment"] >= 0 and record["versions"]["torch"]
    said = capsys.readouterr()
    assert "[it] is so" in said.out and "outcome: runs/it (summary.json, tables.md, 1 figure, run.json)" in said.out
    assert "a library that talks" in said.err and "small settings" in said.err


def test_json_is_the_summary_and_an_earlier_outcome_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run(["experiment", "stub", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["name"] == "stub" and said == json.loads(Path("genkernel-stub/summary.json").read_text())


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("experiment nonsense", 2, "there is no experiment 'nonsense'; there are "),
        ("experiment --quick", 2, "name an experiment: "),
        ("experiment stub --seed -1", 2, "--seed has to be a whole number from 0, not -1"),
        ("experiment stub --data MNIST", 2, "the experiment 'stub' has no use for --data"),
        ("experiment stub --work here", 2, "the experiment 'stub' has no use for --work"),
        ("experiment stub --out full", 2, "full is not empty and holds no genkernel run"),
        ("experiment broken", 1, "it does not converge"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_leaves_nothing(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], command: str, status: int, words: str
) -> None:
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("x")
    assert run(command.split()) == status
    said = capsys.readouterr()
    assert not said.out and words in said.err.splitlines()[-1] and "Traceback" not in said.err
    assert not calls and sorted(p.name for p in Path.cwd().iterdir()) == ["full"]


def test_images_and_a_folder_for_unfinished_work_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def study(*, quick: bool, seed: int, progress: bool, images: Any = None, work: Any = None) -> Outcome:
        asked.append({"images": images, "work": work})
        return Outcome("stub", {})

    monkeypatch.setattr(sys.modules["genkernel.experiments.stub"], "run", study)
    assert run(["experiment", "stub", "--data", "digits.npz", "--work", "half"]) == 0
    assert asked == [{"images": "digits.npz", "work": "half"}]
    record = json.loads(Path("genkernel-stub/run.json").read_text())
    assert record["arguments"] == {"name": "stub", "quick": False, "seed": 0, "images": "digits.npz", "work": "half"}

"""``genkernel path``: what it reads, prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genkernel.cli.app import run
from tests.paths.fake_parts import fake_parts, unmoved_parts


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a path, without its figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genkernel.plots.paths.path_figures", lambda *given: {})
    Path("mine").mkdir()
    fake_parts(names=["cats", "dogs", "birds", "frogs", "cars", "ships"]).save("mine/path.npz")
    return tmp_path


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["path", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: genkernel path" in said and "--direction" in said and "deleting the samples" in said
    assert "`" not in said


def test_a_folder_needs_no_flag_and_gets_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["path", "mine"]) == 0
    said = capsys.readouterr()
    assert "In 400 Adam steps, “" in said.out and "helped" in said.out and "opposed" in said.out
    assert "complete: the parts add up to the change of f, with a gap of" in said.out and "1.80 ×" in said.out
    assert said.out.endswith("report: mine/index.html\n") and not said.err
    assert all((Path("mine") / name).is_file() for name in ("index.html", "summary.json", "run.json", "path.npz"))
    assert max(map(len, said.out.splitlines()[2:12])) <= 80


def test_queries_directions_and_places_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--query", "2", "--query", "0", "--direction", "1", "--top", "2", "--out", "there"]
    assert run(["path", "mine/path.npz", *flags]) == 0
    said = capsys.readouterr().out
    assert "Output 1 of query 2 changed by" in said and "raised" in said and "report: there/index.html" in said
    record = json.loads(Path("there/run.json").read_text())
    assert record["arguments"] == {"query": [2, 0], "direction": 1, "top": 2}
    assert not Path("mine/index.html").exists()


def test_a_file_of_another_name_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    fake_parts(gap=0.1).save("other.npz")
    assert run(["path", "other.npz"]) == 0
    said = capsys.readouterr().out
    assert "report: genkernel-other/index.html" in said and "incomplete: the parts miss" in said
    assert 'rule="adaptive", or "gauss4"' in said


def test_json_is_the_summary_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    unmoved_parts().save("mine/path.npz")
    assert run(["path", "mine", "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == json.loads(Path("mine/summary.json").read_text()) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("path nothing", "there is no folder or file nothing"),
        ("path empty", "empty holds no path.npz"),
        ("path broken.npz", "broken.npz is not a path decomposition"),
        ("path mine --query 7", "query is 0 to 2, not 7"),
        ("path mine --query x", "--query"),
        ("path mine --direction up", "--direction is change or the number of an output, not 'up'"),
        ("path mine --direction 9", "direction is 0 to 3"),
        ("path mine --top 0", "at least 1"),
        ("path mine --out full", "full is not empty and holds no genkernel run"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(capsys: pytest.CaptureFixture[str], command: str, words: str) -> None:
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("x")
    Path("broken.npz").write_bytes(b"x")
    assert run(command.split()) == 2
    said = capsys.readouterr()
    assert not said.out and words in said.err.splitlines()[-1] and said.err.startswith("error: ")
    assert "Traceback" not in said.err and not Path("mine/index.html").exists()

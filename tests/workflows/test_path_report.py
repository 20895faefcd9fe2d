"""Paths to folders and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genkernel.errors import InputError, MissingError
from genkernel.workflows import PathReport, open_run, path_report
from genkernel.workflows.path_report import PathResult
from tests.paths.fake_parts import fake_parts, unmoved_parts

pytestmark = pytest.mark.usefixtures("fast_figures")


@pytest.fixture
def fast_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure is enough to see that figures are written."""
    import genkernel.plots.paths

    every = genkernel.plots.paths.path_figures
    monkeypatch.setattr(
        genkernel.plots.paths, "path_figures", lambda *given: {k: v for k, v in every(*given).items() if k == "shares"}
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a training script leaves it: the path, and files of its own."""
    place = tmp_path / "run"
    place.mkdir()
    fake_parts(layers=2).save(place / "path.npz")
    (place / "model.pt").write_bytes(b"weights")
    return place


def test_a_report_beside_its_path_is_complete_and_reads_back(run: Path) -> None:
    report = path_report(run, query=[1, 0, 1], direction=2, top=3, out=run)
    names = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    assert names == [
        "figures/shares.png", "figures/shares.svg", "index.html", "model.pt", "path.npz", "result.json", "run.json",
        "summary.json",
    ]  # fmt: skip
    back = open_run(run)
    assert isinstance(back, PathReport) and back.reused and back.folder == run
    assert back.result.queries == [1, 0] and (back.result.direction, back.result.top) == (2, 3)
    assert torch.equal(back.parts.net, fake_parts(layers=2).net) and back.summary() == report.summary()
    assert repr(back).startswith("PathReport(PathDecomposition(8 sources, 3 queries")
    assert [sentence.split(" changed")[0] for sentence in back.reading] == [
        "Output 2 of query 1",
        "Output 2 of query 0",
    ]
    record = json.loads((run / "run.json").read_text())
    assert record["checkpoint"]["name"] == "run" and len(record["checkpoint"]["sha256"]) == 64
    assert record["arguments"] == {"query": [1, 0], "direction": 2, "top": 3}
    assert record["files"] == [name for name in names if name != "model.pt"] and record["dtype"] == "float32"


def test_a_report_is_made_again_in_place_and_elsewhere(run: Path, tmp_path: Path) -> None:
    path_report(run, out=run)
    path_report(run, query=2, out=run)  # the path it is of is still there
    assert open_run(run, kind="path").result.queries == [2] and (run / "model.pt").is_file()
    other = path_report(run / "path.npz", out=tmp_path / "other").folder
    assert other is not None and torch.equal(open_run(other, kind="path").parts.net, fake_parts(layers=2).net)
    again = open_run(other).save(tmp_path / "again")
    assert (again / "run.json").read_text() == (other / "run.json").read_text()


def test_summary_has_the_keys_that_others_rely_on(run: Path) -> None:
    path_report(run, query=[0, 2], out=run)
    summary = json.loads((run / "summary.json").read_text())
    parts = fake_parts(layers=2)
    assert (summary["schema_version"], summary["kind"], summary["steps"]) == (1, "path", 400)
    assert summary["sources"] == parts.sources and summary["samples"][0] == 12_800
    assert (summary["rule"], summary["optimizer"], summary["overhead_factor"]) == ("trapezoid", "Adam", 1.8)
    for key in ("net", "gross", "signed", "cancellation"):
        assert len(summary[key]) == 8 and len(summary[key][0]) == 3
    assert summary["values"] == parts.values.tolist()
    assert summary["gap"]["absolute"] == parts.gap_abs and summary["gap"]["verdict"] == "complete"
    assert summary["gap"]["relative"] == pytest.approx(1e-3, rel=0.01)
    first = summary["top_helpers"][0]
    best = parts.top(0)[0][0]
    assert first == {"query": 0, "source": best.source, "value": best.value, "share": best.share, "gross": best.gross}
    assert {row["query"] for row in summary["top_opponents"]} == {0, 2}


def test_large_paths_and_paths_without_change() -> None:
    big = path_report(fake_parts(20, queries=3, outputs=(3, 20, 20))).summary()
    assert big["values"] is None and big["initial"] is None and len(big["net"]) == 22
    still = path_report(unmoved_parts()).summary()
    assert still["top_helpers"] == [] and still["signed"][0] == [None, None] and still["gap"]["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"query": 3}, "has 3 queries: query is 0 to 2, not 3"),
        ({"query": []}, "at least one query"),
        ({"direction": 4}, "has 4 outputs: direction is 0 to 3"),
        ({"top": 0}, "at least 1, not 0"),
    ],
)
def test_wrong_requests(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        path_report(fake_parts(), **options)  # type: ignore[arg-type]


def test_files_that_are_no_path(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"holds no path\.npz: record a training with gk\.record"):
        path_report(tmp_path)
    with pytest.raises(MissingError, match="there is no folder or file"):
        path_report(tmp_path / "none")
    (tmp_path / "path.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a path decomposition"):
        path_report(tmp_path)
    with pytest.raises(InputError, match="its file or its folder, not of 123"):
        path_report(123)  # type: ignore[arg-type]


def test_folders_of_other_things_are_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no genkernel run"):
        path_report(run, out=tmp_path / "mine")
    (run / "index.html").write_text("my own page")
    with pytest.raises(InputError, match="is not empty and holds no genkernel run"):
        path_report(run, out=run)
    (run / "index.html").unlink()
    (run / "run.json").write_text('{"lr": 0.1}')
    with pytest.raises(InputError, match=r"run\.json that genkernel did not write"):
        path_report(run, out=run)
    assert (run / "run.json").read_text() == '{"lr": 0.1}'


def test_runs_that_cannot_be_read(run: Path) -> None:
    path_report(run, out=run)
    with pytest.raises(InputError, match="holds a path run, and this needs a gan run"):
        open_run(run, kind="gan")
    (run / "result.json").write_text('{"queries": [9], "direction": null, "top": 5}')
    with pytest.raises(InputError, match="query is 0 to 2, not 9"):
        open_run(run)
    (run / "result.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read by this version"):
        open_run(run)
    (run / "path.npz").unlink()
    with pytest.raises(MissingError, match="not complete"):
        open_run(run)


def test_a_result_in_memory_has_its_defaults() -> None:
    result = PathResult(fake_parts())
    assert (result.queries, result.direction, result.top) == ([0], None, 5)


@pytest.mark.parametrize("name, said", [("tape.json", "holds a tape"), ("recording.pt", "unfinished recording")])
def test_folders_of_trainings_that_are_no_path_yet(tmp_path, name, said):
    (tmp_path / name).write_text("{}")
    with pytest.raises(MissingError, match=said):
        path_report(tmp_path)


def test_the_path_of_another_recording_is_not_written_over(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    fake_parts(layers=1).save(other / "path.npz")
    before = (other / "path.npz").read_bytes()
    with pytest.raises(InputError, match=r"holds the path\.npz of another recording"):
        path_report(run, out=other)
    assert (other / "path.npz").read_bytes() == before
    path_report(other, out=other)  # its own report is fine, and so is that of the same path in memory
    path_report(fake_parts(layers=1), query=2, out=other)
    with pytest.raises(InputError, match="another recording"):
        path_report(run, out=other)
    assert torch.equal(fake_parts(layers=1).net, open_run(other, kind="path").parts.net)


def test_labels_are_no_formulas(tmp_path: Path) -> None:
    import dataclasses

    from genkernel.plots.paths import path_figures
    from genkernel.plots.style import to_bytes

    parts = fake_parts()
    names = [r"a$_$b", r"$\foo$", "$x_1$ & 50% _", *parts.sources[3:]]
    odd = dataclasses.replace(parts, sources=names)
    for name, draw in path_figures(odd, [0], None).items():
        assert to_bytes(draw(), "png")[:4] == b"\x89PNG", name


def test_notes_in_the_file_are_kept_by_its_report(run: Path) -> None:
    parts = fake_parts(layers=2)
    parts.meta["mine"] = "a note"
    parts.save(run / "path.npz")
    path_report(fake_parts(layers=2), out=run)
    assert open_run(run, kind="path").parts.meta["mine"] == "a note"


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    import dataclasses

    parts = fake_parts()
    path = dataclasses.replace(parts, outputs=parts.outputs[:, :1]).save(tmp_path / "path.npz")
    with pytest.raises(InputError, match=r"path\.npz is damaged: parts of a decomposition do not fit"):
        path_report(path)

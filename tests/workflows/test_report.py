"""Reports to folders and back."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.gan.verdict import Evidence, Verdict
from genkernel.runs import Provenance, pack
from genkernel.tangent import Kernel
from genkernel.workflows import GanReport, Report, open_run
from tests.diffusion.fake_result import fake_result
from tests.gan.fake_result import planar_result

pytestmark = pytest.mark.usefixtures("fast_figures")


@pytest.fixture
def fast_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two figures are enough to see that figures are written."""
    import genkernel.plots

    every = genkernel.plots.diffusion_figures
    monkeypatch.setattr(
        genkernel.plots, "diffusion_figures", lambda result: {k: every(result)[k] for k in ("kernel", "controls")}
    )


def some_kernel() -> Kernel:
    values = torch.eye(4, dtype=torch.float64)
    return Kernel(values, values.diag(), values.diag(), layers={"a": values}, symmetric=True, meta={"probes": 1})


def record() -> Provenance:
    return Provenance(arguments={"levels": 12}, seed=0, checkpoint={"name": "c", "sha256": "1"}, data={"sha256": "2"})


def test_a_verdict_in_a_notebook() -> None:
    leant = Evidence("recall", "recall <of> data", "coverage", 0.31, (0.6, 0.9), 0.2, -1, "watch", True, "healthy runs")
    other = replace(leant, name="other", label="not counted", counts=False)
    report = GanReport(replace(planar_result(), verdict=Verdict("watch", ["Recall < 0.6."], [leant, other])))
    assert report.reasons == ["Recall < 0.6."]
    page = report._repr_html_()
    assert "verdict: watch" in page and "<li>Recall &lt; 0.6.</li>" in page and "recall &lt;of&gt; data" in page
    assert "not counted" not in page and page.count("<tr>") == 2
    bare = GanReport(replace(planar_result(), verdict=None))
    assert bare.reasons == [] and "unknown" in bare._repr_html_() and "<table" not in bare._repr_html_()


def test_a_report_in_a_notebook_says_what_its_page_says() -> None:
    result = replace(fake_result(), meta={**fake_result().meta, "reading": ["Local in t < 100.", "Not beyond."]})
    report = Report(result)
    assert report.reading == ["Local in t < 100.", "Not beyond."]
    page = report._repr_html_()
    assert "<strong>Local in t &lt; 100.</strong>" in page and "<li>Not beyond.</li>" in page
    assert page.count("<img") == 1 and 'alt="kernel"' in page and "data:image/png;base64," in page


def test_one_figure_is_drawn_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import genkernel.plots

    drawings = {"one": lambda: "drawn", "other": lambda: pytest.fail("nobody asked for it")}
    monkeypatch.setattr(genkernel.plots, "diffusion_figures", lambda result: drawings)
    assert Report(fake_result()).figure("one") == "drawn"
    with pytest.raises(MissingError, match="no figure 'two' of this result; there are one, other"):
        Report(fake_result()).figure("two")


def test_a_saved_run_is_complete_and_reads_back(tmp_path: Path) -> None:
    report = Report(fake_result(), some_kernel(), record())
    out = report.save(tmp_path / "runs" / "one")
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert names == [
        "figures/controls.png",
        "figures/controls.svg",
        "figures/kernel.png",
        "figures/kernel.svg",
        "index.html",
        "kernel.npz",
        "result.json",
        "run.json",
        "summary.json",
        "weighting.csv",
    ]
    back = open_run(out)
    assert back.summary() == report.summary()
    assert pack(back.result) == pack(report.result)
    assert back.kernel is not None and np.array_equal(np.asarray(back.kernel), np.eye(4))
    assert back.kernel.layers == {}  # as many matrices as layers: only on request
    stored = json.loads((out / "run.json").read_text())
    assert stored["versions"]["torch"] and stored["timings"]["figures"] > 0 and stored["peak_memory"]
    assert stored["files"] == names
    assert repr(back).startswith("Report(locality index 0.")


def test_layers_are_kept_on_request(tmp_path: Path) -> None:
    kernel = open_run(Report(fake_result(), some_kernel(), record()).save(tmp_path / "a", layers=True)).kernel
    assert kernel is not None and list(kernel.layers) == ["a"]


def test_a_run_read_back_can_be_saved_elsewhere_with_its_provenance(tmp_path: Path) -> None:
    first = Report(fake_result(), some_kernel(), record()).save(tmp_path / "a")
    second = open_run(first).save(tmp_path / "b")
    before, after = (json.loads((p / "run.json").read_text()) for p in (first, second))
    assert before == after


def test_summary_has_the_keys_that_others_rely_on(tmp_path: Path) -> None:
    out = Report(fake_result(), None, record()).save(tmp_path / "a")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["schema_version"], summary["kind"]) == (1, "diffusion")
    for path in (
        "levels.timesteps",
        "levels.log_snr",
        "loss_per_level",
        "locality.index",
        "locality.index_unnormalized",
        "locality.window_timesteps",
        "locality.floor",
        "locality.half_width_timesteps",
        "locality.half_width_log_snr",
        "locality.normalized_kernel",
        "locality.stderr",
        "controls.same_image_same_noise",
        "controls.same_image_other_noise",
        "controls.other_image_same_level",
        "controls.embedding_only",
        "controls.input_only",
        "controls.shuffled_levels",
        "controls.untrained",
        "controls.embedding_cosine",
        "controls.time_mlp_cosine",
        "interference.matrix",
        "interference.stderr",
        "interference.conflicting_pairs",
        "weighting.predicted_change",
        "stages.boundaries",
        "layers.share",
    ):
        place = summary
        for key in path.split("."):
            place = place[key]
        assert place is not None, path


def test_runs_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not a folder"):
        open_run(tmp_path / "none")
    with pytest.raises(MissingError, match=r"holds no summary\.json"):
        open_run(tmp_path)
    out = Report(fake_result(), None, record()).save(tmp_path / "a")
    summary = json.loads((out / "summary.json").read_text())
    for change, words in (
        (
            {"kind": "other"},
            "kind 'other'; this version reads diffusion, gan, classifier, path, spectrum and monitor runs",
        ),
        ({"kind": "gan"}, "stored GanResult cannot be read"),
        ({"schema_version": 99}, "schema 99"),
    ):
        (out / "summary.json").write_text(json.dumps(summary | change))
        with pytest.raises(InputError, match=words):
            open_run(out)
    (out / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="holds a diffusion run, and this needs a gan run"):
        open_run(out, kind="gan")
    (out / "index.html").unlink()
    with pytest.raises(MissingError, match="not complete"):
        open_run(out)


FULL = textwrap.dedent(
    """
    import resource, sys
    from genkernel.errors import OutputError
    from genkernel.workflows import open_run
    report = open_run(sys.argv[1])
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        report.save(sys.argv[2])
    except OutputError as error:
        print(error)
        sys.exit(7)
    """
)


@pytest.mark.parametrize("limit", [0, 20_000, 150_000])
def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """0: not a byte; 20 kB: a figure does not fit; 150 kB: the page does not."""
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {})  # here; the other process draws them
    Report(fake_result(), None, record()).save(tmp_path / "a")
    command = [sys.executable, "-c", FULL, str(tmp_path / "a"), str(tmp_path / "b" / "c"), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 7, run.stderr
    assert "file-size limit" in run.stdout and run.stdout.count("\n") == 1
    assert f"cannot write {tmp_path / 'b' / 'c'}" in run.stdout and ".part" not in run.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_interrupt_while_saving_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("genkernel.report.diffusion_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Report(fake_result(), None, record()).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        Report(fake_result(), None, record()).save(tmp_path / "file" / "run")

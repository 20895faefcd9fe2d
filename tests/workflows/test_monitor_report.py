"""Reports of monitors: the page says what was read, to folders and back; torn, empty and unknown logs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import genkernel as gk
from genkernel.errors import InputError, MissingError
from genkernel.monitor import Alert, Reading
from genkernel.plots.monitor import monitor_figures
from genkernel.report.monitor import (
    alert_lines,
    alert_table,
    headline,
    key_numbers,
    missing_table,
    monitor_page,
    problem_table,
    state,
    weight_table,
)
from genkernel.workflows.monitor_report import MonitorReport
from tests.plots import monitor_logs as logs


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of them, so that the test is quick."""
    chosen = {"health", "kernel_level"}
    monkeypatch.setattr(
        "genkernel.plots.monitor.monitor_figures",
        lambda trace: {name: draw for name, draw in monitor_figures(trace).items() if name in chosen},
    )


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.plots.monitor.monitor_figures", lambda trace: {})


def test_a_log_becomes_a_folder_that_reads_back(tmp_path: Path, few_figures: None) -> None:
    log = logs.write(logs.denoiser(), tmp_path / "run.jsonl")
    report = gk.monitor_report(log, out=tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == report.summary() and summary["kind"] == "monitor" and summary["watched"] == "denoiser"
    assert summary["readings"] == 8 and summary["steps"] == [0, 70] and summary["longest_wait"] == 10
    assert report.reading[0].startswith("8 readings of a") and report.trace.alerts[0].message in report.reading
    assert [alert["since"] for alert in summary["alerts"]] == [40, 30]
    assert summary["scalars"]["kernel/drift"] == {
        "first": 0.1, "last": 0.1, "smallest": 0.1, "largest": 0.1, "missing": 1,
    }  # fmt: skip
    assert summary["problems"] == [
        {"part": "kernel", "error": "NonFiniteError", "readings": 1, "first": 30, "last": 30}
    ]
    back = gk.open_run(tmp_path / "out", kind="monitor")
    assert isinstance(back, MonitorReport) and back.summary() == summary
    assert np.array_equal(back.trace.array("loss/level"), report.trace.array("loss/level"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "8 readings of a denoiser over steps 0 to 70." in page and "2 alerts" in page and "http" not in page
    assert page.count("data:image/png;base64,") == 2 and 'id="topic-health"' in page
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["description"] == "run.jsonl" and len(record["data"]["sha256"]) == 64
    assert "figures/kernel_level.svg" in record["files"] and "monitor.jsonl" in record["files"]


def test_the_same_log_gives_the_same_page() -> None:
    one, two = (monitor_page(logs.denoiser(), {}, {}) for _ in range(2))
    assert one == two


def test_what_a_killed_run_leaves_renders(tmp_path: Path, no_figures: None) -> None:
    log = logs.write(logs.denoiser(4), tmp_path / "run.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole[:-40])  # in the midst of the last line
    assert gk.monitor_report(log).summary()["readings"] == 3
    log.write_bytes(whole.split(b"\n")[0] + b"\n")
    report = gk.monitor_report(log, out=tmp_path / "out")
    assert report.summary()["readings"] == 0 and report.summary()["steps"] is None
    assert "holds no reading yet" in (tmp_path / "out" / "index.html").read_text()
    assert gk.open_run(tmp_path / "out").summary()["readings"] == 0


def test_what_was_rewound_is_not_kept(tmp_path: Path, no_figures: None) -> None:
    log = logs.write(logs.denoiser(), tmp_path / "run.jsonl")
    gk.sinks.jsonl(log).rewind(50)
    report = gk.monitor_report(log, out=tmp_path / "out")
    assert report.trace.steps.tolist() == [0, 10, 20, 30, 40] and [a.step for a in report.trace.alerts] == [40]
    assert gk.open_run(tmp_path / "out").summary() == report.summary()


def test_traces_and_monitors_in_memory_and_names_of_others(no_figures: None) -> None:
    trace = logs.unknown()
    report = gk.monitor_report(trace)
    assert report.summary()["watched"] == "flow" and "flow, 0 alerts" in repr(report)
    trace.readings.clear()  # the report is of what was there
    assert len(report.trace) == 4
    page = monitor_page(report.trace, {}, {})
    assert "4 readings of a flow" in page and "The log does not say which rules were asked." in page


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no log"):
        gk.monitor_report(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"holds 0 monitors' logs \(none\)"):
        gk.monitor_report(tmp_path)
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no monitor's log"):
        gk.monitor_report(tmp_path / "other.jsonl")
    with pytest.raises(InputError, match="a monitor report is of a log"):
        gk.monitor_report(3)  # type: ignore[arg-type]


def test_a_folder_with_one_log_is_enough(tmp_path: Path, no_figures: None) -> None:
    logs.write(logs.gan(2), tmp_path / "a.jsonl")
    assert gk.monitor_report(tmp_path).summary()["watched"] == "gan"
    logs.write(logs.gan(2), tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="holds 2 monitors' logs"):
        gk.monitor_report(tmp_path)


def test_the_headline_names_what_is_missing_and_what_it_cost() -> None:
    trace = logs.denoiser()
    first, cost, missing = headline(trace)
    assert first == "8 readings of a denoiser over steps 0 to 70."
    assert cost == "Readings took 1.5 % of the time of everything else, 0.01 s each."
    assert missing.startswith("1 reading is incomplete: kernel could not be read (at step 30;")
    assert alert_lines(trace) == [
        "Step 40: something of my own.",
        "Step 50: the loss at t = 600 rises since step 30.",
    ]
    trace.alerts += [Alert("mine", f"step {k}: again", k, k) for k in range(9)]
    assert alert_lines(trace)[-1] == "5 more are in the table."
    assert [number.value for number in key_numbers(trace)][:3] == ["8", "10 steps", "1.5 %"]


def test_the_state_follows_alerts_and_rules() -> None:
    trace = logs.denoiser()
    assert state(trace).level == "collapsing" and state(trace).label == "2 alerts"
    trace.alerts.pop()
    assert state(trace).level == "watch" and state(trace).label == "1 alert"
    trace.alerts.clear()
    assert state(trace).meaning == "None of 1 rule had anything to say."
    trace.header.settings["rules"] = []
    assert state(trace).label == "no rules"
    assert state(logs.denoiser(0)).label == "no readings"


def test_tables_count_what_is_missing() -> None:
    trace = logs.denoiser()
    assert problem_table(trace).rows == [["kernel", "NonFiniteError", "1", "30", "30", "outputs at t = 999 are NaN"]]
    gaps = {row[0]: row[1:] for row in missing_table(trace).rows}
    assert gaps["gradient/conflicts"] == ["0", "0", "1", "20", "20"]
    assert gaps["kernel/drift"] == ["0", "1", "0", "0", "0"]
    assert gaps["weights/moved"][1] == "40" and "loss/mean" not in gaps
    assert weight_table(trace).rows == []
    bad = np.zeros(40)
    bad[4] = 3
    trace.readings.append(Reading(80, 1.0, 0.1, {"loss/mean": math.nan}, {"weights/nonfinite": bad}))
    assert weight_table(trace).rows == [["blocks.2.conv.weight", "3", "80"]]
    assert {row[0]: row[1] for row in missing_table(trace).rows}["kernel/locality"] == "1"
    (row, _) = alert_table(trace).rows
    assert row[:5] == ["loss/spike", "50", "30", "warning", "t = 600"]
    assert alert_table(trace).rows[1][4:] == ["everywhere", "something of my own", "rise 2"]


def test_the_page_escapes_what_a_log_says(no_figures: None) -> None:
    trace = logs.denoiser()
    trace.alerts.append(Alert("<b>", "<script>alert(1)</script>", 70, 70))
    assert "<script>" not in monitor_page(trace, {}, {})

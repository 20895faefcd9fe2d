"""``genkernel monitor``: a report of a log, and the log as it grows."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import genkernel as gk
from genkernel.cli.app import run
from genkernel.errors import InputError
from genkernel.monitor import Reading
from genkernel.report.monitor_live import BARS, Follower, frame, sparkline, watch
from tests.plots import monitor_logs as logs


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log, without its figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genkernel.plots.monitor.monitor_figures", lambda trace: {})
    Path("mine").mkdir()
    logs.write(logs.denoiser(), Path("mine/monitor.jsonl"))
    return tmp_path


def shown(follower: Follower, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(frame(follower, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: genkernel monitor" in said and "--live" in said and "--once" in said


def test_a_log_is_called_after_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "mine/monitor.jsonl"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "8 readings of a denoiser over steps 0 to 70."
    assert "2 alerts: 1 of them cannot be chance." in said.out and not said.err
    assert said.out.endswith("report: genkernel-mine-monitor/index.html\n")
    assert gk.open_run("genkernel-mine-monitor").kind == "monitor"
    assert run(["monitor", "mine"]) == 0  # again, and by its folder: replaced


def test_other_names_places_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/monitor.jsonl").rename("run-7.jsonl")
    assert run(["monitor", "run-7.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["readings"] == 8
    assert Path("genkernel-run-7-monitor/index.html").is_file()
    assert run(["monitor", "run-7.jsonl", "--out", "there"]) == 0
    assert Path("there/monitor.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "there is no log none.jsonl"),
        (["mine", "--once"], "--once is of --live"),
        (["mine", "--live", "--json"], "leave out --json and --out"),
        (["mine", "--live"], "--live needs a terminal"),
        (["other.jsonl"], "no monitor's log"),
        (["other.jsonl", "--live", "--once"], "no monitor's log"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.jsonl").write_text("something else\n")
    assert run(["monitor", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out


def test_one_frame(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "mine", "--live", "--once"]) == 0
    said = capsys.readouterr().out
    assert "denoiser step 70 · 8 readings · overhead 1.5 % · last reading 0.01 s" in said
    (line,) = (line for line in said.splitlines() if line.strip().startswith("loss/mean"))
    assert "█" in line and "0.355" in line and line.index("█") < line.index("▁")
    assert "loss/spike (since 30): the loss at t = 600 rises since step 30" in said
    assert max(map(len, said.splitlines())) <= 80
    assert run(["monitor", "none.jsonl", "--live", "--once"]) == 0
    assert "waiting for none.jsonl: there is no log yet" in capsys.readouterr().out


def test_a_log_is_followed_as_it_grows() -> None:
    path = Path("grows.jsonl")
    follower = Follower(path)
    assert not follower.look() and "waiting for grows.jsonl" in shown(follower)
    trace = logs.denoiser(4)
    sink = gk.sinks.jsonl(path)
    sink.open(trace.header)
    assert follower.look() and "no reading yet" in shown(follower)
    sink.reading(trace.readings[0])
    whole = path.read_bytes()
    sink.reading(trace.readings[1])
    after = path.read_bytes()
    path.write_bytes(after[: len(whole) + 50])  # the second is still being written
    assert follower.look() and follower.trace is not None and len(follower.trace) == 1
    assert not follower.look()
    with path.open("ab") as stream:
        stream.write(after[len(whole) + 50 :])
    assert follower.look() and len(follower.trace) == 2 and "step 10 · 2 readings" in shown(follower)
    assert follower.trace.last.scalars == trace.readings[1].scalars and not follower.trace.last.arrays
    sink.rewind(10)
    assert follower.look() and len(follower.trace) == 1
    with path.open("ab") as stream:
        stream.write(b'{"type": "rea\n')  # of a run that was killed
    assert follower.look() and follower.damaged == 1 and "1 damaged line left out" in shown(follower)


def test_another_file_of_that_name_begins_again() -> None:
    path = Path("mine/monitor.jsonl")
    follower = Follower(path)
    follower.look()
    logs.write(logs.gan(2), Path("new.jsonl"))
    os.replace("new.jsonl", path)
    assert follower.look() and follower.trace is not None and follower.trace.header.kind == "gan"
    path.unlink()
    assert follower.look() and follower.trace is None and not follower.look()


def test_following_agrees_with_reading_the_log() -> None:
    follower = Follower("mine/monitor.jsonl")
    follower.look()
    trace = gk.monitor_report("mine/monitor.jsonl").trace
    assert follower.trace is not None and follower.trace.alerts == trace.alerts
    assert [reading.step for reading in follower.trace.readings] == trace.steps.tolist()


def test_no_log_and_newer_logs_are_refused() -> None:
    Path("a.jsonl").write_text('{"type": "reading", "reading": {}}\n')
    with pytest.raises(InputError, match="no monitor's log"):
        Follower("a.jsonl").look()
    Path("b.jsonl").write_text('{"type": "header", "header": {"schema_version": 99}}\n')
    with pytest.raises(InputError, match="schema version 99"):
        Follower("b.jsonl").look()


def test_the_view_follows_until_it_is_interrupted() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=90, height=40)
    sink = gk.sinks.jsonl("mine/monitor.jsonl")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            sink.reading(Reading(80, 9.0, 0.01, {"loss/mean": math.nan}))
        if len(waits) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch("mine/monitor.jsonl", console, refresh=0.5, sleep=sleep)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert waits == [0.5, 0.5, 0.5] and "9 readings" in said
    assert said.endswith("\x1b[?25h")  # the cursor is back


def test_ctrl_c_ends_it_without_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("genkernel.report.monitor_live.watch", interrupted)
    assert run(["monitor", "mine", "--live"]) == 0
    assert "the training goes on" in capsys.readouterr().err


def test_courses_in_a_line() -> None:
    assert sparkline(range(8), 8) == BARS
    assert sparkline([1.0, math.nan, math.inf, 1.0], 9) == "▅··▅"
    assert sparkline(np.geomspace(1, 1e7, 8), 8) == BARS  # logarithmic
    assert len(sparkline(np.arange(1000), 20)) == 20 and sparkline([], 5) == "" and sparkline([math.nan], 5) == "·"

"""Logs of monitors: what a killed, a continued or a damaged run leaves behind, read back."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError, MissingError, OutputError
from genkernel.monitor import Alert, Axis, Trace, read_log, sinks
from genkernel.monitor.log import LogWriter
from tests.monitor.toy import Always, ToyWatch, alert, header, reading


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monitor.jsonl"


def write(path: Path, *steps: int, **kind: Any) -> None:
    sink = sinks.jsonl(path)
    sink.open(header(**kind))
    for step in steps:
        sink.reading(reading(step, loss=float(step), problem=step == 20))


def test_everything_comes_back(path: Path) -> None:
    sink = sinks.jsonl(path)
    sink.open(header())
    sink.reading(reading(10, problem=True))
    sink.alert(alert(10))
    trace = read_log(path)
    assert (trace.header, trace.alerts) == (header(), [alert(10)])
    (found,) = trace.readings
    assert (found.step, found.seconds, found.problems) == (10, 0.01, reading(10, problem=True).problems)
    assert found.scalars["gradient/total"] == math.inf and math.isnan(found.scalars["kernel/drift"])
    for name, values in reading(10).arrays.items():  # NaN and infinities among them
        np.testing.assert_array_equal(found.arrays[name], values)


def test_lines_are_there_at_once(path: Path) -> None:
    write(path, 0, 10)
    assert [json.loads(line)["type"] for line in path.read_text().splitlines()] == ["header", "reading", "reading"]


@pytest.mark.parametrize("lost", [1, 5, 200])
def test_a_killed_run_loses_at_most_the_line_it_was_writing(path: Path, lost: int) -> None:
    write(path, 0, 10, 20)
    path.write_bytes(path.read_bytes()[:-lost])
    assert read_log(path).steps.tolist() == ([0, 10, 20] if lost == 1 else [0, 10])


@pytest.mark.parametrize("lost", [0, 1, 60])
def test_a_run_is_continued(path: Path, lost: int) -> None:
    write(path, 0, 10, 20)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - lost])
    write(path, 10, 30)  # from the checkpoint at 5
    trace = read_log(path)
    assert trace.steps.tolist() == [0, 10, 30]
    assert path.read_text().count('"type": "header"') == 2


def test_a_step_back(path: Path) -> None:
    sink = sinks.jsonl(path)
    sink.open(header())
    for step in (0, 10, 20):
        sink.reading(reading(step))
        sink.alert(alert(step))
    sink.rewind(10)
    trace = read_log(path)
    assert trace.steps.tolist() == [0] and [a.step for a in trace.alerts] == [0]


def test_another_run_is_not_mixed_in(path: Path) -> None:
    write(path, 0, 10)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the log of another denoiser"):
        sinks.jsonl(path).open(header(kind="gan"))
    watch = ToyWatch()
    watch.axes = {"level": Axis("level", ["t = 0", "t = 20"], [0.0, 20.0], "timestep")}
    with pytest.raises(InputError, match=r"\(level\): choose another name"):  # said when the monitor is made
        gk.Monitor(watch, sink=path)
    assert path.read_bytes() == before


def test_a_run_that_is_continued_knows_what_was_read_before(path: Path) -> None:
    def run(*steps: int | None, **options: Any) -> gk.Monitor:
        mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, **options)
        for step in steps:
            mon.step(step)
        return mon

    run(*range(6), rules=[Always()])
    again = run(4, 5, 6, rules=[Always()])  # from the checkpoint after step 3
    assert again.trace.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert [alert.step for alert in again.alerts] == [0, 1, 2, 3, 4, 5, 6]
    assert read_log(path).steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    counted = run(None, None, rules=[])  # steps that are not named are counted on
    assert counted.trace.steps.tolist() == read_log(path).steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    same = run(8, rules=[])  # the reading at the checkpoint itself is taken again
    assert same.trace.steps.tolist() == read_log(path).steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_what_was_told_before_a_restart_is_no_news(path: Path) -> None:
    class Everywhere:
        name = "everywhere"

        def check(self, seen: Trace) -> list[Alert]:
            return [Alert("everywhere", "m", seen.last.step, 0)]

    for steps in (range(5), range(5, 8)):
        mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, rules=[Everywhere()])
        for step in steps:
            mon.step(step)
    assert [alert.step for alert in mon.alerts] == [0]


def test_going_back_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, rules=[])
    for _ in range(3):
        for step in range(4):
            mon.step(step)
    [record] = caplog.records
    assert "went back from step 3 to 0: 4 readings from there on are forgotten" in record.getMessage()


def test_two_monitors_do_not_mix_their_readings(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, rules=[])
    first.step(0)
    second = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, rules=[])
    for step in (1, 2):
        second.step(step)
        first.step(100 + step)
    assert read_log(path).steps.tolist() == [0, 1, 2]
    assert sum("another monitor writes to the log" in record.getMessage() for record in caplog.records) == 1


def test_other_probes_are_another_run(path: Path) -> None:
    gk.Monitor(network(), data=torch.zeros(8, 3), targets=torch.arange(8) % 2, sink=path)
    gk.Monitor(network(), data=torch.zeros(8, 3), targets=torch.arange(8) % 2, sink=path, every=7, max_overhead=None)
    with pytest.raises(InputError, match=r"watched in another way \(data\)"):
        gk.Monitor(network(), data=torch.ones(8, 3), targets=torch.arange(8) % 2, sink=path)
    with pytest.raises(InputError, match=r"\(seed\)"):
        gk.Monitor(network(), data=torch.zeros(8, 3), targets=torch.arange(8) % 2, sink=path, seed=1)


def network() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def test_a_log_that_was_removed_is_begun_again(path: Path) -> None:
    mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, rules=[])
    mon.step(0)
    path.unlink()
    mon.step(1)
    mon.step(2)
    assert read_log(path).steps.tolist() == [1, 2]


@pytest.mark.parametrize("left", [12, 17, 40])
def test_a_run_that_was_killed_in_its_first_line_can_begin_again(path: Path, left: int) -> None:
    write(path, 0)
    path.write_bytes(path.read_bytes()[:left])
    write(path, 10)
    assert read_log(path).steps.tolist() == [10]


def test_a_damaged_line_can_be_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, 0, 10, 20)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{", *lines[2:]]) + "\n")
    assert read_log(path, strict=False).steps.tolist() == [0, 10, 20]
    assert "line 3 is damaged, and left out" in caplog.text


def test_a_run_that_was_killed_twice_while_it_wrote_goes_on(path: Path) -> None:
    write(path, 0, 10)
    whole = path.read_bytes()
    first = whole.split(b"\n")[0]
    path.write_bytes(whole[:-40] + b"\n" + first[:60])
    write(path, 10)
    assert read_log(path).steps.tolist() == [0, 10]


def test_a_log_from_before_an_axis_was_added_is_continued(path: Path) -> None:
    write(path, 0)
    watch = ToyWatch()
    watch.axes = {**watch.axes, "time": Axis("time", ["t = 0"])}
    mon = gk.Monitor(watch, every=1, max_overhead=None, sink=path, rules=[])
    mon.step(1)
    assert mon.trace.steps.tolist() == read_log(path).steps.tolist() == [0, 1]


def test_places_that_mean_something_else_in_every_process_are_not_compared(path: Path) -> None:
    watch = ToyWatch()
    watch.settings = {"new_axes": ["level"]}
    for step in (0, 1):
        mon = gk.Monitor(watch, every=1, max_overhead=None, sink=path, rules=[])
        mon.step(step)
    assert [set(reading.arrays) for reading in mon.trace.readings] == [set(), {"loss/level"}]
    assert [reading.scalars["loss/mean"] for reading in mon.trace.readings] == [1.0, 1.0]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on files here")
@pytest.mark.parametrize("size", [3000, 20_000])
def test_a_disk_that_was_full_for_a_while_leaves_whole_lines(path: Path, size: int) -> None:
    import resource

    ignored, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = LogWriter(path)
    writer.write("header", {"schema_version": 1})
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, limits[1]))
        with pytest.raises(OutputError):
            writer.write("rewind", "x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    writer.write("rewind", 1)
    assert path.read_bytes().count(b"\n") == 2


def test_an_empty_file(path: Path) -> None:
    path.touch()
    with pytest.raises(InputError, match="it is empty"):
        read_log(path)


@pytest.mark.parametrize("content", [b"step,loss\n0,1\n", b"{}\n", b"[1]\n", b"\x80\x02weights" * 100, b"null"])
def test_a_file_that_is_no_log(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="no monitor's log"):
        read_log(path)
    with pytest.raises(InputError, match="choose another name"):
        sinks.jsonl(path)
    assert path.read_bytes() == content


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="there is no log"):
        read_log(tmp_path / "none.jsonl")


def test_the_folder_of_a_log_is_made(tmp_path: Path) -> None:
    sinks.jsonl(tmp_path / "runs" / "one" / "monitor.jsonl")
    assert (tmp_path / "runs" / "one").is_dir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        sinks.jsonl(tmp_path / "file" / "monitor.jsonl")


def test_a_folder_with_one_log(path: Path) -> None:
    (path.parent / "other.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(InputError, match="holds 0 monitors' logs"):
        read_log(path.parent)
    write(path, 0)
    assert len(read_log(path.parent)) == 1
    write(path.parent / "second.jsonl", 0)
    with pytest.raises(InputError, match=r"monitor.jsonl, second.jsonl\): name one"):
        read_log(path.parent)


def test_a_newer_schema(path: Path) -> None:
    write(path, 0)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(InputError, match="schema version 99, this genkernel reads up to 1: use a newer one"):
        read_log(path)


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "reading", "read', '{"type": "reading"}', '{"type": "reading", "reading": {"step": 1}}', "[]", "7",
        '{"type": "rewind", "rewind": "soon"}', '{"type": "song", "song": 1}', '{"type": "header", "header": 3}',
    ],
)  # fmt: skip
def test_damage_in_the_midst_is_named(path: Path, line: str) -> None:
    write(path, 0, 10, 20)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError) as failure:
        read_log(path)
    assert str(failure.value).startswith(str(path))
    assert "line 3" in str(failure.value) or "schema" in str(failure.value)


def test_half_a_line_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full for a while leaves a log that can be read."""
    write(path, 0)
    writer = LogWriter(path)
    whole = Path.open

    class Full:
        def __init__(self, stream: Any):
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, line: bytes) -> None:
            self.stream.write(line[: len(line) // 2])
            self.stream.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda self, mode, **rest: Full(whole(self, mode, **rest)))
    with pytest.raises(OutputError, match="the disk is full"):
        writer.write("rewind", 0)
    monkeypatch.undo()
    write(path, 10)
    assert read_log(path).steps.tolist() == [0, 10]


def test_a_disk_that_cannot_be_written_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="genkernel"):
        mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink="/dev/full", rules=[])
        for step in range(4):
            mon.step(step)
    assert len(mon.trace) == 4  # the training and the readings went on
    assert [record.getMessage().count("the disk is full") for record in caplog.records] == [1]


def test_a_log_that_could_be_opened_late_has_its_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LogWriter, kind: str, content: Any) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "write", full)
        mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=path, rules=[])
        mon.step(0)
    mon.step(1)
    assert read_log(path).steps.tolist() == [1]

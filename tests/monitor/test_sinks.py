"""Sinks: every service gets the same numbers under the same names, and keeps what is its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genkernel as gk
from genkernel.errors import InputError
from genkernel.monitor import Axis, Header, Reading, read_log, sinks
from genkernel.monitor.sinks import Sink, as_sinks
from genkernel.monitor.trace import flat_scalars
from tests.monitor.toy import Always, ToyWatch, alert, header, reading

NAMES = {"loss/mean", "kernel/drift", "gradient/total", "loss/level/t=0", "loss/level/t=10"}
FINITE = {"loss/mean", "loss/level/t=0"}


def feed(sink: Sink) -> None:
    sink.open(header())
    sink.reading(reading(0))
    sink.reading(reading(10, loss=0.25, problem=True))
    sink.alert(alert(10))
    sink.rewind(5)


class WandbRun:
    """What ``wandb.Run`` does with rows: a row is closed by a commit, and what comes for a closed one is dropped."""

    def __init__(self) -> None:
        self.step, self.rows, self.defined, self.said = 0, {}, [], []

    def log(self, values: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        if step is not None and step < self.step:
            return
        if step is not None:
            self.step = step
        self.rows.setdefault(self.step, {}).update(values)
        self.step += commit if commit is not None else step is None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.defined.append((name, step_metric))

    def alert(self, title: str, text: str) -> None:
        self.said.append((title, text))


class TrackioRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert step is None
        self.rows.append(metrics)


def test_names_are_the_same_everywhere() -> None:
    calls: list[tuple[int, dict[str, float]]] = []
    run, other = WandbRun(), TrackioRun()
    for sink in (sinks.function(lambda *given: calls.append(given)), sinks.wandb(run), sinks.trackio(other)):
        feed(sink)
    assert [set(values) for _, values in calls] == [NAMES, NAMES]
    wanted = {f"genkernel/{name}" for name in FINITE} | {"genkernel/step"}
    assert set(other.rows[0]) == wanted and set(run.rows[0]) == wanted
    assert set(flat_scalars(header(), reading(0))) == NAMES


def test_arrays_along_many_positions_are_three_curves() -> None:
    axes = {"parameter": Axis("parameter", [f"p{i}" for i in range(40)])}
    made = Header("gan", axes, {"weights/moved": ["parameter"], "weights/size": ["parameter"]})
    moved = np.arange(40.0)
    moved[7] = np.nan
    found = flat_scalars(made, Reading(0, 0.0, 0.0, {}, {"weights/moved": moved, "weights/size": np.full(40, np.nan)}))
    assert found == {"weights/moved/smallest": 0.0, "weights/moved/median": 20.0, "weights/moved/largest": 39.0}


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        sink = sinks.tensorboard(writer)
        feed(sink)
        writer.add_scalar("mine", 1.0, 11)  # it is still open
    found = EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {f"genkernel/{name}" for name in NAMES} | {"mine"}
    losses = found.Scalars("genkernel/loss/mean")
    assert [(event.step, event.value) for event in losses] == [(0, 0.5), (10, 0.25)]
    assert math.isnan(found.Scalars("genkernel/kernel/drift")[0].value)
    (words,) = found.Tensors("genkernel/alerts/text_summary")
    assert words.step == 10 and words.tensor_proto.string_val == [b"the loss rises since 10"]
    (problem,) = found.Tensors("genkernel/problems/text_summary")
    assert problem.tensor_proto.string_val == [b"time: no"]


def test_tensorboard_takes_a_writer() -> None:
    with pytest.raises(InputError, match="takes a SummaryWriter that you opened, not str"):
        sinks.tensorboard("runs/")


def test_wandb() -> None:
    run = WandbRun()
    feed(sinks.wandb(run))
    assert run.defined == [("genkernel/step", None), ("genkernel/*", "genkernel/step")]
    assert [row["genkernel/step"] for row in run.rows.values()] == [0, 10]  # each reading in a row of its own
    assert run.rows[1]["genkernel/alerts/loss rises"] == 1.0
    assert run.said == [("loss rises", "the loss rises since 10")]
    assert all(math.isfinite(value) for row in run.rows.values() for value in row.values())


@pytest.mark.parametrize("between", [1, 3])
def test_wandb_drops_nothing_of_the_user(between: int) -> None:
    """Whoever logs with ``step=`` finds every number, at whatever steps the monitor reads."""
    run = WandbRun()
    mon = gk.Monitor(ToyWatch(), every=2, max_overhead=None, sink=sinks.wandb(run), rules=[Always()])
    for step in range(20):
        if step % between == 0:
            run.log({"mine": step}, step=step)
        mon.step(step)
    mine = [row["mine"] for row in run.rows.values() if "mine" in row]
    assert mine == list(range(0, 20, between))
    ours = [row["genkernel/step"] for row in run.rows.values() if "genkernel/step" in row]
    assert ours == mon.trace.steps.tolist()


def test_wandb_of_one_who_logs_nothing_or_without_steps() -> None:
    for logs in (0, 1, 5):
        run = WandbRun()
        mon = gk.Monitor(ToyWatch(), every=2, max_overhead=None, sink=sinks.wandb(run), rules=[])
        for step in range(10):
            for i in range(logs):
                run.log({"mine": (step, i)})
            mon.step(step)
        assert sum("mine" in row for row in run.rows.values()) == 10 * logs
        assert [row["genkernel/step"] for row in run.rows.values() if "genkernel/step" in row] == [0, 2, 4, 6, 8]


def test_wandb_and_trackio_take_a_run() -> None:
    class Module:
        log = staticmethod(print)

    with pytest.raises(InputError, match=r"takes the run that wandb\.init returned"):
        sinks.wandb(Module())
    for take, name in ((sinks.wandb, "wandb"), (sinks.trackio, "trackio")):
        with pytest.raises(InputError, match=rf"{name}\(\) takes a run that you opened, with a log method, not str"):
            take("project")


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = trackio.init(project="monitors", name="one", embed=False)
    feed(sinks.trackio(run))
    run.log({"mine": 1.0})
    trackio.finish()
    rows = SQLiteStorage.get_logs("monitors", "one")
    assert [row["genkernel/loss/mean"] for row in rows if "genkernel/loss/mean" in row] == [0.5, 0.25]
    assert rows[-1]["mine"] == 1.0


def test_functions() -> None:
    read, said = [], []
    sink = sinks.function(lambda step, values: read.append((step, values["loss/mean"])), said.append)
    feed(sink)
    assert read == [(0, 0.5), (10, 0.25)] and said == [alert(10)]
    for bad in (("x",), (print, "x")):
        with pytest.raises(InputError, match="called with"):
            sinks.function(*bad)  # type: ignore[arg-type]


def test_several_at_once(tmp_path: Path) -> None:
    steps: list[int] = []
    own = TrackioRun()
    given = [tmp_path / "a.jsonl", str(tmp_path / "b.jsonl"), [lambda step, _: steps.append(step)], sinks.trackio(own)]
    mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=given, rules=[Always()])
    mon.step(0)
    assert mon.step(1).message == "it is 1"
    for name in "ab":
        trace = read_log(tmp_path / f"{name}.jsonl")
        assert trace.steps.tolist() == [0, 1] and [a.step for a in trace.alerts] == [0, 1]
    assert steps == [0, 1] and [row["genkernel/step"] for row in own.rows] == [0, 0, 1, 1]


def test_a_sink_that_fails_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def lost(step: int, values: dict[str, float]) -> None:
        raise ConnectionError("no route")

    mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, sink=[lost, tmp_path / "log.jsonl"], rules=[])
    for step in range(3):
        mon.step(step)
    assert len(read_log(tmp_path / "log.jsonl")) == 3
    assert [record.getMessage().count("no route") for record in caplog.records] == [1]


def test_none_of_them() -> None:
    assert as_sinks(None) == []
    with pytest.raises(InputError, match=r"sink= is one of gk\.sinks"):
        as_sinks(3)

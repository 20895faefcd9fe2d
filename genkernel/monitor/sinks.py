"""Where readings go: TensorBoard, Weights & Biases, Trackio, a log file, or a function.

Every sink gets the same names. None opens a run of its own accord: TensorBoard's writer and the run of Weights &
Biases or Trackio are the user's, and are neither finished nor closed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from genkernel.errors import InputError
from genkernel.monitor.log import ALERT, HEADER, READING, REWIND, LogWriter
from genkernel.monitor.trace import Alert, Header, Reading, Trace, flat_scalars
from genkernel.runs.codec import pack

PREFIX = "genkernel/"  # of the names in services that hold the user's own numbers as well


@runtime_checkable
class Sink(Protocol):
    """Takes what a monitor finds, as it finds it."""

    def open(self, header: Header) -> Trace | None:
        """Called once, when the monitor is made.

        Returns:
            Trace: what an earlier part of this run has read; None where nothing is known of one.

        Raises:
            InputError: this sink holds something that cannot be continued with these readings.
        """
        ...

    def reading(self, reading: Reading) -> None:
        """A new reading."""
        ...

    def alert(self, alert: Alert) -> None:
        """A rule has fired."""
        ...

    def rewind(self, step: int) -> None:
        """The training went back: what was read at this step and later does not count."""
        ...


class _Scalars:
    """What services for scalars share: readings as numbers by name."""

    def __init__(self, prefix: str = PREFIX):
        self.prefix = prefix
        self._header: Header | None = None

    def open(self, header: Header) -> None:
        self._header = header

    def rewind(self, step: int) -> None:
        """These services keep what they were given."""

    def _flat(self, reading: Reading) -> dict[str, float]:
        assert self._header is not None
        return {f"{self.prefix}{name}": value for name, value in flat_scalars(self._header, reading).items()}


class _TensorBoard(_Scalars):
    def __init__(self, writer: Any, prefix: str):
        super().__init__(prefix)
        self._writer = writer

    def reading(self, reading: Reading) -> None:
        for name, value in self._flat(reading).items():
            self._writer.add_scalar(name, value, reading.step)
        for problem in reading.problems:
            self._writer.add_text(f"{self.prefix}problems", f"{problem.part}: {problem.message}", reading.step)

    def alert(self, alert: Alert) -> None:
        self._writer.add_text(f"{self.prefix}alerts", alert.message, alert.step)


class _Run(_Scalars):
    """Weights & Biases and Trackio: ``log`` takes a dictionary, and counts the calls."""

    def __init__(self, run: Any, prefix: str):
        super().__init__(prefix)
        self._run = run

    def reading(self, reading: Reading) -> None:
        finite = {name: value for name, value in self._flat(reading).items() if math.isfinite(value)}
        self._log({**finite, f"{self.prefix}step": reading.step})

    def alert(self, alert: Alert) -> None:
        self._beside({f"{self.prefix}alerts/{alert.rule}": 1.0, f"{self.prefix}step": alert.step})
        if callable(say := getattr(self._run, "alert", None)):
            say(title=alert.rule, text=alert.message)

    def _log(self, values: dict[str, float]) -> None:
        """A row of its own."""
        self._run.log(values)

    def _beside(self, values: dict[str, float]) -> None:
        """More of the row that was logged last, where the service can do that."""
        self._run.log(values)


class _Wandb(_Run):
    """Weights & Biases: numbers join the row that is open, and only a row that nobody else has closed is closed here.

    Closing it each time would move the counter of steps past the user's own, whose next ``log(..., step=...)`` would
    then be dropped.
    """

    _open: int | None = None  # the row that holds the last reading

    def _log(self, values: dict[str, float]) -> None:
        if self._open is not None and self._run.step == self._open:
            self._run.log({}, commit=True)
        self._beside(values)

    def _beside(self, values: dict[str, float]) -> None:
        self._run.log(values, commit=False)
        self._open = self._run.step


class _Jsonl:
    def __init__(self, path: str | Path):
        self._writer = LogWriter(path)
        self._header: Header | None = None
        self._pending = False  # whether it has to be written

    def open(self, header: Header) -> Trace | None:
        earlier = self._writer.check(header)
        self._header, self._pending = header, True
        self._write_header()
        return earlier

    def reading(self, reading: Reading) -> None:
        self._write(READING, pack(reading))

    def alert(self, alert: Alert) -> None:
        self._write(ALERT, pack(alert))

    def rewind(self, step: int) -> None:
        self._write(REWIND, step)

    def _write(self, kind: str, content: Any) -> None:
        if not self._writer.begun():  # the disk was full when it was opened, or somebody has removed it since
            self._pending = True
        self._write_header()
        self._writer.write(kind, content)

    def _write_header(self) -> None:
        if self._pending and self._header is not None:
            self._writer.write(HEADER, pack(self._header))
            self._pending = False


class _Function(_Scalars):
    def __init__(self, function: Callable[[int, dict[str, float]], Any], alert: Callable[[Alert], Any] | None):
        super().__init__("")
        self._function, self._alert = function, alert

    def reading(self, reading: Reading) -> None:
        self._function(reading.step, self._flat(reading))

    def alert(self, alert: Alert) -> None:
        if self._alert is not None:
            self._alert(alert)


def tensorboard(writer: Any, prefix: str = PREFIX) -> Sink:
    """To a TensorBoard writer of yours (``torch.utils.tensorboard.SummaryWriter``, or Lightning's ``experiment``).

    Arrays along one axis become a scalar per entry (``genkernel/loss/level/t=249``); alerts and problems are texts.

    Raises:
        InputError: the object is no such writer.
    """
    if not all(callable(getattr(writer, name, None)) for name in ("add_scalar", "add_text")):
        raise InputError(f"tensorboard() takes a SummaryWriter that you opened, not {type(writer).__name__}")
    return _TensorBoard(writer, prefix)


def wandb(run: Any, prefix: str = PREFIX) -> Sink:
    """To a run of Weights & Biases that you opened (what ``wandb.init`` returned).

    Numbers are logged beside a step of their own, ``genkernel/step``, because a monitor may read at another moment
    than you log; ``run.define_metric`` ties them together. They join the row that is open, so that your own
    ``run.log(..., step=...)`` is never behind the run's counter. What is NaN or infinite is left out, which the count
    ``genkernel/health/nonfinite`` says.

    Raises:
        InputError: the object is no run.
    """
    _check_run(run, "wandb")
    if not hasattr(run, "step"):
        raise InputError(f"wandb() takes the run that wandb.init returned, not {getattr(run, '__name__', run)!r}")
    if callable(define := getattr(run, "define_metric", None)):
        define(f"{prefix}step")
        define(f"{prefix}*", step_metric=f"{prefix}step")
    return _Wandb(run, prefix)


def trackio(run: Any, prefix: str = PREFIX) -> Sink:
    """To a Trackio run (what ``trackio.init`` returned, or the module itself, which logs to the run it opened).

    Numbers are logged in a row of their own, with the step of the training as ``genkernel/step``; what is NaN or
    infinite is left out.

    Raises:
        InputError: the object has no ``log``.
    """
    _check_run(run, "trackio")
    return _Run(run, prefix)


def jsonl(path: str | Path) -> Sink:
    """To a log of our own, one JSON object per line, which ``genkernel monitor`` renders.

    It holds everything, matrices too. A file that is there is continued.

    Raises:
        MissingError, InputError, OutputError: the folder does not exist, the file is something else, or cannot be
            written.
    """
    return _Jsonl(path)


def function(read: Callable[[int, dict[str, float]], Any], alert: Callable[[Alert], Any] | None = None) -> Sink:
    """To functions: ``read(step, numbers by name)`` and ``alert(alert)``.

    Raises:
        InputError: one of them cannot be called.
    """
    if not callable(read) or not (alert is None or callable(alert)):
        raise InputError("function() takes what is called with (step, numbers), and what is called with an alert")
    return _Function(read, alert)


def as_sinks(given: Any) -> list[Sink]:
    """What was passed as ``sink=``: None, a sink, a path of a log, a function, or several of these.

    Raises:
        InputError: it is something else.
    """
    if given is None:
        return []
    if isinstance(given, (str, Path)):
        return [jsonl(given)]
    if isinstance(given, Sink):
        return [given]
    if isinstance(given, Sequence):
        return [sink for one in given for sink in as_sinks(one)]
    if callable(given):
        return [function(given)]
    raise InputError(
        f"sink= is one of gk.sinks (such as gk.sinks.jsonl(path)), a path, a function or a list of these, not "
        f"{type(given).__name__}"
    )


def _check_run(run: Any, name: str) -> None:
    if not callable(getattr(run, "log", None)):
        raise InputError(f"{name}() takes a run that you opened, with a log method, not {type(run).__name__}")

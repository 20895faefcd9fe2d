"""A monitor's log as it grows, in a terminal: the newest numbers, their course in a line, and the latest alerts."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.monitor.log import ALERT, HEADER, LONGEST, READING, REWIND
from genkernel.monitor.trace import SCHEMA_VERSION, Alert, Header, Reading, Trace
from genkernel.plots.monitor_course import is_logarithmic, topic, topics
from genkernel.plots.style import number
from genkernel.runs.codec import unpack

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
ALERTS = 4  # that are shown
REFRESH = 1.0  # seconds between two looks at the file
SILENT = ("health/nonfinite", "health/problems", "monitor/overhead")  # said elsewhere


class Follower:
    """Reads what was appended to a log since the last look; arrays are left out, which makes long logs quick.

    Args:
        path: of the log, which may not be there yet.

    Attributes:
        trace: the readings so far, without their arrays; None before the header.
        damaged: whole lines that could not be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._restart()

    def _restart(self) -> None:
        self.trace: Trace | None = None
        self.damaged = 0
        self._offset = 0
        self._file: tuple[int, int] | None = None

    def look(self) -> bool:
        """Take in whole lines that are new; a line that is still being written waits for the next look.

        Returns:
            Whether anything is new.

        Raises:
            InputError: the file is no monitor's log, or of a newer version.
        """
        try:
            with self.path.open("rb") as stream:
                there = os.fstat(stream.fileno())
                if self._file not in (None, (there.st_dev, there.st_ino)) or there.st_size < self._offset:
                    self._restart()  # another file of this name
                self._file = (there.st_dev, there.st_ino)
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            gone = self.trace is not None
            self._restart()
            return gone
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        end = new.rfind(b"\n") + 1
        if not end and self.trace is None and len(new) > LONGEST:
            raise self._no_log()
        self._offset += end
        for line in new[:end].split(b"\n"):
            if line.strip():
                self._take(line)
        return bool(end)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            kind = entry["type"]
            content = entry[kind]
            if kind == HEADER:
                version = content["schema_version"]
                if isinstance(version, int) and version > SCHEMA_VERSION:
                    raise InputError(
                        f"{self.path} is a log of schema version {version}, this genkernel reads up to "
                        f"{SCHEMA_VERSION}: use a newer one"
                    )
                if self.trace is None:
                    self.trace = Trace(unpack(Header, content))
                return
        except (ValueError, KeyError, TypeError) as error:
            if self.trace is None:
                raise error if isinstance(error, InputError) else self._no_log() from error
            self.damaged += 1  # what a run that was killed has left
            return
        if self.trace is None:
            raise self._no_log()
        try:
            if kind == READING:
                reading = unpack(Reading, content | {"arrays": {}})
                self.trace.rewind(reading.step)
                self.trace.readings.append(reading)
            elif kind == ALERT:
                self.trace.alerts.append(unpack(Alert, content))
            elif kind == REWIND:
                self.trace.rewind(int(content))
            else:
                self.damaged += 1
        except (InputError, TypeError, ValueError):
            self.damaged += 1

    def _no_log(self) -> InputError:
        return InputError(f"{self.path} is no monitor's log: its first line is not the header that monitors write")


def frame(follower: Follower, width: int = 80) -> RenderableType:
    """What is shown of a log: how far it is, a line per number, the latest alerts and the last problems.

    Args:
        follower: of the log.
        width: of the terminal, in letters.
    """
    from rich.console import Group
    from rich.text import Text

    trace = follower.trace
    if trace is None:
        return Text(f"waiting for {follower.path}: there is no log yet", style="bold")
    if not len(trace):
        return Text(f"{trace.header.kind}: no reading yet in {follower.path}", style="bold")
    parts: list[RenderableType] = [_header(follower, trace), _numbers(trace, width)]
    for alert in trace.alerts[-ALERTS:][::-1]:
        style = "bold red" if alert.severity == "failure" else "bold yellow"
        parts.append(Text.assemble((f"! {alert.rule} ", style), f"(since {alert.since:,}): {_one_line(alert.message)}"))
    if len(trace.alerts) > ALERTS:
        parts.append(Text(f"  and {len(trace.alerts) - ALERTS} earlier alerts", style="dim"))
    if not trace.alerts:
        parts.append(Text("no alerts", style="green"))
    for problem in trace.last.problems:
        parts.append(Text.assemble((f"? {problem.part} ", "bold"), f"{problem.error}: {_one_line(problem.message)}"))
    if follower.damaged:
        lines = "1 damaged line" if follower.damaged == 1 else f"{follower.damaged} damaged lines"
        parts.append(Text(f"{lines} left out", style="dim"))
    return Group(*parts)


def watch(
    path: str | Path,
    console: Console,
    *,
    refresh: float = REFRESH,
    sleep: Callable[[float], Any] = time.sleep,
) -> None:
    """Follow a log in the terminal until it is interrupted.

    Args:
        path: of the log, which may not be there yet.
        console: a terminal.
        refresh: seconds between two looks at the file.
        sleep: waits so many seconds.

    Raises:
        InputError: the file is no monitor's log.
        KeyboardInterrupt: that is how it ends; the terminal is as before.
    """
    from rich.live import Live

    follower = Follower(path)
    follower.look()
    with Live(frame(follower, console.width), console=console, auto_refresh=False) as live:
        while True:
            sleep(refresh)
            if follower.look():
                live.update(frame(follower, console.width), refresh=True)


def sparkline(values: Sequence[float] | np.ndarray, width: int) -> str:
    """The course of a number in ``width`` letters at most: medians of neighbours, a dot where there is none.

    Logarithmic where it is positive and spans more than a decade.
    """
    values = np.asarray(values, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    blocks = np.array_split(values, min(width, len(values))) if len(values) else []
    medians = np.array([np.median(known) if len(known := b[np.isfinite(b)]) else math.nan for b in blocks])
    if is_logarithmic(medians):
        medians = np.log(medians)
    known = medians[np.isfinite(medians)]
    if not len(known):
        return GAP * len(medians)
    low, span = float(known.min()), float(np.ptp(known))
    heights = (medians - low) / span if span else np.where(np.isfinite(medians), 0.5, math.nan)
    return "".join(GAP if math.isnan(h) else BARS[min(int(h * len(BARS)), len(BARS) - 1)] for h in heights)


def _header(follower: Follower, trace: Trace) -> RenderableType:
    from rich.text import Text

    last = trace.last
    overhead = last.scalars.get("monitor/overhead", math.nan)
    words = [
        f"step {last.step:,}",
        f"{len(trace):,} reading{'' if len(trace) == 1 else 's'}",
        f"overhead {number(float(f'{100 * overhead:.2g}'))} %" if math.isfinite(overhead) else "",
        f"last reading {last.seconds:.2g} s, after {_duration(last.time)}",
        f"{last.scalars['health/nonfinite']:.0f} weights not finite" if last.scalars.get("health/nonfinite") else "",
    ]
    kind = f"{trace.header.kind} "
    return Text.assemble((kind, "bold"), " · ".join(w for w in words if w), (f"\n{follower.path}", "dim"))


def _numbers(trace: Trace, width: int) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    room = max(8, min(48, width - 62))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("number", no_wrap=True, overflow="ellipsis")
    table.add_column("course", no_wrap=True, width=room)
    for name in ("last", "smallest", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    order = topics(trace)
    names = sorted((name for name in trace.names if name not in SILENT), key=lambda name: order.index(topic(name)))
    for name in names:
        values = trace.scalar(name)
        known = values[np.isfinite(values)]
        last = float(values[-1])
        table.add_row(
            Text(name),
            Text(sparkline(values, room), style="cyan"),
            Text(_value(last), style="bold" if math.isfinite(last) else "bold red"),
            *(Text(_value(float(edge(known))) if len(known) else "–") for edge in (np.min, np.max)),
        )
    return table


def _value(value: float) -> str:
    return number(float(f"{value:.3g}")) if math.isfinite(value) else "–" if math.isnan(value) else str(value)


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"

"""Logs of monitors: one JSON object per line, so that a run that was killed loses at most the line it was writing.

The first line is the header, then come readings, alerts and, where a training went back to an earlier checkpoint,
``rewind`` with the step. A log that is continued by another process has a second header.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.monitor.trace import SCHEMA_VERSION, Alert, Header, Reading, Trace
from genkernel.runs.atomic import explain
from genkernel.runs.codec import unpack

log = logging.getLogger("genkernel")
T = TypeVar("T")

HEADER, READING, ALERT, REWIND = "header", "reading", "alert", "rewind"
#: what a header begins with, and how much of it has to be there to know one that was cut off
BEGINNING, SHORTEST = b'{"type": "header"', 12
#: settings in which the parts of a run may differ: when it is read and judged, with which memory, on which device
FREE = frozenset({"every", "max_overhead", "memory", "rules", "denoiser", "generator", "discriminator", "log_snr"})
LONGEST = 2**26  # characters of a first line that is looked at: a checkpoint has no line ends


class LogWriter:
    """Appends to a log; every line is handed to the operating system before the next step of the training.

    Args:
        path: the file. One that is there is continued.

    Raises:
        OutputError: its folder is not there and cannot be made.
        InputError: the file is something else than a monitor's log.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(explain(error, self.path.parent)) from error
        self._end: int | None = None  # of the file, as this writer has left it
        if self.begun() and not is_log(self.path):
            if _is_cut_header(self.path):  # a run was killed while it wrote its first line
                os.truncate(self.path, 0)
                return
            raise InputError(f"{self.path} is there already and is no monitor's log: choose another name")

    def check(self, header: Header) -> Trace | None:
        """What is there already, which a run with this header continues; None for nothing.

        Raises:
            InputError: the log is of a run that watched something else, or cannot be read.
        """
        if not self.begun():
            return None
        there = read_log(self.path)
        if unlike := _differences(there.header, header):
            raise InputError(
                f"{self.path} is the log of another {there.header.kind}, or of one that was watched in another way "
                f"({', '.join(unlike)}): choose another name"
            )
        return there

    def write(self, kind: str, content: Any) -> None:
        """One line: all of it, or nothing.

        Raises:
            OutputError: the disk is full, the file cannot be written, or another monitor has written to it since.
        """
        line = json.dumps({"type": kind, kind: content}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        end: int | None = None
        try:
            with self.path.open("ab+") as stream:
                end = stream.seek(0, os.SEEK_END)
                if self._end is not None and end not in (0, self._end):
                    raise OutputError(
                        f"another monitor writes to the log {self.path}: this one stops, so that readings of two runs "
                        "are not mixed"
                    )
                if end:
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":  # the line that a killed run was writing stays a line of its own
                        line = b"\n" + line
                stream.write(line)
            self._end = end + len(line)
        except OSError as error:
            if end is not None:
                with suppress(OSError):
                    os.truncate(self.path, end)  # half a line would spoil the ones after it
            raise OutputError(explain(error, self.path)) from error

    def begun(self) -> bool:
        """Whether there is anything in it."""
        return self.path.exists() and self.path.stat().st_size > 0


def is_log(path: str | Path) -> bool:
    """Whether the first line of a file is a monitor's header."""
    try:
        with Path(path).open(encoding="utf-8") as stream:
            first = json.loads(stream.readline(LONGEST))
        return bool(first["type"] == HEADER and "schema_version" in first[HEADER])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_log(path: str | Path, *, strict: bool = True) -> Trace:
    """The trace in a log, up to the last line that is whole.

    Args:
        path: the file, or a folder with a single ``*.jsonl`` that is one.
        strict: a damaged line in its midst is an error; otherwise it is left out with a warning.

    Raises:
        MissingError: there is no such file.
        InputError: it is no monitor's log, is of a newer version of genkernel, or a line in its midst is damaged.
    """
    path = log_file(path)
    if not is_log(path):
        why = "its first line is not the header that monitors write" if path.stat().st_size else "it is empty"
        raise InputError(f"{path} is no monitor's log: {why}")
    trace: Trace | None = None
    for number, entry in _entries(path, strict):
        kind = entry.get("type")
        if kind not in entry:
            raise InputError(f"{path}: line {number} is not of a monitor")
        if kind == HEADER:
            header = _header(entry[HEADER], path, number)
            if trace is not None and (unlike := _differences(trace.header, header)):
                what = ", ".join(unlike)
                raise InputError(f"{path} holds two runs that watched different things ({what}), from line {number} on")
            trace = Trace(header) if trace is None else trace
        elif trace is None:
            raise InputError(f"{path}: line {number} comes before the header")
        elif kind == READING:
            reading = _unpacked(Reading, entry[READING], path, number)
            trace.rewind(reading.step)  # a run that was continued reads steps again
            trace.readings.append(reading)
        elif kind == ALERT:
            trace.alerts.append(_unpacked(Alert, entry[ALERT], path, number))
        elif kind == REWIND and isinstance(entry[REWIND], int):
            trace.rewind(entry[REWIND])
        else:
            raise InputError(f"{path}: line {number} is not of a monitor")
    assert trace is not None
    return trace


def _differences(one: Header, other: Header) -> list[str]:
    """What keeps the readings of one from following those of the other: another kind of model, places, or probes."""
    found = ["kind"] if one.kind != other.kind else []
    found += sorted(name for name in one.axes.keys() & other.axes.keys() if one.axes[name] != other.axes[name])
    both = one.settings.keys() & other.settings.keys() - FREE
    return found + sorted(name for name in both if one.settings[name] != other.settings[name])


def _is_cut_header(path: Path) -> bool:
    """Whether a file is the beginning of a header, and no more."""
    with path.open("rb") as stream:
        line = stream.readline(LONGEST)
    return not line.endswith(b"\n") and line.startswith(BEGINNING[: max(len(line), SHORTEST)])


def _header(content: Any, path: Path, number: int) -> Header:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(
            f"{path} is a log of schema version {version}, this genkernel reads up to {SCHEMA_VERSION}: use a newer one"
        )
    return _unpacked(Header, content, path, number)


def _unpacked(kind: type[T], content: Any, path: Path, number: int) -> T:
    try:
        return unpack(kind, content)
    except InputError as error:
        raise InputError(f"{path}: line {number}: {error}") from error


def _entries(path: Path, strict: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of the lines; one that is cut off is skipped where a run can have ended."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            follows = json_type(lines[number]) if number < len(lines) else HEADER
            begins = number < len(lines) and lines[number].startswith(BEGINNING)  # and was cut off, too
            if follows == HEADER or begins or not line.strip():  # a run ended here
                continue
            if strict:
                raise InputError(f"{path}: line {number} is damaged") from error
            log.warning("%s: line %d is damaged, and left out", path, number)
            continue
        if not isinstance(entry, dict):
            raise InputError(f"{path}: line {number} is not of a monitor")
        yield number, entry


def json_type(line: bytes) -> str | None:
    """What a line says it is."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("type") if isinstance(found, dict) else None


def log_file(path: str | Path) -> Path:
    """The file of a log: itself, or the only ``*.jsonl`` in a folder that is one.

    Raises:
        MissingError: there is no such file or folder.
        InputError: not a name, or a folder with none or several.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"a monitor report is of a log, a gk.Monitor or its trace, not of {path!r:.80}")
    path = Path(path).expanduser()
    if path.is_dir():
        logs = sorted(file for file in path.glob("*.jsonl") if is_log(file))
        if len(logs) != 1:
            names = ", ".join(file.name for file in logs) or "none"
            raise InputError(f"{path} holds {len(logs)} monitors' logs ({names}): name one")
        return logs[0]
    if not path.is_file():
        raise MissingError(f"there is no log {path}: a monitor writes one with gk.Monitor(…, sink='monitor.jsonl')")
    return path

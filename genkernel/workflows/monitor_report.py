"""``monitor_report()``: the log of a monitor as numbers, as a folder with a page, and read back from one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.checkpoints.digest import sha256
from genkernel.monitor import Monitor, Trace, read_log
from genkernel.monitor.log import ALERT, HEADER, READING, log_file
from genkernel.runs import Provenance, RunFolder, Stopwatch, json_ready, pack
from genkernel.workflows.report import BaseReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "monitor.jsonl"  # the log in the report's folder
SCHEMA_VERSION = 1


@dataclass
class MonitorResult:
    """What a monitor has seen.

    Attributes:
        trace: readings and alerts.
    """

    trace: Trace

    def to_summary(self) -> dict[str, Any]:
        """Everything machine-readable but the readings themselves, which the log beside it has."""
        trace = self.trace
        steps = trace.steps
        problems: dict[tuple[str, str], list[int]] = {}
        for reading in trace.readings:
            for problem in reading.problems:
                problems.setdefault((problem.part, problem.error), []).append(reading.step)
        return json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                "kind": MonitorReport.kind,
                "watched": trace.header.kind,
                "readings": len(trace),
                "steps": None if not len(trace) else [int(steps[0]), int(steps[-1])],
                "longest_wait": int(np.diff(steps).max()) if len(trace) > 1 else None,
                "overhead": _last(trace.scalar("monitor/overhead")),
                "seconds": sum(reading.seconds for reading in trace.readings),
                "alerts": trace.alerts,
                "problems": [
                    {"part": part, "error": error, "readings": len(seen), "first": seen[0], "last": seen[-1]}
                    for (part, error), seen in problems.items()
                ],
                "scalars": {name: _course(trace.scalar(name)) for name in trace.names},
                "arrays": {name: {"axes": axes} for name, axes in trace.header.arrays.items()},
                "settings": trace.header.settings,
            }
        )


class MonitorReport(BaseReport["MonitorResult"]):
    """What a monitor saw, and where it came from. Made by :func:`monitor_report`.

    Attributes:
        result: the readings and alerts (:class:`MonitorResult`).
        provenance: the log and its digest, versions.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run.
    """

    kind = "monitor"

    @property
    def trace(self) -> Trace:
        """The readings and alerts."""
        return self.result.trace

    @property
    def reading(self) -> list[str]:
        """How many readings there are, what they cost, what is missing, and every alert."""
        from genkernel.report.monitor import headline

        return headline(self.trace) + [alert.message for alert in self.trace.alerts]

    @classmethod
    def _stored(cls) -> tuple[type[MonitorResult], int]:
        return MonitorResult, SCHEMA_VERSION

    def _write(self, out: RunFolder) -> None:
        """The log as it counts: without what was rewound, and without cut lines."""
        trace = self.trace
        lines: list[tuple[str, Any]] = [(HEADER, trace.header)]
        waiting = list(trace.alerts)
        for reading in trace.readings:
            lines.append((READING, reading))
            lines += [(ALERT, alert) for alert in waiting if alert.step <= reading.step]
            waiting = [alert for alert in waiting if alert.step > reading.step]
        lines += [(ALERT, alert) for alert in waiting]
        out.write(
            LOG,
            "".join(json.dumps({"type": kind, kind: pack(one)}, ensure_ascii=False) + "\n" for kind, one in lines),
        )

    @classmethod
    def _read(cls, path: Path) -> MonitorResult:
        return MonitorResult(read_log(path / LOG))

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots.monitor import monitor_figures

        return monitor_figures(self.trace)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report.monitor import monitor_page

        return monitor_page(self.trace, self.provenance.to_json(), drawn)

    def __repr__(self) -> str:
        trace = self.trace
        counts = f"{len(trace)} readings of a {trace.header.kind}, {len(trace.alerts)} alerts"
        return f"MonitorReport({counts}{self._where()})"


def monitor_report(log: Monitor | Trace | str | Path, *, out: str | Path | None = None) -> MonitorReport:
    """What a monitor saw over a training, as numbers and as a page.

    Args:
        log: a monitor's log, or a folder that holds a single one; or a :class:`~genkernel.Monitor` or its trace. A log
            that is still being written, or whose run was killed, is read up to its last whole line.
        out: also save the report there; a finished one in it is replaced.

    Raises:
        MissingError: there is no such log.
        InputError: neither a log nor the name of one.
        OutputError: ``out`` cannot be written.

    Example:
        >>> gk.monitor_report("runs/mine/monitor.jsonl", out="runs/mine-report").summary()["readings"]  # doctest: +SKIP
        120
    """
    source: dict[str, Any] = {}
    watch = Stopwatch()
    if isinstance(log, Monitor):
        trace = log.trace
    elif isinstance(log, Trace):
        trace = log
    else:
        file = log_file(log)
        with watch("reading"):
            digest = sha256(file)
            trace = read_log(file, strict=False)
            source = {"description": file.name}
            if sha256(file) == digest:  # else it grew meanwhile
                source["sha256"] = digest
    trace = Trace(trace.header, list(trace.readings), list(trace.alerts))  # as it is now
    settings = trace.header.settings
    denoiser = settings.get("denoiser") or settings.get("generator") or {}
    report = MonitorReport(
        MonitorResult(trace),
        None,
        Provenance(
            arguments={"readings": len(trace)},
            seed=settings.get("seed"),
            device=str(denoiser.get("device", "unknown")) if isinstance(denoiser, dict) else "unknown",
            dtype=str(denoiser.get("dtype", "unknown")) if isinstance(denoiser, dict) else "unknown",
            data=source,
        ),
        stopwatch=watch,
    )
    if out is not None:
        report.save(out)
    return report


def _course(values: np.ndarray) -> dict[str, Any]:
    """First, last, smallest and largest of what is finite, and how many readings are without a finite number."""
    known = values[np.isfinite(values)]
    return {
        "first": float(known[0]) if len(known) else None,
        "last": float(known[-1]) if len(known) else None,
        "smallest": float(known.min()) if len(known) else None,
        "largest": float(known.max()) if len(known) else None,
        "missing": int((~np.isfinite(values)).sum()),
    }


def _last(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None

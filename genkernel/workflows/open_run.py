"""Read a run folder back, whatever it is of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from genkernel.errors import InputError, MissingError
from genkernel.runs import Provenance, finished_files, read_json
from genkernel.workflows.report import PROVENANCE, SUMMARY, BaseReport, GanReport, Report

if TYPE_CHECKING:
    from genkernel.workflows.monitor_report import MonitorReport
    from genkernel.workflows.path_report import PathReport
    from genkernel.workflows.similarity import SimilarityReport
    from genkernel.workflows.spectrum import SpectrumReport


def families() -> dict[str, type[BaseReport[Any]]]:
    """Kind → the class of its reports."""
    from genkernel.workflows.monitor_report import MonitorReport
    from genkernel.workflows.path_report import PathReport
    from genkernel.workflows.similarity import SimilarityReport
    from genkernel.workflows.spectrum import SpectrumReport

    known = (Report, GanReport, SimilarityReport, PathReport, SpectrumReport, MonitorReport)
    return {report.kind: report for report in known}


@overload
def open_run(path: str | Path, kind: Literal["diffusion"]) -> Report: ...


@overload
def open_run(path: str | Path, kind: Literal["gan"]) -> GanReport: ...


@overload
def open_run(path: str | Path, kind: Literal["classifier"]) -> SimilarityReport: ...


@overload
def open_run(path: str | Path, kind: Literal["path"]) -> PathReport: ...


@overload
def open_run(path: str | Path, kind: Literal["spectrum"]) -> SpectrumReport: ...


@overload
def open_run(path: str | Path, kind: Literal["monitor"]) -> MonitorReport: ...


@overload
def open_run(
    path: str | Path, kind: None = None
) -> Report | GanReport | SimilarityReport | PathReport | SpectrumReport | MonitorReport: ...


def open_run(path: str | Path, kind: str | None = None) -> Any:
    """Read a run folder back.

    Args:
        kind: ``"diffusion"``, ``"gan"``, ``"classifier"``, ``"path"``, ``"spectrum"`` or ``"monitor"`` where no other
            kind will do.

    Returns:
        Report, GanReport, SimilarityReport, PathReport, SpectrumReport or MonitorReport: by what the run is of.

    Raises:
        MissingError: the folder or one of its files is not there, or the run was never finished.
        InputError: it is a run of another kind, or of a version that this one cannot read.
    """
    path = Path(path).expanduser()
    summary = read_json(path / SUMMARY)
    found = summary.get("kind") if isinstance(summary, dict) else None
    if found not in (known := families()):
        *names, last = known
        raise InputError(f"{path} holds a run of kind {found!r}; this version reads {', '.join(names)} and {last} runs")
    if kind is not None and found != kind:
        raise InputError(f"{path} holds a {found} run, and this needs a {kind} run")
    family = known[found]
    _, version = family._stored()
    if summary.get("schema_version") != version:
        raise InputError(
            f"{path} was written with schema {summary.get('schema_version')}, this version reads {version}: run the "
            "analysis again"
        )
    if not finished_files(path):
        raise MissingError(f"the run in {path} is not complete (a file that it lists is missing): run it again")
    fields = {field.name for field in dataclasses.fields(Provenance)}
    record = {k: v for k, v in read_json(path / PROVENANCE).items() if k in fields}
    report = family(family._read(path), None, Provenance(**record))
    report.folder, report.reused = path, True
    return report

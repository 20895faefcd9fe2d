"""From a checkpoint to an answer: load, wrap, doctor, and the runs that end in a report.

The only room that knows everything below. Names are imported on first use, so that
``import genkernel`` and ``genkernel --help`` stay fast.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it
_HOMES = {
    "load": "load",
    "wrap": "wrap",
    "doctor": "doctor",
    "DoctorReport": "doctor",
    "locality": "locality",
    "collapse": "collapse",
    "Report": "report",
    "GanReport": "report",
    "open_run": "open_run",
    "path_report": "path_report",
    "PathReport": "path_report",
    "similarity": "similarity",
    "SimilarityReport": "similarity",
    "spectrum": "spectrum",
    "SpectrumReport": "spectrum",
    "monitor_report": "monitor_report",
    "MonitorReport": "monitor_report",
}

__all__ = [
    "DoctorReport",
    "GanReport",
    "MonitorReport",
    "PathReport",
    "Report",
    "SimilarityReport",
    "SpectrumReport",
    "collapse",
    "doctor",
    "load",
    "locality",
    "monitor_report",
    "open_run",
    "path_report",
    "similarity",
    "spectrum",
    "wrap",
]

if TYPE_CHECKING:
    from genkernel.workflows.collapse import collapse
    from genkernel.workflows.doctor import DoctorReport, doctor
    from genkernel.workflows.load import load
    from genkernel.workflows.locality import locality
    from genkernel.workflows.monitor_report import MonitorReport, monitor_report
    from genkernel.workflows.open_run import open_run
    from genkernel.workflows.path_report import PathReport, path_report
    from genkernel.workflows.report import GanReport, Report
    from genkernel.workflows.similarity import SimilarityReport, similarity
    from genkernel.workflows.spectrum import SpectrumReport, spectrum
    from genkernel.workflows.wrap import wrap


class _Workflows(ModuleType):
    """Functions here are named like the modules they live in; the function is what the name means."""

    def __setattr__(self, name: str, value: Any) -> None:
        # importing genkernel.workflows.load binds that *module* to the name "load" of this package
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Workflows


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"genkernel.workflows.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'genkernel.workflows' has no attribute {name!r}")

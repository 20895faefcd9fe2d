"""genkernel: stochastic gradient (tangent) kernels of trained generative models.

    K(x, x') = J(x) P J(x')ᵀ

``import genkernel as gk`` is light: torch and everything heavier is imported by the first
name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> the module that defines it
_HOMES = {
    "TangentModel": "genkernel.tangent",
    "Kernel": "genkernel.tangent",
    "kernel": "genkernel.tangent",
    "plan": "genkernel.tangent.forecast",  # genkernel.tangent.plan is a module
    "Forecast": "genkernel.tangent",
    "total": "genkernel.tangent",
    "output": "genkernel.tangent",
    "exact_trace": "genkernel.tangent",
    "probes": "genkernel.tangent",
    "cotangent": "genkernel.tangent",
    "loss": "genkernel.tangent",
    "residual": "genkernel.tangent",
    "blocks": "genkernel.tangent",
    "Preconditioner": "genkernel.tangent",
    "operator": "genkernel.tangent",
    "tangent_features": "genkernel.tangent",
    "sketch": "genkernel.tangent",
    "Sketch": "genkernel.tangent",
    "plan_sketch": "genkernel.tangent",
    "SketchForecast": "genkernel.tangent",
    "record": "genkernel.paths",
    "tape": "genkernel.paths.tape",  # genkernel.paths.tape is a module
    "replay": "genkernel.paths.replay",
    "checkpoint_path": "genkernel.paths",
    "path_kernel": "genkernel.paths.path_kernel",
    "PathDecomposition": "genkernel.paths",
    "load_images": "genkernel.data",
    "Denoiser": "genkernel.diffusion",
    "NoiseSchedule": "genkernel.diffusion",
    "Classifier": "genkernel.classifier",
    "Monitor": "genkernel.monitor",
    "Alert": "genkernel.monitor",
    "sinks": "genkernel.monitor",
    "load": "genkernel.workflows",
    "wrap": "genkernel.workflows",
    "locality": "genkernel.workflows",
    "collapse": "genkernel.workflows",
    "similarity": "genkernel.workflows.similarity",  # genkernel.workflows.similarity is a module
    "SimilarityReport": "genkernel.workflows",
    "doctor": "genkernel.workflows",
    "Report": "genkernel.workflows",
    "GanReport": "genkernel.workflows",
    "path_report": "genkernel.workflows.path_report",  # genkernel.workflows.path_report is a module
    "PathReport": "genkernel.workflows",
    "spectrum": "genkernel.workflows.spectrum",  # genkernel.workflows.spectrum is a module
    "SpectrumReport": "genkernel.workflows",
    "monitor_report": "genkernel.workflows.monitor_report",  # genkernel.workflows.monitor_report is a module
    "MonitorReport": "genkernel.workflows",
    "open_run": "genkernel.workflows",
    "GenkernelError": "genkernel.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from genkernel.classifier import Classifier
    from genkernel.data import load_images
    from genkernel.diffusion import Denoiser, NoiseSchedule
    from genkernel.errors import GenkernelError
    from genkernel.monitor import Alert, Monitor, sinks
    from genkernel.paths import PathDecomposition, checkpoint_path, record
    from genkernel.paths.path_kernel import path_kernel
    from genkernel.paths.replay import replay
    from genkernel.paths.tape import tape
    from genkernel.tangent import (
        Forecast,
        Kernel,
        Preconditioner,
        Sketch,
        SketchForecast,
        TangentModel,
        blocks,
        cotangent,
        exact_trace,
        kernel,
        loss,
        operator,
        output,
        plan_sketch,
        probes,
        residual,
        sketch,
        tangent_features,
        total,
    )
    from genkernel.tangent.forecast import plan
    from genkernel.workflows import (
        GanReport,
        MonitorReport,
        PathReport,
        Report,
        collapse,
        doctor,
        load,
        locality,
        open_run,
        wrap,
    )
    from genkernel.workflows.monitor_report import monitor_report
    from genkernel.workflows.path_report import path_report
    from genkernel.workflows.similarity import SimilarityReport, similarity
    from genkernel.workflows.spectrum import SpectrumReport, spectrum


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'genkernel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

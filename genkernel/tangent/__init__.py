"""The engine: a model as f(θ, sample), cotangents, and the kernels J P Jᵀ between samples."""

from genkernel.tangent.cotangents import (
    Cotangents,
    blocks,
    cotangent,
    exact_trace,
    loss,
    output,
    probes,
    residual,
    total,
)
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.engine import kernel
from genkernel.tangent.features import tangent_features
from genkernel.tangent.forecast import Forecast
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.operators import TangentOperator, operator
from genkernel.tangent.preconditioner import Preconditioner, as_preconditioner
from genkernel.tangent.probe import examine
from genkernel.tangent.projection import Projection
from genkernel.tangent.result import Kernel
from genkernel.tangent.sketch_forecast import SketchForecast, plan_sketch
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.sketching import sketch

__all__ = [
    "Cotangents",
    "Coverage",
    "Forecast",
    "Kernel",
    "Preconditioner",
    "Projection",
    "Sketch",
    "SketchForecast",
    "TangentModel",
    "TangentOperator",
    "as_preconditioner",
    "as_tangent_model",
    "blocks",
    "cotangent",
    "exact_trace",
    "examine",
    "kernel",
    "loss",
    "operator",
    "output",
    "plan_sketch",
    "probes",
    "residual",
    "sketch",
    "tangent_features",
    "total",
]

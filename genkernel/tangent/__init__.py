"""The engine: a model as f(θ, sample), cotangents, and the kernels J P Jᵀ between samples."""

from genkernel.tangent.cotangents import Cotangents, cotangent, exact_trace, output, probes, total
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.engine import kernel
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.probe import examine
from genkernel.tangent.result import Kernel

__all__ = [
    "Cotangents",
    "Coverage",
    "Kernel",
    "TangentModel",
    "as_tangent_model",
    "cotangent",
    "exact_trace",
    "examine",
    "kernel",
    "output",
    "probes",
    "total",
]

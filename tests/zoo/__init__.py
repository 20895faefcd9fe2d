"""Small models, each with the trap it stands for; every path of the engine is compared over them.

Models and batches are deterministic, in float64 and tiny. Most are written as a function of a
:class:`~tests.zoo.cases.Net`, which owns whatever parameters, buffers and modules it is given,
so that the use of the parameters (the trap) is all there is to read.
"""

from tests.zoo import convolutions, layers, networks, parameters, products, samples, sharing
from tests.zoo.cases import CASES, Case
from tests.zoo.refusals import REFUSALS, Refusal

__all__ = [
    "CASES",
    "REFUSALS",
    "Case",
    "Refusal",
    "convolutions",
    "layers",
    "networks",
    "parameters",
    "products",
    "samples",
    "sharing",
]

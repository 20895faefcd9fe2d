"""Paths of training: what every part of the data did to a prediction, adding up exactly; and the noise on the way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it, imported on first use. Functions that share their name with their module
# (tape, replay, path_kernel) are imported from it.
_HOMES = {
    "IIDBatchSampler": "stochastic.iid_batches",
    "KernelEnsemble": "stochastic.kernel_ensemble",
    "Part": "decomposition",
    "PathDecomposition": "decomposition",
    "Recording": "recorder",
    "Replay": "replayed",
    "Tape": "tape",
    "checkpoint_path": "checkpoints",
    "contribution_matrix": "maps",
    "gradient_noise_covariance": "stochastic.gradient_noise",
    "keep_map": "maps",
    "record": "recorder",
    "simulate_discrete": "stochastic.sde",
    "simulate_sde": "stochastic.sde",
}

__all__ = [
    "IIDBatchSampler",
    "KernelEnsemble",
    "Part",
    "PathDecomposition",
    "Recording",
    "Replay",
    "Tape",
    "checkpoint_path",
    "contribution_matrix",
    "gradient_noise_covariance",
    "keep_map",
    "record",
    "simulate_discrete",
    "simulate_sde",
]

if TYPE_CHECKING:
    from genkernel.paths.checkpoints import checkpoint_path
    from genkernel.paths.decomposition import Part, PathDecomposition
    from genkernel.paths.maps import contribution_matrix, keep_map
    from genkernel.paths.recorder import Recording, record
    from genkernel.paths.replayed import Replay
    from genkernel.paths.stochastic.gradient_noise import gradient_noise_covariance
    from genkernel.paths.stochastic.iid_batches import IIDBatchSampler
    from genkernel.paths.stochastic.kernel_ensemble import KernelEnsemble
    from genkernel.paths.stochastic.sde import simulate_discrete, simulate_sde
    from genkernel.paths.tape import Tape


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"genkernel.paths.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'genkernel.paths' has no attribute {name!r}")

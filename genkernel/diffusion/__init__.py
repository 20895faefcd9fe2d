"""Diffusion and flow-matching models: noise schedules, denoisers, and the analyses of their kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module that defines it, imported on first use
_HOMES = {
    "Denoiser": "denoiser",
    "NoiseSchedule": "schedule",
}

__all__ = ["Denoiser", "NoiseSchedule"]

if TYPE_CHECKING:
    from genkernel.diffusion.denoiser import Denoiser
    from genkernel.diffusion.schedule import NoiseSchedule


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"genkernel.diffusion.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'genkernel.diffusion' has no attribute {name!r}")

"""How far every parameter moves between readings, and whether it is finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from genkernel.monitor.trace import Array, Axis

SAMPLED = 4096  # entries of a parameter that are compared with the reading before


class WeightProbe:
    """Compares parameters with what they were at the reading before.

    Of parameters with more than :data:`SAMPLED` entries as many are looked at, evenly spread, always the same.
    Memory: at most 16 KiB per parameter.

    Args:
        parameters: gives those that are trained, by name, as they are now.
    """

    def __init__(self, parameters: Callable[[], Mapping[str, Tensor]]):
        self._parameters = parameters
        self._names = list(parameters())
        self._before: dict[str, Tensor] | None = None

    @property
    def axis(self) -> Axis:
        """Of the arrays that :meth:`read` gives."""
        return Axis("parameter", self._names)

    ARRAYS = ("weights/moved", "weights/size", "weights/nonfinite")

    def read(self) -> dict[str, float | Array]:
        """Root mean squares of entries and of how they moved (NaN in the first reading), and how many are not finite.

        ``weights/moved`` and ``weights/size`` are in the units of the parameters; ``health/nonfinite`` counts over all.
        """
        parameters = self._parameters()
        now = {name: sampled(parameters[name]) for name in self._names}
        bad = [int((~torch.isfinite(parameters[name].detach())).sum()) for name in self._names]
        moved = [math.nan if self._before is None else _change(now[name], self._before[name]) for name in now]
        self._before = now
        return {
            "weights/moved": np.array(moved),
            "weights/size": np.array([_rms(value) for value in now.values()]),
            "weights/nonfinite": np.array(bad, dtype=np.float64),
            "health/nonfinite": float(sum(bad)),
        }

    def forget(self) -> None:
        """The next reading has nothing to compare with: the training went back."""
        self._before = None


def sampled(parameter: Tensor) -> Tensor:
    """Evenly spread entries ``[≤ SAMPLED]``, a copy in float32 on the CPU."""
    flat = parameter.detach().reshape(-1)
    if flat.numel() > SAMPLED:
        places = torch.linspace(0, flat.numel() - 1, SAMPLED, dtype=torch.float64).long()
        flat = flat[places.to(flat.device)]
    return flat.to("cpu", torch.float32, copy=True)


def _change(now: Tensor, before: Tensor) -> float:
    """NaN where a parameter has got another shape."""
    return _rms(now - before) if now.shape == before.shape else math.nan


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0

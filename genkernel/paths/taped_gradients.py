"""A gradient that is made again against what a tape holds of the optimizer's: its size, its limit, a few entries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genkernel.paths.agreement import Agreement
from genkernel.paths.coordinates import Coordinates
from genkernel.paths.taped import SAMPLED, sampled_entries


class TapedGradients:
    """What lies between gradients and those of a tape: one number, or clipping by value.

    Args:
        coordinates: the order of the P entries.
    """

    def __init__(self, coordinates: Coordinates):
        self._coordinates, self._sampled = coordinates, sampled_entries(coordinates)

    def compare(self, gradient: Tensor, arrays: Mapping[str, Any], number: int, allowed: float) -> Agreement:
        """How the gradient of a taped step follows from one that was made again ``[P]``.

        Args:
            arrays: of a stretch of the tape.
            number: of the step in it.
            allowed: the error up to which one number is enough.
        """
        size, entries = float(arrays["size"][number]), torch.from_numpy(arrays["entries"][number])
        found = self._by_number(gradient, size, entries)
        if found.error <= allowed:
            return found
        clamped = self._by_value(gradient, size, entries, float(arrays["limit"][number]))
        return clamped if clamped.error < found.error else found

    def _by_number(self, gradient: Tensor, size: float, entries: Tensor) -> Agreement:
        norm = float(gradient.double().norm())
        if not size:
            return Agreement(0.0, 0.0)
        if not norm:
            return Agreement(0.0, 1.0)
        own = self._sample_of(gradient)
        factor = math.copysign(size / norm, float(own @ entries) or 1.0)
        return Agreement(factor, self._missed(factor * own, size, entries))

    def _by_value(self, gradient: Tensor, size: float, entries: Tensor, limit: float) -> Agreement:
        top = float(gradient.abs().max())
        if not limit or not top:
            return Agreement(0.0, math.inf)
        sign = math.copysign(1.0, float(self._sample_of(gradient) @ entries) or 1.0)
        # the norm grows with the factor, up to where every entry is at the limit
        low, high = 0.0, 1e12 * limit / top
        for _ in range(80):
            factor = math.sqrt(max(low, 1e-12 * limit / top) * high)
            if float((gradient * factor).clamp(-limit, limit).double().norm()) < size * (1 - 1e-9):
                low = factor
            else:
                high = factor
        clamped = (gradient * (sign * high)).clamp(-limit, limit)
        off = abs(float(clamped.double().norm()) - size) / size
        ratio = torch.where(gradient != 0, clamped / torch.where(gradient != 0, gradient, 1), 0.0)
        return Agreement(ratio, max(off, self._missed(self._sample_of(clamped), size, entries)))

    def _sample_of(self, gradient: Tensor) -> Tensor:
        """The entries of a gradient ``[P]`` that the tape holds."""
        own = torch.zeros(SAMPLED, dtype=torch.float64)
        for name, places, numbers in self._sampled:
            part = self._coordinates.slices[self._coordinates.names.index(name)]
            own[places] = gradient[part][numbers.to(gradient.device)].double().cpu()
        return own

    def _missed(self, own: Tensor, size: float, entries: Tensor) -> float:
        # entries that are small by chance are held to the size that entries have
        typical = size * math.sqrt(SAMPLED / self._coordinates.size)
        return float((entries - own).norm()) / max(float(entries.norm()), typical)

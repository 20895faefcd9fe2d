"""What the training draws: noise levels and classes, counted between two readings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.monitor.trace import Array, Axis

DRAWN = "drawn/"  # what names of counts begin with
BINS = 128  # of the timesteps


class Draws:
    """Counts what a training says that it draws, without waiting for the device that drew it.

    A draw counts for the nearest position of the axis; one beyond its ends, half a position away, for none.

    Args:
        axes: of what is counted, by name; their values are evenly spaced.
    """

    def __init__(self, axes: Mapping[str, Axis]):
        self._axes = dict(axes)
        self._counts: dict[str, Tensor] = {}

    def add(self, **drawn: Any) -> None:
        """Numbers of one step by name, each a tensor, an array or a sequence of any length; None for nothing.

        Raises:
            InputError: of something that is not counted here, or no real numbers.
        """
        for name, values in drawn.items():
            if values is not None:
                self._add(name, values)

    def read(self) -> dict[str, Array]:
        """Counts since the last time this was asked, ``drawn/NAME``; of what nothing was said, nothing."""
        found = {f"{DRAWN}{name}": counts.double().cpu().numpy() for name, counts in self._counts.items()}
        self.forget()
        return found

    def forget(self) -> None:
        """Nothing was drawn."""
        self._counts = {}

    def _add(self, name: str, values: Any) -> None:
        if name not in self._axes:
            known = " and ".join(self._axes) or "nothing"
            raise InputError(
                f"{name}= is not counted here, {known} is: the timesteps of a denoiser, and classes where the monitor "
                "knows those of its probes (groups= or targets=)"
            )
        try:
            given = torch.as_tensor(values).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name}= are the numbers that this step has drawn, not {type(values).__name__}"
            ) from error
        if given.is_complex():
            raise InputError(f"{name}= are the numbers that this step has drawn, not {given.dtype}")
        axis = self._axes[name]
        if axis.name == "class" and given.dim() == 2 and given.shape[1] > 1:
            given = given.argmax(1)  # one-hot
        given = given.reshape(-1)
        first, width = axis.values[0], axis.values[1] - axis.values[0] if len(axis) > 1 else 1.0
        place = (given.float() - first) / width + 0.5
        inside = (place >= 0) & (place <= len(axis))  # NaN is not
        counts = self._counts.get(name)
        if counts is None or counts.device != given.device:
            zero = torch.zeros(len(axis), dtype=torch.float32, device=given.device)
            counts = zero if counts is None else zero + counts.to(given.device)
        index = torch.where(inside, place, torch.zeros_like(place)).long().clamp(max=len(axis) - 1)
        self._counts[name] = counts.scatter_add(0, index, inside.to(counts))


def time_axis(low: float, high: float, discrete: bool) -> Axis:
    """Bins over the training times of a schedule, of equal width.

    Args:
        low, high: first and last time.
        discrete: times are whole numbers.
    """
    count = min(BINS, int(high - low) + 1) if discrete else BINS
    end = high + 1 if discrete else high  # whole numbers stand for what follows up to the next
    edges = np.linspace(low, end, count + 1)
    bins = list(pairwise(edges.tolist()))
    ends = [(math.ceil(a), math.ceil(b) - 1) if discrete else (a, b) for a, b in bins]
    labels = [f"t = {first:.4g} to {last:.4g}" if first != last else f"t = {first:.4g}" for first, last in ends]
    return Axis("time", labels, [(a + b) / 2 for a, b in bins], "timestep")

"""Training losses, averaged between two readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.monitor.trace import Array

TRAIN = "train/"  # what names of the training's own losses begin with
Losses = float | Tensor | Mapping[str, "float | Tensor"]


class RunningLosses:
    """Sums what the training reports, without waiting for the device that computes it.

    A single loss is called ``train/loss``, losses by name ``train/NAME``.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: Losses) -> None:
        """The losses of one step.

        Raises:
            InputError: something else than numbers.
        """
        named = losses if isinstance(losses, Mapping) else {"loss": losses}
        for name, value in named.items():
            number = _number(name, value)
            held = self._sums.get(name)
            self._sums[name] = number if held is None else held.to(number.device) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float | Array]:
        """Means since the last time this was asked; a NaN among them makes its mean NaN."""
        found: dict[str, float | Array] = {
            f"{TRAIN}{name}": float(total) / self._counts[name] for name, total in self._sums.items()
        }
        self.forget()
        return found

    def forget(self) -> None:
        """Nothing was reported."""
        self._sums, self._counts = {}, {}


def _number(name: Any, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(
                f"the loss {name!r} is one number, not a tensor of shape {tuple(value.shape)}: take its mean"
            )
        # not all devices have float64
        return value.detach().reshape(()).to(torch.float32 if value.device.type == "mps" else torch.float64)
    try:
        return torch.tensor(float(value), dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the loss {name!r} is a number or a tensor of one, not {type(value).__name__}") from error

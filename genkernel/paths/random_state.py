"""The state of torch's random generators, as one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.tangent import TangentModel

State = NDArray[np.uint8]


def random_state(device: torch.device) -> State:
    """The states of torch's generators, one after the other: the CPU's, then the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states).numpy().copy()


def set_random_state(state: State, device: torch.device) -> None:
    """Put back what :func:`random_state` gave; nothing for an empty array."""
    if not len(state):
        return
    split = len(torch.get_rng_state())
    torch.set_rng_state(torch.from_numpy(state[:split].copy()))
    if device.type == "cuda":
        torch.cuda.set_rng_state(torch.from_numpy(state[split:].copy()), device)


class Seeded(TangentModel):
    """A model whose every run starts from the same random state."""

    def __init__(self, model: TangentModel, state: State):
        self.__dict__.update(model.__dict__)
        self._state = state

    def run(self, tensors: Mapping[str, Tensor], batch: Any, *, through: bool = False) -> Tensor:
        set_random_state(self._state, self.device)
        return super().run(tensors, batch, through=through)

"""The states of the random generators that a loss may draw from, as one array."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.tangent import TangentModel
from genkernel.tangent.restore import GENERATORS

State = NDArray[np.uint8]


def random_state(device: torch.device, own: Sequence[torch.Generator] = ()) -> State:
    """The states of torch's generators, one after the other: the CPU's, the device's, and those that networks own."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat([*states, *(generator.get_state() for generator in own)]).numpy().copy()


def set_random_state(state: State, device: torch.device, own: Sequence[torch.Generator] = ()) -> None:
    """Put back what :func:`random_state` gave, as far as it goes; nothing for an empty array."""
    setters: list[tuple[int, Callable[[Tensor], Any]]] = [(len(torch.get_rng_state()), torch.set_rng_state)]
    if device.type == "cuda":
        size = len(torch.cuda.get_rng_state(device))
        setters.append((size, lambda part: torch.cuda.set_rng_state(part, device)))
    setters += [(len(generator.get_state()), generator.set_state) for generator in own]
    start = 0
    for size, put in setters:
        if start < len(state):
            put(torch.from_numpy(state[start : start + size].copy()))
        start += size


def generators_used_by(function: Callable[..., Any]) -> list[Any]:
    """Random generators that a function refers to: by name, as defaults, bound to it, or in the object that it is."""
    values: list[Any] = []
    while isinstance(function, functools.partial):
        values += [*function.args, *function.keywords.values()]
        function = function.func
    owner = getattr(function, "__self__", None)
    if inspect.ismethod(function):
        function = function.__func__
    elif not inspect.isfunction(function):
        owner, function = function, vars(type(function)).get("__call__", function)
    values += vars(owner).values() if hasattr(owner, "__dict__") and not isinstance(owner, ModuleType) else []
    values += getattr(function, "__defaults__", None) or ()
    values += (getattr(function, "__kwdefaults__", None) or {}).values()
    try:
        names = inspect.getclosurevars(function)
        values += [*names.nonlocals.values(), *names.globals.values()]
    except (TypeError, ValueError):  # written in C, or with a name that is not bound yet
        pass
    return list({id(value): value for value in values if isinstance(value, GENERATORS)}.values())


class Seeded(TangentModel):
    """A model whose every run starts from the same random state."""

    def __init__(self, model: TangentModel, state: State, own: Sequence[torch.Generator] = ()):
        self.__dict__.update(model.__dict__)
        self._state, self._own = state, own

    def run(self, tensors: Mapping[str, Tensor], batch: Any, *, through: bool = False) -> Tensor:
        set_random_state(self._state, self.device, self._own)
        return super().run(tensors, batch, through=through)

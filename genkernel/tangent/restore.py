"""Put a user's module back as it was, whatever its forward pass wrote to it.

Not thread-safe: the module is in evaluation mode, and holds stand-ins, while the context is open.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = (dict, list, set, deque)


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """On exit every attribute of every submodule is the object it was, with the content it had.

    Plain tensor attributes are replaced by copies meanwhile; containers (buffers and parameters,
    hooks, caches) get their entries back, one level deep; random generators get their states back.
    """
    modules = list(module.modules())
    attributes = [dict(vars(m)) for m in modules]
    contents = [{k: _content(v) for k, v in a.items() if isinstance(v, _CONTAINERS)} for a in attributes]
    rewind = [_rewinding(generator) for generator in generators_held(module)]

    def put_back() -> None:
        for m, before, content in zip(modules, attributes, contents, strict=True):
            for name in vars(m).keys() - before.keys():
                del vars(m)[name]
            vars(m).update(before)
            for name, saved in content.items():
                _refill(before[name], saved)
        for one in rewind:
            one()

    try:
        for m, before in zip(modules, attributes, strict=True):
            vars(m).update({k: v.detach().clone() for k, v in before.items() if isinstance(v, Tensor)})
        yield
    finally:
        try:
            put_back()
        except BaseException:  # Ctrl-C in the middle of it
            put_back()
            raise


def generators_held(module: nn.Module) -> list[Any]:
    """Random generators of torch, NumPy and Python that submodules hold as attributes."""
    held = (value for m in module.modules() for value in vars(m).values() if isinstance(value, GENERATORS))
    return list({id(generator): generator for generator in held}.values())


def generators_of(module: nn.Module) -> list[torch.Generator]:
    """Those of torch among them."""
    return [generator for generator in generators_held(module) if isinstance(generator, torch.Generator)]


@contextmanager
def generators_kept(generators: Iterable[Any]) -> Iterator[None]:
    """The states of random generators survive."""
    rewind = [_rewinding(generator) for generator in generators]
    try:
        yield
    finally:
        for one in rewind:
            one()


def _rewinding(generator: Any) -> Callable[[], Any]:
    """What puts a generator back to where it is now."""
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(setattr, bits, "state", copy.deepcopy(bits.state))
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The states of Python's and NumPy's global generators survive."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _content(container: Any) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _refill(container: Any, saved: list[Any]) -> None:
    if not (saved or container):  # most are hooks that nobody has registered
        return
    now = _content(container)
    if len(now) == len(saved) and all(_same(a, b) for a, b in zip(now, saved, strict=True)):
        return
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(saved)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a is b

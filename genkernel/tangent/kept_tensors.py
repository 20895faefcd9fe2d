"""Tensors that modules keep from one call to the next: what a pass made of the parameters has to end with it.

LeViT, EfficientFormer and TinyViT gather their attention biases once in evaluation mode and keep them. What an earlier
call has kept belongs to the weights and the graph of that call, or to no graph: gradients would miss it without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.tangent.shortage import out_of_memory

_OF_ALL = frozenset(vars(nn.Module()))  # attributes of every module: parameters, buffers, hooks


class KeptTensors:
    """Watches the plain attributes of all submodules: tensors, and dicts and lists that hold them."""

    def __init__(self, module: nn.Module):
        self._module = module
        self._caches: list[tuple[nn.Module, str]] = []
        self._tried: set[tuple[type[nn.Module], str]] = set()

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """A call inside finds known caches empty, and what it keeps is gone at the end."""
        with self._without(self._caches), self._taken_back():
            yield

    @contextmanager
    def _without(self, places: list[tuple[nn.Module, str]]) -> Iterator[None]:
        full = [(m, name, vars(m)[name]) for m, name in places if name in vars(m)]
        try:
            for m, name, value in full:
                vars(m)[name] = _emptied(value)
            yield
        finally:
            for m, name, value in full:
                vars(m)[name] = value

    @contextmanager
    def _taken_back(self) -> Iterator[None]:
        before = [(m, _held(m)) for m in self._module.modules()]
        try:
            yield
        finally:
            for m, held in before:
                _put_back(m, held)

    def search(self, call: Callable[[], Any]) -> None:
        """Find out which of the tensors that the module holds now are caches: a call without them makes them again.

        Every attribute of a class is tried once, when it holds something.

        Args:
            call: runs the model on a few samples, with parameters that require gradients; not inside :meth:`dropped`.
        """
        if torch.is_inference_mode_enabled():  # nothing would have a graph
            return
        alike: dict[tuple[type[nn.Module], str], list[nn.Module]] = {}
        for m in self._module.modules():
            if m._parameters:
                for name, value in vars(m).items():
                    if name not in _OF_ALL and (type(m), name) not in self._tried and _caches_perhaps(value):
                        alike.setdefault((type(m), name), []).append(m)
        self._tried.update(alike)
        devices = {p.device for p in self._module.parameters() if p.is_cuda}
        for (_, name), modules in alike.items():
            places = [(m, name) for m in modules]
            with self._without(places), self._taken_back():
                try:
                    with torch.enable_grad(), torch.random.fork_rng(devices=list(devices)):
                        call()
                except Exception as error:  # of any kind: the model cannot do without them
                    if out_of_memory(error):
                        raise
                    continue
                self._caches += [(m, name) for m, name in places if _follows_parameters(vars(m).get(name))]


def _held(m: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The plain attributes, and of dicts and lists what is in them."""
    return {
        name: (value, value.copy() if isinstance(value, (dict, list)) else None)
        for name, value in vars(m).items()
        if name not in _OF_ALL
    }


def _put_back(m: nn.Module, held: dict[str, tuple[Any, Any]]) -> None:
    """As it was where a tensor is new, and everything else in this module with it: attributes may belong together."""
    now = vars(m)
    plain = [(name, value) for name, value in now.items() if name not in _OF_ALL]
    if not any(_keeps_more(value, *held.get(name, (None, None))) for name, value in plain):
        return
    for name, _ in plain:
        if name not in held:
            del now[name]
    for name, (value, content) in held.items():
        now[name] = value
        if isinstance(value, dict):
            value.clear()
            value.update(content)
        elif isinstance(value, list):
            value[:] = content


def _keeps_more(value: Any, before: Any, content: Any) -> bool:
    """Whether a tensor is there, or in there, that was not."""
    if isinstance(value, Tensor):
        return value is not before
    if not isinstance(value, (dict, list)):
        return False
    known = {id(one) for one in (content.values() if isinstance(content, dict) else content or ())}
    inside = value.values() if isinstance(value, dict) else value
    return any(isinstance(one, Tensor) and id(one) not in known for one in inside)


def _caches_perhaps(value: Any) -> bool:
    """Made of floating point tensors that are no parameters."""
    if isinstance(value, dict):
        return bool(value) and all(_caches_perhaps(one) for one in value.values())
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.is_floating_point()


def _emptied(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    empty = value.copy()
    empty.clear()
    return empty


def _follows_parameters(value: Any) -> bool:
    tensors = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, Tensor) and one.grad_fn is not None for one in tensors)

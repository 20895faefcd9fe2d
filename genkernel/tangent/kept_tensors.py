"""Tensors that modules keep from one call to the next: what a pass made of the parameters has to end with it.

LeViT, EfficientFormer and TinyViT gather their attention biases once in evaluation mode and keep them. What an earlier
call has kept belongs to the weights and the graph of that call, or to no graph: gradients would miss it without a word.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from genkernel.tangent.shortage import out_of_memory

log = logging.getLogger("genkernel")

_OF_ALL = frozenset(vars(nn.Module()))  # attributes of every module: parameters, buffers, hooks
_LARGE = 256  # entries from which on a container is not looked into
_DEEP = 2  # containers in containers


@dataclass(frozen=True)
class _Place:
    """An attribute of a module that holds tensors; ``delete``: it is taken away, not only emptied."""

    module: nn.Module
    name: str
    delete: bool = False


class KeptTensors:
    """Watches the plain attributes of all submodules: tensors, and dicts, lists and tuples that hold them."""

    def __init__(self, module: nn.Module):
        self._module = module
        self._caches: list[_Place] = []
        self._told: set[tuple[type[nn.Module], str]] = set()

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """A call inside finds known caches empty, and what it keeps is gone at the end."""
        with _emptied(self._caches):
            before = [(m, _held(m)) for m in self._module.modules()]
            try:
                yield
            finally:
                for m, held in before:
                    _put_back(m, held)

    def suspects(self) -> dict[str, list[tuple[nn.Module, str]]]:
        """Parameter → attributes of its module and of the one around it that may have been made of it."""
        holding: dict[str, list[tuple[nn.Module, str]]] = {}
        known = {(id(place.module), place.name) for place in self._caches}
        for path, m in self._module.named_modules():
            holding[path] = [
                (m, name)
                for name, value in vars(m).items()
                if name not in _OF_ALL and (id(m), name) not in known and _floats_in(value)
            ]
        found = {}
        for name, _ in self._module.named_parameters():
            path = name.rpartition(".")[0]
            places = holding.get(path, []) + (holding.get(path.rpartition(".")[0], []) if path else [])
            if places:
                found[name] = places
        return found

    def search(self, used: Callable[[], Collection[str]]) -> None:
        """Find caches: attributes without which a parameter has an influence that it does not have with them.

        Args:
            used: the names of the parameters that a call depends on. It leaves the module as it was.
        """
        suspects = self.suspects()
        if not suspects:
            return
        before = used()
        hidden = {name for name in suspects if name not in before}
        alike: dict[tuple[type[nn.Module], str], set[str]] = {}
        for name in sorted(hidden):
            for m, attribute in suspects[name]:
                alike.setdefault((type(m), attribute), set()).add(name)
        for (kind, attribute), names in alike.items():
            owners = {id(m): m for name in names for m, a in suspects[name] if type(m) is kind and a == attribute}
            for delete in (False, True):
                places = [_Place(m, attribute, delete) for m in owners.values()]
                try:
                    with _emptied(places):
                        seen = hidden.intersection(used())
                except Exception as error:  # of any kind: the model cannot do without them
                    if out_of_memory(error):
                        raise
                    continue
                if seen:
                    self._caches += places
                    hidden -= seen
                    break
        for name in sorted(hidden):
            for m, attribute in suspects[name]:
                if (type(m), attribute) not in self._told:
                    self._told.add((type(m), attribute))
                    log.warning(
                        f"{name} has no influence on the outputs, and {type(m).__name__} holds {attribute!r}: if that "
                        "was made of it by an earlier call, gradients miss it, so clear it before"
                    )


@contextmanager
def _emptied(places: Collection[_Place]) -> Iterator[None]:
    attributes = [(place, vars(place.module)[place.name]) for place in places if place.name in vars(place.module)]
    contents: dict[int, tuple[Any, Any]] = {}
    try:
        for place, value in attributes:
            now = vars(place.module)
            if place.delete:
                del now[place.name]
            elif isinstance(value, (dict, list)):  # in place: others may hold the same one
                contents.setdefault(id(value), (value, _content(value)))
                _fill(value, type(_content(value))())
            else:
                now[place.name] = None
        yield
    finally:
        for place, value in attributes:
            vars(place.module)[place.name] = value
        for container, content in contents.values():
            _fill(container, content)


def _held(m: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The plain attributes, and of dicts and lists what is in them."""
    return {
        name: (value, _content(value) if isinstance(value, (dict, list)) and len(value) <= _LARGE else None)
        for name, value in vars(m).items()
        if name not in _OF_ALL
    }


def _put_back(m: nn.Module, held: Mapping[str, tuple[Any, Any]]) -> None:
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
        if content is not None:
            _fill(value, content)


def _keeps_more(value: Any, before: Any, content: Any) -> bool:
    """Whether a tensor is there, or in there, that was not."""
    if isinstance(value, Tensor):
        return value is not before
    if not isinstance(value, (dict, list, tuple)) or len(value) > _LARGE or (value is before and content is None):
        return False
    earlier = content if content is not None else before
    known = {id(one) for one in (_inside(earlier) if isinstance(earlier, (dict, list, tuple)) else ())}
    return any(
        isinstance(one, Tensor) or (isinstance(one, (dict, list, tuple)) and _floats_in(one))
        for one in _inside(value)
        if id(one) not in known
    )


def _floats_in(value: Any, deep: int = _DEEP) -> bool:
    """Floating point tensors that are no parameters, by themselves or in containers."""
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter) and value.is_floating_point()
    if not isinstance(value, (dict, list, tuple)) or not deep or len(value) > _LARGE:
        return False
    return any(_floats_in(one, deep - 1) for one in _inside(value))


def _inside(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value


def _content(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _fill(container: Any, content: Any) -> None:
    """Put a container's content back if it has another; past what subclasses forbid."""
    if _same(_content(container), content):
        return
    if isinstance(container, list):
        container[:] = content
        return
    plain = OrderedDict if isinstance(container, OrderedDict) else dict
    plain.clear(container)
    plain.update(container, content)


def _same(one: Any, other: Any) -> bool:
    """Whether two copies of a container's content have the same objects in the same places."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))

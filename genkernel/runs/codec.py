"""Dataclasses of numbers to JSON and back, without loss and without pickle.

``pack`` writes NaN as null, and infinity as ``"inf"`` or ``"-inf"`` in fields that are hinted to hold
floats; ``unpack`` follows the same type hints to bring arrays, dataclasses, tuples, NaN and infinity
back. Files with null for infinity are read as well. It knows nothing about what it stores.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

import numpy as np

from genkernel.errors import InputError

T = TypeVar("T")

KIND = "@"  # key under which a dataclass names itself, so that unions can be told apart
INFINITE = {math.inf: "inf", -math.inf: "-inf"}  # how JSON holds them; float() reads both words


def pack(value: Any) -> Any:
    """``value`` in JSON types, for :func:`unpack`; fields with ``repr=False`` (replicates) are left out."""
    return _packed(value, named=True)


def json_ready(value: Any) -> Any:
    """The same for other readers: dataclasses become plain dicts that do not name themselves, infinity is null."""
    return _packed(value, named=False)


def _packed(value: Any, named: bool, floats: bool = False) -> Any:
    """``value`` in JSON types.

    Args:
        named: dataclasses name themselves, for :func:`unpack`.
        floats: ``value`` is of a field whose hint speaks of floats, so that a word for infinity can be told from text.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hinted = _with_floats(type(value)) if named else frozenset()
        stored = [f.name for f in dataclasses.fields(value) if f.repr]
        fields = {name: _packed(getattr(value, name), named, name in hinted) for name in stored}
        return {KIND: type(value).__name__, **fields} if named else fields
    if isinstance(value, Mapping):
        return {str(key): _packed(item, named, floats) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(item, named, floats) for item in value]
    if isinstance(value, np.ndarray):
        return _packed(value.tolist(), named, floats)
    if isinstance(value, np.generic):
        return _packed(value.item(), named, floats)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return INFINITE.get(value) if floats else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


@functools.cache
def _with_floats(cls: type) -> frozenset[str]:
    """Fields of a dataclass whose hints speak of floats, by themselves or in a container."""
    hints = typing.get_type_hints(cls)
    return frozenset(name for name, hint in hints.items() if _speaks_of_floats(hint))


def _speaks_of_floats(hint: Any) -> bool:
    return hint in (float, np.float64) or any(map(_speaks_of_floats, get_args(hint)))


def unpack(cls: type[T], data: Any) -> T:
    """The dataclass ``cls`` that :func:`pack` wrote as ``data``.

    Raises:
        InputError: the data are not those of a ``cls`` of this version.
    """
    try:
        return typing.cast(T, _as(cls, data))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the stored {cls.__name__} cannot be read by this version of genkernel: {error}") from error


def _as(hint: Any, data: Any) -> Any:
    """``data`` as the type ``hint`` says."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _as_union(arguments, data)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if data[KIND] != hint.__name__:
            raise ValueError(f"found {data[KIND]} where {hint.__name__} belongs")
        hints = typing.get_type_hints(hint)
        stored = {f.name for f in dataclasses.fields(hint) if f.name in data}
        return hint(**{name: _as(hints[name], data[name]) for name in stored})
    if origin is np.ndarray:
        kind = get_args(arguments[1])[0]
        if kind is np.float64:  # null is NaN, and words are infinite
            return np.array(data, dtype=object).astype(np.float64)
        return np.array(data, dtype=kind)
    if origin is tuple:
        kinds = (arguments[0],) * len(data) if arguments[1:] == (...,) else arguments
        return tuple(_as(kind, item) for kind, item in zip(kinds, data, strict=True))
    if origin is list:
        return [_as(arguments[0], item) for item in data]
    if origin is dict:
        return {_key(arguments[0], key): _as(arguments[1], item) for key, item in data.items()}
    if hint is float:
        return math.nan if data is None else float(data)
    return data


def _as_union(arguments: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in arguments:
        return None
    kinds = [a for a in arguments if a is not type(None)]
    if isinstance(data, dict) and KIND in data:
        kinds = [a for a in kinds if getattr(a, "__name__", "") == data[KIND]]
    if len(kinds) != 1:
        raise ValueError(f"no single type among {arguments} fits")
    return _as(kinds[0], data)


def _key(hint: Any, key: str) -> Any:
    return hint(key) if hint in (int, float) else key

"""Large arrays of a result, kept apart from its JSON: a kernel over 1,000 latents is 25 MB there, and 8 MB here."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from genkernel.errors import InputError
from genkernel.runs import write_atomic

LARGE = 40_000  # entries from which an array is kept apart

T = TypeVar("T")


def split_arrays(result: T) -> tuple[T, dict[str, np.ndarray]]:
    """A copy of a dataclass with empty arrays in the place of large ones, and those by their dotted names."""
    found: dict[str, np.ndarray] = {}
    return _without(result, "", found), found


def join_arrays(result: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays back in their places, in place.

    Raises:
        InputError: the result has no such place.
    """
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        holder = result
        for parent in parents:
            holder = getattr(holder, parent, None)
        if not hasattr(holder, leaf):
            raise InputError(f"the arrays of this run cannot be read by this version of genkernel: it has no {name!r}")
        setattr(holder, leaf, array)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write one compressed ``.npz``, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return write_atomic(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # truncated zips and bad CRCs each raise their own kind
        raise InputError(f"{path} cannot be read as the arrays of a genkernel run: {error}") from error


def _without(part: Any, name: str, found: dict[str, np.ndarray]) -> Any:
    changed = {}
    for field in dataclasses.fields(part):
        value, place = getattr(part, field.name), f"{name}{field.name}"
        if isinstance(value, np.ndarray) and value.size >= LARGE and value.dtype.kind in "fiub":
            found[place] = value
            changed[field.name] = value[:0]
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            lighter = _without(value, f"{place}.", found)
            if lighter is not value:
                changed[field.name] = lighter
    return dataclasses.replace(part, **changed) if changed else part

"""Arrays as callers give them: tensors with or without gradients, NumPy arrays of any layout, lists."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError


def as_tensor(given: Any, name: str) -> Tensor:
    """A tensor on the CPU without its graph, in the dtype that it came in.

    Args:
        given: a tensor, an array (any strides, byte order and flags), or a list of numbers (whose floats are float64).
        name: what it is called in the error.

    Raises:
        InputError: it is no array of numbers, or they are complex.
    """
    if isinstance(given, Tensor):
        return _real(given.detach().cpu(), name)
    if _strings(given) is not None:
        raise InputError(f"{name} is an array of numbers, and this one is of strings")
    array = _array(given)
    try:
        if array is not None and array.dtype.kind in "biufc":
            given = array
            kept = given.flags.writeable and given.dtype.isnative and min(given.strides, default=0) >= 0
            # torch takes no negative strides and no foreign bytes, and warns of what it may not write to
            given = given if kept else np.array(given, dtype=given.dtype.newbyteorder("="), order="C")
        found = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is an array of numbers, and this is none: {error}") from error
    return _real(found, name)


def as_labels(given: Any, name: str) -> Tensor:
    """As :func:`as_tensor`, for what may be classes: their names become whole numbers, a column ``[n, 1]`` a list.

    Args:
        given: an array as there, or names of classes ``[n]`` or ``[n, 1]``.
        name: what it is called in the error.

    Returns:
        ``[n]`` of whole numbers for names and for whole numbers (or booleans) ``[n]``, ``[n, 1]``; anything else as it
        is.

    Raises:
        InputError: neither numbers nor names, or several names for one sample.
    """
    names = _strings(given)
    if names is None:
        found = as_tensor(given, name)
        column = found.dim() == 2 and found.shape[1] == 1 < len(found) and not found.is_floating_point()
        return found[:, 0] if column else found
    if names.ndim != 1 and not (names.ndim == 2 and names.shape[1] == 1):
        raise InputError(f"{name} are names of classes, one per sample [n], not an array of shape {names.shape}")
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64))


def as_values(given: Any, name: str) -> Tensor:
    """Targets that are regressed on, in float64: finite, ``[n]`` or with more axes.

    Raises:
        InputError: names of classes, no array of numbers, a single number, or NaN and infinity.
    """
    if _strings(given) is not None:
        raise InputError(
            f"{name} is an array of numbers, and names of classes are none: give one-hot rows [n, classes], which can "
            "be regressed on"
        )
    found = as_tensor(given, name).double()
    if not found.dim():
        raise InputError(f"{name} are values at every sample [n, ...], not one number")
    if not torch.isfinite(found).all():
        raise InputError(f"{name} hold NaN or infinity")
    return found


def real_number(given: Any, name: str) -> float:
    """One number of any type, NaN and infinity among them.

    Raises:
        InputError: it is none, or several.
    """
    try:
        return float(given.item() if isinstance(given, (Tensor, np.ndarray)) and not given.ndim else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is one number, not {given!r}") from error


def unit_of(values: Tensor) -> float:
    """The largest absolute entry: what to divide by before squares are taken, which overflow and vanish from 1e±160 on.

    1 where all are zero.
    """
    return float(values.abs().max()) or 1.0 if values.numel() else 1.0


def whole_number(given: Any, name: str) -> int:
    """An integer of any type (not a float, even if it is whole).

    Raises:
        InputError: it is none.
    """
    try:
        return operator.index(given)
    except TypeError as error:
        raise InputError(f"{name} is a whole number, not {given!r}") from error


def _real(found: Tensor, name: str) -> Tensor:
    if found.is_complex():
        raise InputError(f"{name} is an array of real numbers, and this one is complex")
    return found


def _strings(given: Any) -> np.ndarray | None:
    """An array of strings as such; None where it is none."""
    if isinstance(given, Tensor):
        return None
    array = _array(given)
    if array is None:
        return None
    if array.dtype.kind == "O" and array.size and all(isinstance(entry, str) for entry in array.flat):
        array = array.astype(str)
    return array if array.dtype.kind in "US" else None


def _array(given: Any) -> np.ndarray | None:
    """None where NumPy sees no array in it (ragged lists, lists of tensors that require gradients)."""
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        return None

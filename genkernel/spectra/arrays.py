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
        given: a tensor, an array (any strides, byte order and flags), or a list of numbers.
        name: what it is called in the error.

    Raises:
        InputError: it is no array of numbers.
    """
    if isinstance(given, Tensor):
        return given.detach().cpu()
    try:
        if isinstance(given, np.ndarray):
            kept = given.flags.writeable and given.dtype.isnative and min(given.strides, default=0) >= 0
            # torch takes no negative strides and no foreign bytes, and warns of what it may not write to
            given = given if kept else np.array(given, dtype=given.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is an array of numbers, and this is none: {error}") from error


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

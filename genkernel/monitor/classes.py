"""Class labels of probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.monitor.trace import Array, Axis

Labels = NDArray[np.int64]


def class_indices(labels: Any, count: int) -> Labels:
    """Classes 0 … C−1 ``[count]`` of whole numbers, or of rows of one-hot vectors.

    Raises:
        InputError: another number of them, or something else than classes.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] > 1:
        values = values.argmax(1)
    values = values.reshape(-1)
    if len(values) != count:
        raise InputError(f"there are {count} probes and {len(values)} labels")
    if values.dtype.kind not in "iub" or (count and values.min() < 0):
        raise InputError(f"classes are whole numbers from 0 on, not {values.dtype}")
    return values.astype(np.int64)


def class_axis(labels: Labels, names: Sequence[str] | None) -> Axis:
    """One position per class, up to the largest label or the last name.

    Raises:
        InputError: fewer names than classes.
    """
    count = int(labels.max()) + 1
    if names is None:
        return Axis("class", [f"class {c}" for c in range(count)], [float(c) for c in range(count)], "class")
    if len(names) < count:
        raise InputError(f"there are {count} classes among the labels and {len(names)} names")
    return Axis("class", [str(name) for name in names], [float(c) for c in range(len(names))], "class")


def mean_by_class(values: Array, of: Labels, count: int) -> Array:
    """Means over the samples of every class ``[count]``; NaN for a class without any.

    Args:
        values: of the samples ``[n]``.
        of: their classes ``[n]``.
    """
    return np.array([values[of == c].mean() if (of == c).any() else math.nan for c in range(count)])

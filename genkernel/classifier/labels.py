"""Classes of samples as whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import InputError

Labels = NDArray[np.int64]


def class_indices(labels: Any, count: int, what: str = "probes") -> Labels:
    """Classes 0 … C−1 ``[count]`` of whole numbers, or of rows of one-hot vectors.

    Raises:
        InputError: another number of them, or something else than classes.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] > 1:
        values = values.argmax(1)
    values = values.reshape(-1)
    if len(values) != count:
        raise InputError(f"there are {count} {what} and {len(values)} labels")
    if values.dtype.kind not in "iub" or (count and values.min() < 0):
        raise InputError(f"classes are whole numbers from 0 on, not {values.dtype}")
    return values.astype(np.int64)


def balanced(labels: Labels, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Places of at most ``limit`` samples, as many of every class as there are and fit, in rising order.

    Classes take turns, so that a rare one gives all it has and the others share the rest.
    """
    draw = np.random.default_rng(seed)
    turns = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        turns[draw.permutation(mine)] = np.arange(len(mine))
    last = np.lexsort((draw.permutation(len(labels)), turns))
    return np.sort(last[:limit])

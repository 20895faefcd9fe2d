"""What is read from courses over training: means over steps, values at equal loss, how often a course turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def mean_over_steps(values: ArrayLike, moments: Sequence[int]) -> Array:
    """The mean height of courses ``[..., T]`` over the whole training, by trapezoids between the moments.

    Of two courses to the same height, the earlier one has the larger mean.
    """
    at = np.asarray(moments, dtype=np.float64)
    return np.asarray(np.trapezoid(np.asarray(values, dtype=np.float64), at, axis=-1) / (at[-1] - at[0]))


def at_level(loss: ArrayLike, values: ArrayLike, level: float) -> Array:
    """Values ``[R, T]`` where the loss ``[R, T]`` first falls to a level ``[R]``; NaN where it does not.

    Between two moments the values are taken as linear in the logarithm of the loss.
    """
    found = []
    for one, course in zip(np.asarray(loss, dtype=np.float64), np.asarray(values, dtype=np.float64), strict=True):
        below = np.flatnonzero(one <= level)
        if not len(below):
            found.append(np.nan)
            continue
        t = int(below[0])
        if t == 0:
            found.append(course[0])
            continue
        part = np.log(one[t - 1] / level) / np.log(one[t - 1] / one[t])
        found.append(course[t - 1] + part * (course[t] - course[t - 1]))
    return np.array(found)


def detour(values: ArrayLike) -> Array:
    """How much longer courses ``[..., T]`` are than their net change: 0 for a monotone one, else what it takes back.

    Twice the sum of all moves against the net direction.
    """
    v = np.asarray(values, dtype=np.float64)
    return np.asarray(np.abs(np.diff(v, axis=-1)).sum(-1) - np.abs(v[..., -1] - v[..., 0]))

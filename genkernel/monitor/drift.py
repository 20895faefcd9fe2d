"""How far a kernel has moved."""

from __future__ import annotations

import math

import numpy as np

from genkernel.monitor.trace import Array


def drift(one: Array, other: Array) -> float:
    """1 − cosine of two kernels, each less its mean: 0 for the same shape, whatever its scale and offset.

    Entries that are NaN in either are left out; NaN where fewer than two are left, or a kernel is constant.

    Args:
        one, other: of the same shape.
    """
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < 2:
        return math.nan
    a, b = one[known] - one[known].mean(), other[known] - other[known].mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1 - float((a * b).sum()) / size if size > 0 else math.nan

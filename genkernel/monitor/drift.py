"""How far a kernel has moved."""

from __future__ import annotations

import math

import numpy as np

from genkernel.monitor.trace import Array, Trace
from genkernel.monitor.watch import Values


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


def drifts(name: str, values: Values, before: Trace) -> dict[str, float]:
    """``kernel/drift`` and ``kernel/drift_last``: of the array ``name`` since the first reading, and since the last.

    Args:
        values: of this reading.
        before: the readings before it; those without the array are passed over.
    """
    earlier = [reading.arrays[name] for reading in before.readings if name in reading.arrays]
    if not earlier or name not in values:
        return {}
    now = np.asarray(values[name])
    ends = {"kernel/drift": earlier[0], "kernel/drift_last": earlier[-1]}
    return {key: drift(now, np.asarray(other)) for key, other in ends.items()}

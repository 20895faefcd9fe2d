"""Spearman's rank correlation, and what is left of it with the ranks of other variables held fixed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def rank_correlation(one: ArrayLike, other: ArrayLike, *given: ArrayLike) -> float:
    """Spearman's correlation of two variables ``[n]``, with the ranks of others held fixed linearly.

    NaN for fewer than three samples, and where one of the two does not vary, or not beyond what is held fixed.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values).astype(np.float64) for values in (one, other, *given)]
    if len(ranks[0]) < 3:
        return math.nan
    known = np.stack([np.ones(len(ranks[0])), *ranks[2:]], 1)
    left = [values - known @ np.linalg.lstsq(known, values, rcond=None)[0] for values in ranks[:2]]
    spread = [float(np.linalg.norm(rest)) for rest in left]
    size = float(np.linalg.norm(ranks[0] - ranks[0].mean()))
    if min(spread) <= 1e-9 * max(size, 1.0):
        return math.nan
    return float(left[0] @ left[1]) / (spread[0] * spread[1])

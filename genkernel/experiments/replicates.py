"""Means over independent replicates of a study, their uncertainty, and what differences between cases say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from genkernel.plots import style

SURE = 0.95  # confidence of an interval


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean over the replicates and its standard error (nan for one replicate)."""
    v = np.asarray(values, dtype=np.float64)
    return float(v.mean()), float(v.std(ddof=1) / math.sqrt(len(v))) if len(v) > 1 else math.nan


def around(values: Any) -> tuple[float, float]:
    """95 % interval of the mean by Student's t, which few replicates need; nan for one replicate or none."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    mean, error = mean_and_error(values)
    half = float(t.ppf((1 + SURE) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def pair(values: Any) -> str:
    """A mean and its standard error, in words; replicates that are nan are left out."""
    return style.pair(*mean_and_error([v for v in values if not math.isnan(v)] or [math.nan]))


def above(*intervals: tuple[float, float]) -> str:
    """Whether some differences are above zero.

    Args:
        intervals: the least and the most that each of them may be.

    Returns:
        "yes" if all are, "partly" if some are, "no" if none is and some are below zero, "undecided" otherwise.
    """
    up, down = [low > 0 for low, _ in intervals], [high < 0 for _, high in intervals]
    if not intervals or any(end != end for ends in intervals for end in ends):
        return "undecided"
    return "yes" if all(up) else "partly" if any(up) else "no" if any(down) else "undecided"

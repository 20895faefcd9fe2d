"""Means over independent replicates of a study, their uncertainty, and what differences between cases say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from genkernel.experiments.outcome import verdict
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


def is_above(interval: tuple[float, float], level: float = 0.0) -> bool | None:
    """Whether a mean is above a level: None where its interval has the level in it, or no ends."""
    low, high = interval
    return True if low > level else False if high <= level else None


def is_below(interval: tuple[float, float], level: float = 0.0) -> bool | None:
    """Whether a mean is below a level: None where its interval has the level in it, or no ends."""
    low, high = interval
    return True if high < level else False if low >= level else None


def is_within(interval: tuple[float, float], bound: float) -> bool | None:
    """Whether a mean is nearer to zero than a bound: None where its interval says neither."""
    low, high = interval
    return True if -bound < low and high < bound else False if low >= bound or high <= -bound else None


def above(*intervals: tuple[float, float], level: float = 0.0) -> str:
    """The verdict (:func:`~genkernel.experiments.outcome.verdict`) on all of some means being above a level."""
    return verdict(is_above(interval, level) for interval in intervals)


def below(*intervals: tuple[float, float], level: float = 0.0) -> str:
    """The verdict on all of some means being below a level."""
    return verdict(is_below(interval, level) for interval in intervals)


def share(hits: int, of: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a proportion (Wilson 1927); NaN of nothing."""
    if of == 0:
        return math.nan, math.nan
    from scipy.stats import binomtest

    ends = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return float(ends.low), float(ends.high)

"""How well predictions order what happened: correlations by query, with bootstrap intervals over what was predicted.

Intervals resample the units (groups, subsets, weightings) alone: queries and trainings are as they are. They are basic
bootstrap intervals, 2θ - q: units that are drawn twice are ties, which pull rank correlations of resamples down by as
much as the percentile interval then lies too low (in simulations with 12 to 96 units it covered the truth in 50 to 92 %
of the cases, the basic one in 92 to 100 %).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Correlations over units (groups, subsets, weightings), averaged over queries.

    Attributes:
        spearman: mean over the queries; NaN where no query has one.
        low, high: 95 % of the basic bootstrap over units.
        pearson: mean over the queries.
        slope: of what happened on what was predicted, both centred by query, in one least-squares fit.
        size: ‖predicted‖ / ‖happened‖, both centred by query: how many times too large predictions are.
        units, queries: how many.
    """

    spearman: float
    low: float
    high: float
    pearson: float
    slope: float
    size: float
    units: int
    queries: int

    def numbers(self) -> dict[str, float | int]:
        """As plain numbers."""
        return asdict(self)


def agreement(predicted: Array, actual: Array, *, seed: int = 0, resamples: int = 200) -> Agreement:
    """Compare predictions ``[U, Q]`` with what happened ``[U, Q]``, over the U units of each of Q queries.

    Args:
        seed, resamples: of the bootstrap; no interval without resamples.
    """
    units, queries = predicted.shape

    def statistic(index: NDArray[np.int64]) -> float:
        return mean_spearman(predicted[index], actual[index])

    whole, low, high = _bootstrapped(statistic, units, seed, resamples)
    x, y = predicted - predicted.mean(0), actual - actual.mean(0)
    squared, happened = float((x * x).sum()), float((y * y).sum())
    return Agreement(
        spearman=whole,
        low=low,
        high=high,
        pearson=_mean(correlations(predicted, actual)),
        slope=float((x * y).sum()) / squared if squared else float("nan"),
        size=(squared / happened) ** 0.5 if happened else float("nan"),
        units=units,
        queries=queries,
    )


def pooled(predicted: Array, actual: Array, *, seed: int = 0, resamples: int = 200) -> tuple[float, float, float]:
    """Spearman over all entries ``[U, Q]`` at once, and 95 % of the bootstrap over the U units."""

    def statistic(index: NDArray[np.int64]) -> float:
        return mean_spearman(predicted[index].reshape(-1, 1), actual[index].reshape(-1, 1))

    return _bootstrapped(statistic, len(predicted), seed, resamples)


def difference(
    one: Array, other: Array, actual: Array, *, seed: int = 0, resamples: int = 200
) -> tuple[float, float, float]:
    """By how much one prediction ranks better than another, and 95 % of the paired bootstrap over units.

    Args:
        one, other, actual: ``[U, Q]``, the same units of the same queries.
        seed, resamples: of the bootstrap.
    """

    def statistic(index: NDArray[np.int64]) -> float:
        return mean_spearman(one[index], actual[index]) - mean_spearman(other[index], actual[index])

    return _bootstrapped(statistic, len(actual), seed, resamples, size=2.0)


def attainable(effects: Array) -> float:
    """The rank correlation with the mean of S repetitions that knowing its expectation would reach.

    The square root of the mean's reliability, which follows from how well single repetitions agree (Spearman's and
    Brown's formula): √(S r / (1 + (S - 1) r)).

    Args:
        effects: ``[S, U, Q]``, what happened in S ≥ 2 repetitions.

    Returns:
        NaN where repetitions do not agree at all.
    """
    count = len(effects)
    r = _mean(np.array([mean_spearman(effects[s], effects[t]) for s in range(count) for t in range(s)]))
    return float((count * r / (1 + (count - 1) * r)) ** 0.5) if r > 0 else float("nan")


def chance(actual: Array, *, seed: int = 0, draws: int = 100) -> Agreement:
    """What predictions drawn at random reach: the mean, and 95 % of the draws."""
    draw = np.random.default_rng(seed)
    found = np.array([mean_spearman(draw.normal(size=actual.shape), actual) for _ in range(draws)])
    low, high = (float(v) for v in np.percentile(found, [2.5, 97.5]))
    nan = float("nan")
    return Agreement(float(found.mean()), low, high, nan, nan, nan, *actual.shape)


def mean_spearman(predicted: Array, actual: Array) -> float:
    """Rank correlation over the first axis, averaged over the second."""
    from scipy.stats import rankdata

    return _mean(correlations(rankdata(predicted, axis=0), rankdata(actual, axis=0)))


def correlations(a: Array, b: Array) -> Array:
    """Pearson's correlation of every pair of columns ``[Q]``; NaN for a constant one."""
    x, y = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(size > 0, (x * y).sum(0) / size, np.nan)
    return found


def _mean(values: Array) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else float("nan")


def _bootstrapped(
    statistic: Callable[[NDArray[np.int64]], float], units: int, seed: int, resamples: int, size: float = 1.0
) -> tuple[float, float, float]:
    """A statistic of all units, and 95 % of the basic bootstrap within ±size.

    Draws without a value (units all alike) are left out.
    """
    whole = statistic(np.arange(units))
    if units < 3 or not resamples or not np.isfinite(whole):
        return whole, float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    found = np.array([statistic(draw.integers(units, size=units)) for _ in range(resamples)])
    low, high = np.percentile(found[np.isfinite(found)], [2.5, 97.5])
    return whole, float(max(2 * whole - high, -size)), float(min(2 * whole - low, size))

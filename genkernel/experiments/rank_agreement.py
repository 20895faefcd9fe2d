"""How well predictions order what happened: correlations by query, with bootstrap intervals over what was predicted."""

from __future__ import annotations

import warnings
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
        low, high: 95 % of the bootstrap over units (percentiles).
        pearson: mean over the queries.
        slope: of what happened on what was predicted, both centred by query, in one least-squares fit.
        units, queries: how many.
    """

    spearman: float
    low: float
    high: float
    pearson: float
    slope: float
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
    squared = float((x * x).sum())
    return Agreement(
        spearman=whole,
        low=low,
        high=high,
        pearson=_mean(correlations(predicted, actual)),
        slope=float((x * y).sum()) / squared if squared else float("nan"),
        units=units,
        queries=queries,
    )


def pooled(predicted: Array, actual: Array, *, seed: int = 0, resamples: int = 200) -> tuple[float, float, float]:
    """Spearman over all entries ``[U, Q]`` at once, and 95 % of the bootstrap over the U units."""

    def statistic(index: NDArray[np.int64]) -> float:
        return mean_spearman(predicted[index].reshape(-1, 1), actual[index].reshape(-1, 1))

    return _bootstrapped(statistic, len(predicted), seed, resamples)


def chance(actual: Array, *, seed: int = 0, draws: int = 100) -> Agreement:
    """What predictions drawn at random reach: the mean, and 95 % of the draws."""
    draw = np.random.default_rng(seed)
    found = np.array([mean_spearman(draw.normal(size=actual.shape), actual) for _ in range(draws)])
    low, high = (float(v) for v in np.percentile(found, [2.5, 97.5]))
    nan = float("nan")
    return Agreement(float(found.mean()), low, high, nan, nan, *actual.shape)


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
    statistic: Callable[[NDArray[np.int64]], float], units: int, seed: int, resamples: int
) -> tuple[float, float, float]:
    """A statistic of all units, and 95 % of it over resampled ones (draws of units all alike have no value)."""
    from scipy.stats import bootstrap

    every = np.arange(units)
    whole = statistic(every)
    if units < 3 or not resamples or not np.isfinite(whole):
        return whole, float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws without a value
        found = bootstrap(
            (every,), statistic, n_resamples=resamples, method="percentile", vectorized=False,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    drawn = found.bootstrap_distribution
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return whole, float(low), float(high)

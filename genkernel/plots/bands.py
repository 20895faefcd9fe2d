"""Courses over training with what several seeds leave open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]


def half_interval(values: ArrayLike) -> Array:
    """Half of the 95 % interval of the mean over the first axis, by Student's t; zeros with one seed."""
    from scipy.stats import t

    v = np.asarray(values, dtype=np.float64)
    n = len(v)
    return np.asarray(t.ppf(0.975, n - 1) * v.std(0, ddof=1) / n**0.5) if n > 1 else np.zeros(v.shape[1:])


def band(axes: Axes, at: ArrayLike, values: ArrayLike, colour: str, least: float, most: float, **how: Any) -> None:
    """Mean of ``[seeds, T]`` with its 95 % interval, which ends where values can be no smaller or larger."""
    v = np.asarray(values, dtype=np.float64)
    mean, half = v.mean(0), half_interval(v)
    low, high = (mean - half).clip(min=least), (mean + half).clip(max=most)
    axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(at, mean, color=colour, **how)


def step_axis(axes: Axes, moments: Sequence[int], label: str = "training step") -> None:
    """Steps on a logarithmic axis that has room for the start, 0."""
    first = min(m for m in moments if m > 0)
    axes.set_xscale("symlog", linthresh=first, linscale=0.4)
    axes.set_xlim(0, max(moments) * 1.08)
    ticks = [0, *(10**p for p in range(0, 7) if first <= 10**p <= max(moments))]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)

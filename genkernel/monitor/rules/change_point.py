"""Change points: a number that leaves the course that its own history foretells.

Every value is forecast from the readings before it by a robust straight line; the errors of these forecasts, in units
of their own past size, are summed up one-sidedly (CUSUM: Page 1954). A slow course, as of a loss that falls, is thus
no change; a step or a new slope is.

The alarm level follows from a stated rate of false alarms. It was found by simulation
(:func:`simulated_level`) with independent errors that have the tails of Student's t with 5 degrees of freedom, with
forecasts and scale estimated as here.
"""

from __future__ import annotations

import itertools
import math
from bisect import insort
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from genkernel.errors import InputError
from genkernel.monitor.trace import Alert, Array, Trace

WINDOW = 8  # readings that a forecast is made from
FEWEST = 8  # readings before the first that is judged
LONGEST = 200  # readings that are looked back at, so that a long run is judged at the price of a short one
SLACK = 0.5  # standard deviations per reading that are no change
MOVED = 2.0  # sizes of errors that a value has to have moved by since its sum began
ROUNDING = 1e-6  # of a number, that readings of the same weights may differ by
CLIP = 6.0  # largest contribution of one reading
DEGREES = 5  # of freedom of the errors that the level is found for
HORIZON = 100  # readings that the rate of false alarms is stated for

# share of series with a false alarm within HORIZON readings, in one direction -> level: 200,000 series as in
# simulated_level
LEVELS = {
    0.1: 5.89, 0.05: 6.80, 0.02: 8.06, 0.01: 9.04, 0.005: 10.2, 0.002: 11.5, 0.001: 12.7, 0.0005: 13.9, 0.0002: 15.4,
    0.0001: 16.6,
}  # fmt: skip

Transform = Literal["log", "as it is"]


def forecast_errors(values: Array, window: int = WINDOW) -> Array:
    """Errors of forecasts by a line through the ``window`` readings before ``[k]``; NaN for the first four.

    The line is that of Theil and Sen: the median slope over pairs, and the median intercept.
    """
    errors = np.full(len(values), math.nan)
    whole = np.zeros(len(values), dtype=bool)
    if len(values) > window:  # all at once where nothing is missing: rules ask this of every series at every reading
        before = np.lib.stride_tricks.sliding_window_view(values[:-1], window)
        whole[window:] = np.isfinite(before).all(1) & np.isfinite(values[window:])
        before = before[whole[window:]]
        x = np.arange(window, dtype=np.float64)
        i, j = np.triu_indices(window, 1)
        slopes = np.median((before[:, j] - before[:, i]) / (x[j] - x[i]), axis=1)
        starts = np.median(before - slopes[:, None] * x, axis=1)
        errors[whole] = values[whole] - (starts + slopes * window)
    for k in np.flatnonzero(~whole)[4:]:
        past = values[max(0, k - window) : k]
        known = np.isfinite(past)
        if known.sum() < 4 or not math.isfinite(values[k]):
            continue
        x, y = np.flatnonzero(known).astype(np.float64), past[known]
        i, j = np.triu_indices(len(x), 1)
        slope = float(np.median((y[j] - y[i]) / (x[j] - x[i])))
        errors[k] = values[k] - (float(np.median(y - slope * x)) + slope * len(past))
    return errors


def cusum(errors: Array, direction: int, rounding: float = 0.0) -> tuple[Array, Array]:
    """One-sided sums ``[k]`` of errors in units of their own past size, and the readings ``[k]`` where each sum began.

    Args:
        errors: of forecasts; NaN where there is none.
        direction: +1 or −1.
        rounding: errors up to this are none. A number that has not changed so far, as of a network that is frozen, has
            no size of errors, and nothing is summed until there are four.
    """
    sums, began = np.zeros(len(errors)), np.zeros(len(errors), dtype=np.float64)
    total, start = 0.0, 0
    past: list[float] = []  # sizes of the errors so far, in order
    for k, error in enumerate(errors.tolist()):
        if k >= FEWEST and len(past) >= 4 and math.isfinite(error):
            if total == 0:
                start = k
            half = len(past) // 2
            size = 1.4826 * (past[half] if len(past) % 2 else (past[half - 1] + past[half]) / 2)
            total = max(0.0, total + min(direction * error / size, CLIP) - SLACK)
        sums[k], began[k] = total, start if total > 0 else k
        if abs(error) > rounding:  # NaN is not
            insort(past, abs(error))
    return sums, began


def _size(errors: Array) -> float:
    """Robust standard deviation of errors around 0; 0 where there are none."""
    known = errors[np.isfinite(errors)]
    return 1.4826 * float(np.median(np.abs(known))) if len(known) else 0.0


def simulated_level(rate: float, series: int = 2000, seed: int = 0) -> float:
    """The level that a share ``rate`` of series without any change passes within :data:`HORIZON` readings."""
    draw = np.random.default_rng(seed)
    highest = []
    for _ in range(series):
        values = draw.standard_t(DEGREES, FEWEST + HORIZON)
        highest.append(cusum(forecast_errors(values), 1)[0].max())
    return float(np.quantile(highest, 1 - rate))


@dataclass(frozen=True)
class ChangePoint:
    """Alarms when a scalar, or an entry of an array along one axis, leaves its course.

    Args:
        name: of the rule.
        of: name of the scalar, or of an array along one axis: then every entry is watched, and ``rate`` is shared out.
        direction: +1 for what must not rise, −1 for what must not fall.
        says: the message; ``{place}``, ``{now}``, ``{before}``, ``{since}``, ``{step}`` are filled in.
        transform: ``"log"`` for positive numbers whose ratios count.
        rate: share of runs of a hundred readings with a false alarm, for errors as in :data:`LEVELS`.
        floor: smallest change, after the transform, that is worth an alarm.

    Raises:
        InputError: a direction or rate that there is not.
    """

    name: str
    of: str
    direction: int
    says: str
    transform: Transform = "as it is"
    rate: float = 0.01
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.direction not in (-1, 1):
            raise InputError(f"direction is +1 (must not rise) or -1 (must not fall), not {self.direction!r}")
        if not min(LEVELS) <= self.rate <= max(LEVELS):
            raise InputError(f"rate lies between {min(LEVELS)} and {max(LEVELS)}, not at {self.rate!r}")

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= FEWEST:
            return []
        trace = replace(trace, readings=trace.readings[-LONGEST:])
        if self.of in trace.header.arrays:
            table, places = trace.array(self.of), trace.axes(self.of)[0]
            level = level_for(self.rate / max(1, table.shape[1]))
            found = [
                self._found(trace, table[:, j], label, places.name, level) for j, label in enumerate(places.labels)
            ]
        else:
            found = [self._found(trace, trace.scalar(self.of), "", "", level_for(self.rate))]
        return [alert for alert in found if alert is not None]

    def _found(self, trace: Trace, values: Array, place: str, axis: str, level: float) -> Alert | None:
        course = _logarithm(values) if self.transform == "log" else values
        course = np.where(np.isfinite(course), course, math.nan)
        errors = forecast_errors(course)
        sums, began = cusum(errors, self.direction, ROUNDING * (1.0 if self.transform == "log" else _scale(course)))
        if not sums[-1] > level or not math.isfinite(values[-1]):
            return None
        start = int(began[-1])
        earlier = np.flatnonzero(np.isfinite(course[:start]))[-1]
        before = float(values[earlier])
        moved = self.direction * float(course[-1] - course[earlier])
        if self.transform == "log" and before == 0 and self.direction > 0:
            return None  # any number is infinitely more than none
        # errors of one sign add up too where a course only bends back from a change the other way
        if not moved > max(self.floor, MOVED * _size(errors[:start])):
            return None
        steps = trace.steps
        since, now = int(steps[start]), float(values[-1])
        filled = {"place": place, "now": now, "before": before, "since": since, "step": int(steps[-1])}
        return Alert(
            rule=self.name,
            message=self.says.format(**filled),
            step=int(steps[-1]),
            since=since,
            where=[place] if place else [],
            axis=axis,
            evidence={"now": now, "before": before, "cusum": float(sums[-1]), "level": level},
        )


def _scale(values: Array) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(np.median(known)) if len(known) else 0.0


def _logarithm(values: Array) -> Array:
    """NaN of negative values; 0 counts as a thousandth of the smallest that is not, or what vanishes has no change."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return np.full(len(values), math.nan)
    return np.log(np.where(values >= 0, np.maximum(values, 1e-3 * positive.min()), math.nan))


def level_for(rate: float) -> float:
    """The level for a rate, between those of :data:`LEVELS` by its logarithm; beyond them by the last two."""
    rates = sorted(LEVELS, reverse=True)
    for high, low in itertools.pairwise(rates):
        if rate >= low or low == rates[-1]:
            share = math.log(high / rate) / math.log(high / low)
            return LEVELS[high] + share * (LEVELS[low] - LEVELS[high])
    return LEVELS[rates[0]]

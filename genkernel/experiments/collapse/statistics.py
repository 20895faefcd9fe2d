"""What the runs of the collapse study say about each indicator.

Three questions are kept apart, because an indicator can answer one and fail another:

- *at the end*: does it tell the generators that ended collapsed from those that ended healthy?
- *ahead*: among copies that still hold their modes, does it tell those that lose half of them within the next
  :data:`HORIZON` steps from those that do not?
- *at equal occupancy*: the same two questions between copies whose occupancy dominance is nearly equal, so that what
  the counts of samples already say is not credited to a kernel.

Directions are those of :data:`genkernel.gan.indicators.INDICATORS` and were fixed beforehand: an area under the curve
below a half is an indicator that points the wrong way. Intervals resample runs, not copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Run = dict[str, Any]

HEALTHY, COLLAPSED, PARTIAL, DIVERGED = "healthy", "collapsed", "partial", "diverged"
SMOOTH = 5  # copies whose median is the number of modes held: a generator that oscillates has not collapsed
COVERED, LOST = 0.75, 0.5  # shares of the modes: held at first, and at most held after a drop
HORIZON = 500  # steps ahead
WARM_UP = 500  # steps before which nothing is called an alarm
PERSISTENT = 3  # copies in a row beyond the threshold that make an alarm
FALSE_ALARMS = 0.02  # share of healthy copies beyond the threshold, where it is chosen
NEAR = 0.05  # difference of occupancy dominance up to which two copies are matched
# what a singular ∂G/∂z makes infinite, which files of JSON hold as null
INFINITE = {"condition_number": math.inf, "log_volume": -math.inf}
LOSSES = {"d_loss": "discriminator loss", "g_loss": "generator loss"}


@dataclass(frozen=True)
class Area:
    """An area under a ROC curve with its 95 % interval over runs.

    Attributes:
        value: 0.5 for no separation, 1 for a perfect one, below 0.5 where the direction is wrong.
        low, high: of the interval; NaN where there are too few runs.
        positives, negatives: copies (or runs) compared.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def modes_held(run: Run) -> Array:
    """Share of the modes held at each copy, the median of the last :data:`SMOOTH` ones ``[rows]``."""
    raw = np.array([row["held"] / row["modes"] for row in run["rows"]])
    return np.array([np.median(raw[max(0, k - SMOOTH + 1) : k + 1]) for k in range(len(raw))])


def outcome(run: Run) -> str:
    """How a run ended: ``"healthy"`` with nine tenths of the modes or more, ``"collapsed"`` with half or fewer."""
    if run["diverged"]:
        return DIVERGED
    end = float(np.median([row["held"] / row["modes"] for row in run["rows"][-3:]]))
    return HEALTHY if end >= 0.9 else COLLAPSED if end <= LOST else PARTIAL


def drop(run: Run) -> int | None:
    """The row at which a run that held its modes has lost half of them; None if it never did.

    From that row on the median of :data:`SMOOTH` copies ahead is at most half of what was held before.
    """
    raw = np.array([row["held"] / row["modes"] for row in run["rows"]])
    before = modes_held(run)
    best = 0.0
    for k in range(1, len(raw) - SMOOTH + 1):
        best = max(best, before[k - 1])
        if best >= COVERED and raw[k] <= LOST * best and np.median(raw[k : k + SMOOTH]) <= LOST * best:
            return k
    return None


def values(run: Run, name: str) -> Array:
    """An indicator, or a loss, at every copy of a run ``[rows]``; NaN where it is missing."""
    if name in LOSSES:
        found = [row.get(name) for row in run["rows"]]
    else:
        found = [row["indicators"].get(name, math.nan) for row in run["rows"]]
    missing = INFINITE.get(name, math.nan)
    return np.array([missing if v is None else v for v in found], dtype=np.float64)


def area(scores: Sequence[Array], marks: Sequence[NDArray[np.bool_]], draws: int = 400, seed: int = 0) -> Area:
    """Area under the ROC curve of scores (larger = worse) for marks, both one array per run.

    NaN are left out; what is infinite is the largest or the smallest. The interval draws runs with replacement.
    """
    kept = [~np.isnan(s) for s in scores]
    s = [a[k] for a, k in zip(scores, kept, strict=True)]
    m = [a[k] for a, k in zip(marks, kept, strict=True)]
    value = _auc(s, m)
    positives = int(sum(a.sum() for a in m))
    negatives = int(sum((~a).sum() for a in m))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws if math.isfinite(value) else 0):
        chosen = rng.integers(len(s), size=len(s))
        found.append(_auc([s[k] for k in chosen], [m[k] for k in chosen]))
    finite = [f for f in found if math.isfinite(f)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) > draws / 2 else (math.nan, math.nan)
    return Area(value, float(low), float(high), positives, negatives)


def matched_area(
    scores: Sequence[Array],
    marks: Sequence[NDArray[np.bool_]],
    match: Sequence[Array],
    width: float = NEAR,
    draws: int = 200,
    seed: int = 0,
) -> Area:
    """The same over pairs alone whose ``match`` differs by at most ``width``.

    The share of pairs (one positive, one negative copy of different runs) in which the positive has the larger score,
    ties counting half: for all pairs it is the area under the ROC curve.
    """
    rows = np.concatenate([np.full(len(s), k) for k, s in enumerate(scores)])
    s, m, x = (np.concatenate(list(parts)) for parts in (scores, marks, match))
    good = ~np.isnan(s) & np.isfinite(x)
    rows, s, m, x = rows[good], s[good], m[good], x[good]
    p, n = np.flatnonzero(m), np.flatnonzero(~m)
    pairs = (np.abs(x[p][:, None] - x[n][None, :]) <= width) & (rows[p][:, None] != rows[n][None, :])
    wins = np.where(s[p][:, None] > s[n][None, :], 1.0, np.where(s[p][:, None] == s[n][None, :], 0.5, 0.0))

    def share(weight: Array) -> float:
        w = pairs * weight[rows[p]][:, None] * weight[rows[n]][None, :]
        total = w.sum()
        return float((w * wins).sum() / total) if total else math.nan

    value = share(np.ones(len(scores)))
    rng = np.random.default_rng(seed)
    found = [share(np.bincount(rng.integers(len(scores), size=len(scores)), minlength=len(scores)).astype(float))
             for _ in range(draws if math.isfinite(value) else 0)]  # fmt: skip
    finite = [f for f in found if math.isfinite(f)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) > draws / 2 else (math.nan, math.nan)
    return Area(value, float(low), float(high), int(pairs.any(1).sum()), int(pairs.any(0).sum()))


def at_the_end(runs: Iterable[Run], name: str, worse: int) -> tuple[list[Array], list[NDArray[np.bool_]]]:
    """The last value of every healthy and every collapsed run, oriented, and which of them collapsed."""
    kept = [run for run in runs if outcome(run) in (HEALTHY, COLLAPSED)]
    return (
        [worse * values(run, name)[-1:] for run in kept],
        [np.array([outcome(run) == COLLAPSED]) for run in kept],
    )


def ahead(runs: Iterable[Run], name: str, worse: int) -> tuple[list[Array], list[NDArray[np.bool_]], list[Array]]:
    """Copies that still hold their modes: their value, whether the drop comes within the horizon, their occupancy.

    Copies between a drop's horizon and the drop are positives; those of runs without a drop, and those earlier than
    twice the horizon before one, are negatives; the rest is left out. So are the first :data:`WARM_UP` steps.
    """
    scores, marks, match = [], [], []
    for run in runs:
        if run["diverged"]:
            continue
        steps = np.array([row["step"] for row in run["rows"]])
        fallen = drop(run)
        raw = np.array([row["held"] / row["modes"] for row in run["rows"]])
        covered = (modes_held(run) >= COVERED) & (raw >= COVERED) & (steps >= WARM_UP)
        if fallen is None:
            # the end of training hides what would have come next
            known = covered & (steps + HORIZON <= steps[-1])
            mark = np.zeros(len(steps), dtype=bool)
        else:
            left = steps[fallen] - steps
            mark = (left > 0) & (left <= HORIZON)
            known = covered & (mark | (left > 2 * HORIZON))
        if known.any():
            scores.append(worse * values(run, name)[known])
            marks.append(mark[known])
            match.append(values(run, "occupancy_dominance")[known])
    return scores, marks, match


def towards(runs: Iterable[Run], name: str, worse: int) -> tuple[list[Array], list[NDArray[np.bool_]], list[Array]]:
    """Every copy after the warm-up of runs that ended healthy or collapsed: its value, which of both, its occupancy."""
    scores, marks, match = [], [], []
    for run in runs:
        if outcome(run) not in (HEALTHY, COLLAPSED):
            continue
        kept = np.array([row["step"] for row in run["rows"]]) >= WARM_UP
        scores.append(worse * values(run, name)[kept])
        marks.append(np.full(int(kept.sum()), outcome(run) == COLLAPSED))
        match.append(values(run, "occupancy_dominance")[kept])
    return scores, marks, match


def end_threshold(runs: Iterable[Run], name: str, worse: int) -> float:
    """The value between healthy and collapsed ends with the largest sum of both rates, in the middle of its gap."""
    scores, marks = at_the_end(runs, name, worse)
    s, m = np.concatenate(scores), np.concatenate(marks)
    s, m = s[~np.isnan(s)], m[~np.isnan(s)]
    order = np.unique(s[np.isfinite(s)])
    if not m.any() or m.all() or not len(order):
        return math.nan
    cuts = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2, [order[-1] + 1]])
    gain = [np.mean(s[m] > cut) - np.mean(s[~m] > cut) for cut in cuts]
    best = np.flatnonzero(np.isclose(gain, max(gain)))
    return worse * float(cuts[best[len(best) // 2]])


def alarm_threshold(runs: Iterable[Run], name: str, worse: int, rate: float = FALSE_ALARMS) -> float:
    """What a share ``rate`` of the copies of healthy runs exceeds, after the warm-up."""
    found = [
        worse * values(run, name)[np.array([row["step"] for row in run["rows"]]) >= WARM_UP]
        for run in runs
        if outcome(run) == HEALTHY
    ]
    s = np.concatenate(found) if found else np.zeros(0)
    s = s[~np.isnan(s)]
    return worse * float(np.quantile(s, 1 - rate, method="higher")) if len(s) else math.nan


def first_alarm(run: Run, name: str, worse: int, threshold: float, start: int = WARM_UP) -> int | None:
    """The step of the last of the first :data:`PERSISTENT` copies in a row beyond the threshold, from ``start`` on."""
    together = 0
    for row, value in zip(run["rows"], values(run, name), strict=True):
        if row["step"] < start:
            continue
        together = together + 1 if worse * value > worse * threshold else 0
        if together == PERSISTENT:
            return int(row["step"])
    return None


@dataclass(frozen=True)
class Alarms:
    """How an indicator does as an alarm during training, with a threshold from other seeds.

    Attributes:
        threshold: from the calibration runs.
        false: share of the healthy runs with an alarm at any time.
        healthy: their number.
        caught: share of the runs with a drop with an alarm up to :data:`HORIZON` steps after it.
        early: share with an alarm before it, at most twice the horizon earlier.
        leads: steps from alarm to drop of those caught (negative: after it).
        drops: number of runs with a drop.
    """

    threshold: float
    false: float
    healthy: int
    caught: float
    early: float
    leads: tuple[int, ...]
    drops: int

    @property
    def median_lead(self) -> float:
        return float(np.median(self.leads)) if self.leads else math.nan


def alarms(calibrate: Sequence[Run], report: Sequence[Run], name: str, worse: int) -> Alarms:
    """Threshold on one set of runs, alarms on another."""
    threshold = alarm_threshold(calibrate, name, worse)
    healthy = [run for run in report if outcome(run) == HEALTHY]
    false = [first_alarm(run, name, worse, threshold) is not None for run in healthy if drop(run) is None]
    leads = []
    dropped = [(run, fallen) for run in report if not run["diverged"] and (fallen := drop(run)) is not None]
    for run, fallen in dropped:
        at = int(run["rows"][fallen]["step"])
        alarm = first_alarm(run, name, worse, threshold, max(WARM_UP, at - 2 * HORIZON))
        if alarm is not None and alarm <= at + HORIZON:
            leads.append(at - alarm)
    count = len(dropped)
    return Alarms(
        threshold=threshold,
        false=float(np.mean(false)) if false else math.nan,
        healthy=len(false),
        caught=len(leads) / count if count else math.nan,
        early=sum(lead > 0 for lead in leads) / count if count else math.nan,
        leads=tuple(leads),
        drops=count,
    )


def accuracy(runs: Iterable[Run], name: str, worse: int, threshold: float) -> tuple[float, float]:
    """Shares of the healthy and of the collapsed ends that a threshold puts on the right side."""
    scores, marks = at_the_end(runs, name, worse)
    s, m = np.concatenate(scores), np.concatenate(marks)
    s, m = s[~np.isnan(s)], m[~np.isnan(s)]
    beyond = s > worse * threshold
    return (
        float(np.mean(~beyond[~m])) if (~m).any() else math.nan,
        float(np.mean(beyond[m])) if m.any() else math.nan,
    )


def split(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Runs to calibrate on, and runs to report."""
    found = list(runs)
    return [r for r in found if r["role"] == "calibrate"], [r for r in found if r["role"] == "report"]


def by_step(runs: Sequence[Run], read: Callable[[Run], Array]) -> tuple[Array, Array]:
    """Steps, and the quartiles of a curve over runs at each of them ``[3, steps]``."""
    steps = sorted({row["step"] for run in runs for row in run["rows"]})
    where: dict[int, list[float]] = {step: [] for step in steps}
    for run in runs:
        for row, value in zip(run["rows"], read(run), strict=True):
            where[row["step"]].append(value)
    bands = np.array([quartiles(np.array(where[step])) for step in steps]).T
    return np.array(steps, dtype=np.float64), bands


def quartiles(found: Array) -> Array:
    """Of what is not NaN, along the first axis; values that occur, because some may be infinite."""
    return np.asarray(np.nanquantile(found, [0.25, 0.5, 0.75], axis=0, method="nearest"))


def _auc(scores: Sequence[Array], marks: Sequence[NDArray[np.bool_]]) -> float:
    from scipy.stats import rankdata

    s, m = np.concatenate(list(scores)), np.concatenate(list(marks))
    positives, negatives = int(m.sum()), int((~m).sum())
    if not positives or not negatives:
        return math.nan
    return float((rankdata(s)[m].sum() - positives * (positives + 1) / 2) / (positives * negatives))

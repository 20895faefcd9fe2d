"""Noise levels and classes that the training draws too rarely, or not at all."""

from __future__ import annotations

import math

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Array, Trace

PARTS = 32  # of the schedule: a gap is at least as long as one
EXPECTED = 64  # draws of a part, were all as frequent; a Poisson count of as many is 0 once in 10^28
ABRUPT = 0.5  # of them, that the part beside a gap has; where draws thin out towards an end it has fewer
FILLED = 0.75  # of its positions, that the part beside a gap has draws in
RARE = 0.05  # of the median class


class UndrawnLevels:
    """Timesteps that the training does not draw, beside others that it draws often (``mon.step(timesteps=t)``).

    Looks at the latest readings that hold enough draws. A sampler whose density falls off smoothly, such as a
    logit-normal one, has no abrupt end and is not reported.
    """

    name = "noise levels not drawn"

    def check(self, trace: Trace) -> list[Alert]:
        found = _recent(trace, "drawn/timesteps", EXPECTED * PARTS)
        if found is None:
            return []
        counts, since, total = found
        part = math.ceil(len(counts) / PARTS)
        gaps = [gap for gap in _runs(counts == 0) if gap.stop - gap.start >= part and _abrupt(counts, gap, part)]
        if not gaps:
            return []
        (axis,), step = trace.axes("drawn/timesteps"), trace.last.step
        names = [_range(axis.labels, gap) for gap in gaps]
        places = [axis.labels[a] for gap in gaps for a in range(gap.start, gap.stop)]
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: none of the {total:,} timesteps drawn since step {since} is in {listed(names)}. The "
                    "network is not trained there: does the sampler of timesteps leave them out?"
                ),
                step=step,
                since=since,
                where=places,
                axis=axis.name,
                evidence={"drawn": float(total), "share": len(places) / len(axis)},
            )
        ]


class RareClass:
    """A class that is drawn far more rarely than the median one (``mon.step(classes=y)``).

    Args:
        share: of the draws of the median class, below which a class is rare.
    """

    name = "class rarely drawn"

    def __init__(self, share: float = RARE):
        self.share = share

    def check(self, trace: Trace) -> list[Alert]:
        # so many that a class which is four times as frequent as that is not taken for one
        count = len(trace.header.axes.get("class", ()))
        found = _recent(trace, "drawn/classes", 10 / self.share * count)
        if found is None or count < 3:
            return []
        counts, since, total = found
        losses = trace.last.arrays.get("loss/class")
        held = np.isfinite(losses) if losses is not None else np.ones(count, dtype=bool)  # classes that there are
        if held.sum() < 3:
            return []
        usual = float(np.median(counts[held]))
        rare = np.flatnonzero(held & (counts < self.share * usual))
        if not len(rare):
            return []
        (axis,), step = trace.axes("drawn/classes"), trace.last.step
        where = [axis.labels[c] for c in rare]
        drawn = int(counts[rare].sum())
        were = "was" if drawn == 1 else "were"
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: of {total:,} samples drawn since step {since}, {drawn} {were} of {listed(where)}, "
                    f"and {usual:.0f} of the median class. It is hardly trained: draw it more often, or give it more "
                    "weight."
                ),
                step=step,
                since=since,
                where=where,
                axis=axis.name,
                evidence={"drawn": float(drawn), "usual": usual},
            )
        ]


def _recent(trace: Trace, name: str, enough: float) -> tuple[Array, int, int] | None:
    """Counts of the latest readings that hold enough draws, the step they begin after, and how many there are."""
    if name not in trace.header.arrays:
        return None
    (axis,) = trace.axes(name)
    counts = np.zeros(len(axis))
    since = 0
    for k in range(len(trace) - 1, -1, -1):
        mine = trace.readings[k].arrays.get(name)
        if mine is None:
            return None
        counts = counts + mine
        since = trace.readings[k - 1].step if k else 0
        if counts.sum() >= enough:
            return counts, since, int(counts.sum())
    return None


def _runs(flags: Array) -> list[slice]:
    """Where consecutive entries are true."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0]))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _abrupt(counts: Array, gap: slice, part: int) -> bool:
    """Whether a part of the schedule beside a gap is drawn often; what the gap may begin within is left out.

    A part that is mostly empty is of a grid of few timesteps, which has gaps everywhere.
    """
    beside = [counts[max(0, gap.start - 1 - part) : max(0, gap.start - 1)], counts[gap.stop + 1 : gap.stop + 1 + part]]
    often = ABRUPT * part * counts.mean()
    return any(mine.sum() >= often and np.count_nonzero(mine) >= FILLED * part for mine in beside)


def _range(labels: list[str], gap: slice) -> str:
    """From the beginning of the first label to the end of the last."""
    first, last = labels[gap.start].partition(" to ")[0], labels[gap.stop - 1].removeprefix("t = ").split(" to ")[-1]
    return first if first == f"t = {last}" else f"{first} to {last}"

"""Findings that are no matter of chance: numbers that are not finite, an average that stands still."""

from __future__ import annotations

import math

import numpy as np

from genkernel.monitor.losses import TRAIN
from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

LONGER = 3  # times the longest earlier pause


class NonFinite:
    """NaN or infinity in weights, in what a part of a reading computes from them, or in losses of the training."""

    name = "non-finite"

    def check(self, trace: Trace) -> list[Alert]:
        last = trace.last
        alerts = []
        counts = last.arrays.get("weights/nonfinite")
        if counts is not None and counts.sum() > 0:
            labels = trace.header.axes["parameter"].labels
            where = [label for label, count in zip(labels, counts, strict=True) if count > 0]
            total = int(counts.sum())
            alerts.append(
                self._alert(
                    trace, f"{total} weights are NaN or infinite, in {listed(where)}", where, "parameter", total
                )
            )
        problems = [p for p in last.problems if p.error == "NonFiniteError"]
        if problems and not alerts:
            words = "; ".join(f"{p.part}: {p.message}" for p in problems)
            alerts.append(self._alert(trace, words, [p.part for p in problems], "", len(problems)))
        losses = [name for name, value in last.scalars.items() if name.startswith(TRAIN) and not math.isfinite(value)]
        if losses:
            names = [name.removeprefix(TRAIN) for name in losses]
            words = f"losses of the training since the reading before are NaN or infinite: {listed(names)}"
            alerts.append(self._alert(trace, words, losses, "", len(losses)))
        return alerts

    def _alert(self, trace: Trace, words: str, where: list[str], axis: str, count: int) -> Alert:
        before = [r.step for r in trace.readings[:-1]]
        well = f", and were not at step {before[-1]}" if before else ""
        step = trace.last.step
        return Alert(
            rule=self.name,
            message=f"step {step}: {words}{well}.",
            step=step,
            since=step,
            where=where,
            axis=axis,
            evidence={"count": float(count)},
            severity="failure",
        )


class StillAverage:
    """The average of the weights stands still while the weights move.

    One that has moved before has to stand still for longer than it ever did in between, by :data:`LONGER` times: an
    average may be updated once per epoch. One that begins late, such as stochastic weight averaging, is reported.

    Args:
        readings: in a row, in which it has not moved; twice as many where it has before.
    """

    name = "average stands still"

    def __init__(self, readings: int = 2):
        self.readings = readings

    def check(self, trace: Trace) -> list[Alert]:
        follows = trace.scalar("ema/follows")
        still = _run_at_the_end(follows == 0)
        moves = np.flatnonzero(follows > 0)
        # one that has moved once only may be between two moves that are as far apart as the first was from the start
        first_move = int(moves[0]) if len(moves) > 1 else 0
        pause = _longest_run(follows[first_move : len(follows) - still] == 0) if len(moves) else 0
        if still < (max(2 * self.readings, LONGER * pause) if len(moves) else self.readings):
            return []
        steps = trace.steps
        first = len(steps) - 1 - still  # the reading at which it was last seen to be where it is
        since, step = int(steps[first]), int(steps[-1])
        distance = float(trace.scalar("ema/distance")[-1])
        ema, raw = float(trace.scalar("ema/loss")[-1]), float(trace.scalar("loss/mean")[-1])
        compared = f" Its loss is {ema:.3g}, that of the weights {raw:.3g}." if math.isfinite(ema + raw) else ""
        words = (
            "is its update still called?"
            if len(moves)
            else "is its update called, and given this model? An average that begins later is all right."
        )
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: the average of the weights (EMA) has not moved at all since step {since}, while the "
                    f"weights did: {words}{compared}"
                ),
                step=step,
                since=since,
                evidence={"readings": float(still), "distance": distance, "loss": ema, "loss of the weights": raw},
            )
        ]


def _longest_run(holds: np.ndarray) -> int:
    """How many entries in a row hold, at most."""
    edges = np.flatnonzero(np.diff(np.r_[0, np.asarray(holds, dtype=np.int8), 0]))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _run_at_the_end(holds: np.ndarray) -> int:
    """How many of the last entries hold in a row."""
    gaps = np.flatnonzero(~np.asarray(holds, dtype=bool))
    return len(holds) - 1 - int(gaps[-1]) if len(gaps) else len(holds)

"""A class whose loss is no better than before the training, while the others' have fallen."""

from __future__ import annotations

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

READINGS = 4  # in a row
LEARNED = 0.5  # of the first loss: below it the median class has been learned


class ClassLeftBehind:
    """The loss of a class is above what it was at the first reading, and that of the median class has halved.

    The first reading has to be of a network that is hardly trained; a class that nobody asks for is soon predicted
    less often than by chance, so that its loss rises.

    Args:
        readings: in a row.
    """

    name = "class left behind"

    def __init__(self, readings: int = READINGS):
        self.readings = readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= self.readings or "loss/class" not in trace.header.arrays:
            return []
        losses = trace.array("loss/class")
        with np.errstate(divide="ignore", invalid="ignore"):
            left = losses[-self.readings :] / losses[0]
        known = np.isfinite(left).all(0)
        if known.sum() < 3 or not (np.median(left[:, known], axis=1) < LEARNED).all():
            return []
        found = np.flatnonzero(known & (np.where(known, left, 0.0) > 1).all(0))
        if not len(found):
            return []
        labels = trace.axes("loss/class")[0].labels
        where = [labels[c] for c in found]
        steps = trace.steps
        since, step = int(steps[-self.readings]), int(steps[-1])
        times, usual = float(left[-1, found].mean()), float(np.median(left[-1, known]))
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: {listed(where)} is left behind: its loss is {times:.2g} times that of step "
                    f"{int(steps[0])}, that of the median class {usual:.2g} times, since step {since} or before. Is it "
                    "too rare in the training data, or called something else there?"
                ),
                step=step,
                since=since,
                where=where,
                axis="class",
                evidence={"times": times, "usual": usual},
            )
        ]

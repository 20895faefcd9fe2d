"""Noise levels whose loss stays behind that of their neighbours."""

from __future__ import annotations

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

AFTER = slice(2, 5)  # readings that the later ones are compared with: the first are those of an untrained network
READINGS = 4  # in a row
EXCESS = 0.4  # of the log loss over the mean of the neighbours', beyond what it was


class LaggingLevel:
    """The loss at a level falls less than at the levels on both sides, since the beginning of the run.

    Losses of neighbouring levels fall together, because the kernel between them is large: what one learns the other
    does as well. The two levels at the ends have a neighbour on one side only, and are not judged.

    Args:
        excess: of log loss over the mean of the two neighbours', beyond that of the first readings.
        readings: in a row.
    """

    name = "noise level falls behind"

    def __init__(self, excess: float = EXCESS, readings: int = READINGS):
        self.excess, self.readings = excess, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) < AFTER.stop + self.readings or "loss/level" not in trace.header.arrays:
            return []
        with np.errstate(divide="ignore", invalid="ignore"):
            losses = np.log(trace.array("loss/level"))
        if losses.shape[1] < 4:
            return []
        above = losses[:, 1:-1] - (losses[:, :-2] + losses[:, 2:]) / 2
        grown = above - np.median(above[AFTER], axis=0)
        recent = grown[-self.readings :]
        found = np.flatnonzero((np.nan_to_num(recent, nan=-np.inf) > self.excess).all(0))
        if not len(found):
            return []
        axis = trace.axes("loss/level")[0]
        where = [axis.labels[a + 1] for a in found]
        behind = np.atleast_1d((grown[:, found] > self.excess).all(1))
        steps = trace.steps
        since, step = int(steps[len(behind) - int(np.argmin(behind[::-1]))]), int(steps[-1])
        times = float(np.exp(np.median(recent[:, found])))
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: the loss at {listed(where)} stays behind: beside its neighbours it is {times:.2g} "
                    f"times what it was at step {int(steps[AFTER.start])}, since step {since}. Does the training draw "
                    "these noise levels, with a weight like that of the others?"
                ),
                step=step,
                since=since,
                where=where,
                axis="level",
                evidence={"times": times},
            )
        ]

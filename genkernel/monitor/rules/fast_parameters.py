"""Parameters that move much faster than the others do, compared with how they moved before."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from genkernel.monitor.rules.words import grouped, listed
from genkernel.monitor.trace import Alert, Trace

HISTORY = 4  # readings with a pace, before the first that is judged
LONGEST = 200  # readings that are looked back at
STEADY = 0.9  # share of the readings in which a parameter moved, for it to be one of those whose pace is the usual
NOISE = 6.0  # robust standard deviations of a parameter's own pace that are no change
FEWEST = 2  # parameters that have to, where all are biases: one without influence wanders by itself under Adam


class FastParameters:
    """The pace of some parameters, relative to the median pace of all, is a multiple of what it was.

    The pace of a parameter is the root mean square of what its entries moved by since the reading before. Relative to
    the median over parameters it does not follow the schedule of the learning rate, which moves all of them.

    Args:
        factor: of the former pace, from which it is found.
        readings: in a row.
    """

    name = "parameters move too fast"

    def __init__(self, factor: float = 4.0, readings: int = 2):
        self.factor, self.readings = factor, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) < 1 + HISTORY + self.readings or "weights/moved" not in trace.header.arrays:
            return []
        trace = replace(trace, readings=trace.readings[-LONGEST:])
        moved = trace.array("weights/moved")[1:]  # nothing to compare the first with
        with np.errstate(divide="ignore", invalid="ignore"):
            pace = np.log(np.where(moved > 0, moved, np.nan))
        known = (np.isfinite(pace[: -self.readings]).sum(0) >= HISTORY) & np.isfinite(pace[-self.readings :]).all(0)
        if not known.any():
            return []
        # of those that moved nearly always: parameters that were frozen would change it when they begin to move
        moving = np.isfinite(pace).mean(0) >= STEADY
        steady = moving if moving.any() else known
        usual_pace = np.full((len(pace), 1), np.nan)
        some = np.isfinite(pace[:, steady]).any(1)
        usual_pace[some, 0] = np.nanmedian(pace[some][:, steady], axis=1)
        relative = pace - usual_pace
        before, now = relative[: -self.readings], relative[-self.readings :]
        usual = np.zeros(relative.shape[1])
        noise = np.zeros(relative.shape[1])
        usual[known] = np.nanmedian(before[:, known], axis=0)
        noise[known] = 1.4826 * np.nanmedian(np.abs(before[:, known] - usual[known]), axis=0)
        excess = np.where(known, np.nan_to_num(now).min(0) - usual, -np.inf)
        found = np.flatnonzero((excess > math.log(self.factor)) & (excess > NOISE * noise))
        labels = trace.header.axes["parameter"].labels
        where = [labels[j] for j in found]
        if len(found) < FEWEST and all(label.endswith("bias") for label in where):
            return []
        steps = trace.steps
        since, step = int(steps[-self.readings - 1]), int(steps[-1])
        times = float(np.exp(np.median(excess[found])))
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: {listed(grouped(where, labels))} move {times:.0f} times as fast as before, compared "
                    f"with all other parameters, since step {since}: is the learning rate of that group too high, or "
                    "has clipping or weight decay changed there?"
                ),
                step=step,
                since=since,
                where=where,
                axis="parameter",
                evidence={"times": times, "parameters": float(len(found))},
            )
        ]

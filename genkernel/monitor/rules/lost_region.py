"""Regions of the sample space that a generator no longer reaches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

HISTORY = 4  # readings in which a region was reached, before it can be lost
LONGEST = 200  # readings that are looked back at
READINGS = 3  # in a row
LEFT = 0.25  # of its usual share of samples, at which a region is lost
REACHED = 0.5  # of an equal share: regions that never had as much are not judged


class LostRegion:
    """A region has a quarter or less of the samples that it usually had.

    Args:
        left: of its usual share (the median of the readings before), at which a region is lost.
        readings: in a row.
    """

    name = "region lost"

    def __init__(self, left: float = LEFT, readings: int = READINGS):
        self.left, self.readings = left, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) < HISTORY + self.readings or "samples/occupancy" not in trace.header.arrays:
            return []
        trace = replace(trace, readings=trace.readings[-LONGEST:])
        shares = trace.array("samples/occupancy")
        before, recent = shares[: -self.readings], shares[-self.readings :]
        usual = np.nanmedian(before, axis=0) if np.isfinite(before).any() else np.full(shares.shape[1], np.nan)
        fair = REACHED / shares.shape[1]
        found = np.flatnonzero((usual >= fair) & (np.nan_to_num(recent, nan=1.0) <= self.left * usual).all(0))
        if not len(found):
            return []
        labels = trace.axes("samples/occupancy")[0].labels
        where = [labels[c] for c in found]
        gaining = int(np.nanargmax(recent.mean(0) - usual))
        steps = trace.steps
        since, step = int(steps[-self.readings]), int(steps[-1])
        driving = trace.last.arrays.get("transport/driving")
        drives = ""
        if driving is not None and np.isfinite(driving).any():
            first = int(np.nanargmax(driving))
            drives = f" {labels[first].capitalize()} drives {100 * float(driving[first]):.0f} % of all updates."
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: {100 * float(usual[found].sum()):.0f} % of the samples were in {listed(where)}, and "
                    f"{100 * float(recent[:, found].sum(1).mean()):.0f} % are since step {since}; {labels[gaining]} "
                    f"gains most.{drives} The generator is losing modes."
                ),
                step=step,
                since=since,
                where=where,
                axis="cluster",
                evidence={"usual": float(usual[found].sum()), "now": float(recent[:, found].sum(1).mean())},
            )
        ]

"""A class of a conditional model that is not learned while the others are."""

from __future__ import annotations

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

READINGS = 8  # whose mean is looked at
HURTS = 0.03  # share of the loss by which its own label makes a class worse than that of another does
FAR = 4.0  # robust standard deviations over classes, below the median, that it has to be, too
WORTH = 0.02  # share of the loss that labels have to save for the median class, for there to be anything to compare


class UnlearnedClass:
    """Images of a class are denoised worse with their own label than with another, while the median class gains by its.

    A label that is drawn too rarely, or for other images, means nothing to the network, or the wrong thing.

    Args:
        hurts: share of the loss that the own label adds, from which a class is found.
        readings: whose mean is looked at.
    """

    name = "class not learned"

    def __init__(self, hurts: float = HURTS, readings: int = READINGS):
        self.hurts, self.readings = hurts, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= self.readings or "conditioning/gain" not in trace.header.arrays:
            return []
        gains = trace.array("conditioning/gain")
        recent = gains[-self.readings :]
        known = np.isfinite(recent).all(0)
        if known.sum() < 3:
            return []
        worth = np.where(known, np.where(known, recent, 0.0).mean(0), np.inf)
        usual = float(np.median(worth[known]))
        apart = 1.4826 * float(np.median(np.abs(worth[known] - usual)))  # how much classes differ as it is
        found = np.flatnonzero(worth < min(-self.hurts, usual - FAR * apart))
        if usual < WORTH or not len(found):
            return []
        labels = trace.axes("conditioning/gain")[0].labels
        where = [labels[c] for c in found]
        steps = trace.steps
        since, step = int(steps[-self.readings]), int(steps[-1])
        lost = -100 * float(worth[found].mean())
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: {listed(where)}: its own label makes the loss {lost:.0f} % larger than that of "
                    f"another class, while that of the median class saves {100 * usual:.0f} % (means since step "
                    f"{since}): is it too rare in the training data, or mislabelled?"
                ),
                step=step,
                since=since,
                where=where,
                axis="class",
                evidence={"worth": -lost / 100, "usual": usual},
            )
        ]

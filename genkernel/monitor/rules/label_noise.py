"""Training labels that are wrong: the network knows held-out samples better than those it is trained on."""

from __future__ import annotations

import math

import numpy as np

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Trace

READINGS = 6  # whose mean is looked at
BETTER = 0.1  # accuracy on held-out samples above that on training samples
ERRORS = 2.5  # standard errors of the difference that it has to be, too: more than for one look, as a run has many
SUSPECTS = 5  # samples that a message names


class LabelNoise:
    """Accuracy on held-out samples is above that on the training probes.

    A network that has not yet learned wrong labels by heart answers their samples rightly, which counts as wrong.
    Held-out samples need right labels for it; data and holdout have to come from the same distribution.

    Args:
        better: difference of accuracies, from which it is found.
        readings: whose mean is looked at.
    """

    name = "label noise"

    def __init__(self, better: float = BETTER, readings: int = READINGS):
        self.better, self.readings = better, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= self.readings:
            return []
        own, other = trace.scalar("accuracy/mean")[-self.readings :], trace.scalar("accuracy/holdout")[-self.readings :]
        if not (np.isfinite(own).all() and np.isfinite(other).all()):
            return []
        train, held = float(own.mean()), float(other.mean())
        counts = [trace.header.settings.get(name) for name in ("samples", "holdout")]
        error = math.sqrt(
            sum(p * (1 - p) / n for p, n in zip((train, held), counts, strict=True) if isinstance(n, int) and n > 0)
        )
        if held - train < max(self.better, ERRORS * error):
            return []
        steps = trace.steps
        since, step = int(steps[-self.readings]), int(steps[-1])
        where: list[str] = []
        if "kernel/suspicion" in trace.header.arrays:
            doubt = trace.array("kernel/suspicion")[-self.readings :].mean(0)
            order = np.argsort(-np.nan_to_num(doubt), kind="stable")[:SUSPECTS]
            labels = trace.axes("kernel/suspicion")[0].labels
            where = [labels[i] for i in order if doubt[i] > 0.5]
        seen = f" Labels that differ from those of their neighbours in the kernel: {listed(where)}." if where else ""
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: held-out samples are answered rightly in {100 * held:.0f} % of all cases, training "
                    f"samples in {100 * train:.0f} % (means since step {since}): are labels of the training data "
                    f"wrong?{seen}"
                ),
                step=step,
                since=since,
                evidence={"held out": held, "trained on": train, "standard error": error},
            )
        ]

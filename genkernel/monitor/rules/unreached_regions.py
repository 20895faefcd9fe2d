"""A generator that reaches a few regions of the real samples only, and never reached more."""

from __future__ import annotations

import numpy as np

from genkernel.monitor.trace import Alert, Trace

READINGS = 16  # before it is judged: untrained generators reach one region
SHARE = 0.25  # of the regions
FEWEST = 4  # regions that there have to be


class UnreachedRegions:
    """Samples have never reached more than a quarter of the regions of the real samples, effectively.

    What was never reached is not lost, and no number has left its course: this is about runs that fail from the
    beginning. Only where regions are those of real samples (``real=``).

    Args:
        share: of the regions, up to which there are too few.
        readings: before it is judged.
    """

    name = "regions not reached"

    def __init__(self, share: float = SHARE, readings: int = READINGS):
        self.share, self.readings = share, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) < self.readings or not trace.header.settings.get("real"):
            return []
        count = len(trace.axes("samples/occupancy")[0]) if "samples/occupancy" in trace.header.arrays else 0
        effective = trace.scalar("samples/effective_clusters")
        known = effective[np.isfinite(effective)]
        if count < FEWEST or not len(known) or not known.max() <= self.share * count:
            return []
        step, most = trace.last.step, float(known.max())
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: samples reach {known[-1]:.1f} of {count} regions of the real samples effectively, "
                    f"and have never reached more than {most:.1f}: the generator has not begun to follow the data. Is "
                    "the discriminator too strong from the start, or the range of its samples not that of real=?"
                ),
                step=step,
                since=int(trace.steps[0]),
                evidence={"effective": float(known[-1]), "most": most, "regions": float(count)},
            )
        ]

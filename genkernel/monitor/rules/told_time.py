"""Noise levels at which a denoiser does better when it is told another time than the true one.

A network that was trained at a level, and told that level, does best when told the truth. Where it was never trained
it does better when told a level that it knows; where training tells it another time, that time is best, at nearly all
levels alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genkernel.monitor.rules.words import listed
from genkernel.monitor.trace import Alert, Array, Trace

GAIN = 0.2  # share of the loss that another time has to save
READINGS = 4  # in a row that it has to
MATTERS = 0.05  # share of the mean loss over levels that it has to save at a level
SLIGHT = 0.02  # share that it has to save at a level to be asked for its factor
HALF, ALIKE, FAR = 0.5, 1.5, 1.6  # share of levels, and factors, that make it a matter of scale: see _scale


class TimeIgnored:
    """The network does about as well whatever time it is told, although its loss has fallen.

    Args:
        cost: share that the worst told time adds to the loss, below which a level counts.
        readings: in a row.
    """

    name = "time ignored"

    def __init__(self, cost: float = 0.2, readings: int = 2 * READINGS):
        self.cost, self.readings = cost, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= self.readings or "time/cost" not in trace.header.arrays:
            return []
        recent = trace.array("time/cost")[-self.readings :]
        loss = trace.scalar("loss/mean")
        # what a network learns first is the same at all noise levels
        if not (loss[-self.readings :] < 0.5 * loss[0]).all() or not np.isfinite(recent).all():
            return []
        usual = np.median(recent, axis=1)
        if not (usual < self.cost).all():
            return []
        step, since = int(trace.steps[-1]), int(trace.steps[-self.readings])
        percent = 100 * float(usual.max())
        return [
            Alert(
                rule=self.name,
                message=(
                    f"step {step}: the network hardly looks at the time: the worst wrong time adds {percent:.0f} % to "
                    f"the loss at the median noise level, since step {since} or before. Is the timestep lost on its "
                    "way, such as divided by the number of timesteps and rounded, or constant?"
                ),
                step=step,
                since=since,
                evidence={"cost": percent / 100},
            )
        ]


class ToldTime:
    """Tells untrained noise levels, and times that are scaled on their way into the network.

    Args:
        gain: share of the loss that another told time saves, from which a level counts.
        readings: in a row.
    """

    name = "told time"

    def __init__(self, gain: float = GAIN, readings: int = READINGS):
        self.gain, self.readings = gain, readings

    def check(self, trace: Trace) -> list[Alert]:
        if len(trace) <= self.readings or "time/gain" not in trace.header.arrays:
            return []
        gains, ratios = trace.array("time/gain"), trace.array("time/ratio")
        recent = gains[-self.readings :]
        found = np.flatnonzero((np.nan_to_num(recent) >= self.gain).all(0) & _matters(trace, recent))
        if not len(found):
            return []
        axis = trace.axes("time/gain")[0]
        with np.errstate(divide="ignore"):
            best = np.exp(np.median(np.log(ratios[-self.readings :][:, found]), axis=0))
        told = [f"{min(axis.values[a] * b, max(axis.values)):.0f}" for a, b in zip(found, best, strict=True)]
        saved = recent[:, found].mean(0)
        held = np.atleast_1d((np.nan_to_num(gains[:, found]) >= self.gain).all(1))
        first = 0 if held.all() else len(held) - int(np.argmin(held[::-1]))
        steps = trace.steps
        since, step = int(steps[first]), int(steps[-1])
        where = [axis.labels[a] for a in found]
        percent = 100 * float(np.median(saved))
        scale = _scale(recent, ratios[-self.readings :])
        if scale is not None:
            words = (
                f"the network denoises best when it is told about {scale:.2g} times the true time, at most noise "
                f"levels (that saves {percent:.0f} % of the loss at {listed(where)}): is the timestep scaled, or of "
                "another scheduler, where the training calls the network?"
            )
        else:
            words = (
                f"at {listed(where)} the network denoises better when it is told another time, "
                f"{listed(told)} (that saves "
                f"{percent:.0f} % of the loss there): does the training draw these noise levels?"
            )
        return [
            Alert(
                rule=self.name,
                message=f"step {step}: {words} Since step {since}.",
                step=step,
                since=since,
                where=where if scale is None else [],  # it is a matter of all levels, and news after some
                axis="level" if scale is None else "",
                evidence={
                    "levels": float(len(found)),
                    "ratio": float(np.median(best)) if scale is None else scale,
                    "saved": percent / 100,
                },
            )
        ]


def _matters(trace: Trace, gains: Array) -> NDArray[np.bool_]:
    """Levels ``[L]`` where what is saved is a part of the loss over all of them: at others the loss is next to 0."""
    if "loss/level" not in trace.header.arrays:
        return np.ones(gains.shape[1], dtype=bool)
    losses = trace.array("loss/level")[-len(gains) :]
    saved = np.median(gains * losses, axis=0)
    found: NDArray[np.bool_] = saved >= MATTERS * float(np.median(losses.mean(1)))
    return found


def _scale(gains: Array, ratios: Array) -> float | None:
    """The one factor between told and best time at at least half of the levels, if there is one that is far from 1.

    Args:
        gains, ratios: of some readings ``[k, L]``.
    """
    asked = np.flatnonzero(np.nan_to_num(gains).mean(0) >= SLIGHT)
    if len(asked) < max(2, HALF * gains.shape[1]):
        return None
    best = np.median(np.log(ratios[:, asked]), axis=0)
    middle = float(np.median(best))
    alike = np.abs(best - middle) <= np.log(ALIKE)
    return float(np.exp(middle)) if abs(middle) > np.log(FAR) and alike.mean() >= 2 / 3 else None

"""What a monitor has seen: readings in order, what their arrays are indexed by, and the alerts raised on the way.

A trace is all that rules look at, so that a run that is over, or was killed, can be judged again from its log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.errors import InputError

Array = NDArray[np.float64]

SCHEMA_VERSION = 1
CURVES = 32  # of one array, that services for scalars are given


@dataclass(frozen=True)
class Axis:
    """What the positions along an axis of arrays stand for.

    Attributes:
        name: ``"level"``, ``"parameter"``, ``"cluster"``, ``"class"``, …
        labels: of each position, as messages and figures name them.
        values: their numbers (timesteps, …), where they have any.
        unit: of the numbers.
    """

    name: str
    labels: list[str]
    values: list[float] = field(default_factory=list)
    unit: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Header:
    """What stays the same from reading to reading.

    Attributes:
        kind: ``"denoiser"``, ``"gan"`` or ``"classifier"``.
        axes: by name.
        arrays: the axes of every array that readings hold, by the array's name.
        settings: of the monitor and of what it watches, JSON-ready.
        provenance: versions and the like, JSON-ready.
    """

    kind: str
    axes: dict[str, Axis] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Problem:
    """A part of a reading that could not be taken.

    Attributes:
        part: its name.
        error: class of what went wrong, ``"NonFiniteError"`` for instance.
        message: in words, with where.
    """

    part: str
    error: str
    message: str


@dataclass(frozen=True)
class Reading:
    """The numbers of one moment of a training.

    Attributes:
        step: of the training.
        time: seconds since the monitor saw its first step.
        seconds: that the reading took.
        scalars: by name, such as ``"loss/mean"``.
        arrays: by name; their axes are in the header.
        problems: parts that could not be taken; their numbers are missing.
    """

    step: int
    time: float
    seconds: float
    scalars: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Alert:
    """Something that a rule found in a trace.

    Attributes:
        rule: its name.
        message: what changed, since when and where, for people.
        step: of the reading in which it was found.
        since: of the first reading that shows it.
        where: labels of the places (noise levels, parameters, clusters, classes); empty where it is everywhere.
        axis: name of the axis that these places are on; "" where there is none.
        evidence: the numbers that it rests on, by name.
        severity: ``"warning"`` or ``"failure"`` (what is found cannot be chance: NaN, a mean that never moves).
    """

    rule: str
    message: str
    step: int
    since: int
    where: list[str] = field(default_factory=list)
    axis: str = ""
    evidence: dict[str, float] = field(default_factory=dict)
    severity: str = "warning"


@dataclass
class Trace:
    """Readings in order of their steps, with their header and the alerts."""

    header: Header
    readings: list[Reading] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.readings)

    @property
    def steps(self) -> NDArray[np.int64]:
        """``[k]``."""
        return np.array([reading.step for reading in self.readings], dtype=np.int64)

    @property
    def last(self) -> Reading:
        """The newest reading.

        Raises:
            InputError: there is none.
        """
        if not self.readings:
            raise InputError("this trace holds no reading yet")
        return self.readings[-1]

    @property
    def names(self) -> list[str]:
        """Of the scalars, in the order of their first appearance."""
        return list(dict.fromkeys(name for reading in self.readings for name in reading.scalars))

    @property
    def array_names(self) -> list[str]:
        """Of the arrays that any reading holds, in the header's order."""
        found = {name for reading in self.readings for name in reading.arrays}
        return [name for name in self.header.arrays if name in found]

    def scalar(self, name: str) -> Array:
        """One scalar over the readings ``[k]``; NaN where it is missing."""
        return np.array([reading.scalars.get(name, math.nan) for reading in self.readings], dtype=np.float64)

    def array(self, name: str) -> Array:
        """One array over the readings ``[k, *axes]``; NaN where it is missing.

        Raises:
            InputError: readings of this trace have no such array.
        """
        if name not in self.header.arrays:
            raise InputError(f"there is no array {name!r}: there are {', '.join(sorted(self.header.arrays)) or 'none'}")
        shape = tuple(len(axis) for axis in self.axes(name))
        missing = np.full(shape, math.nan)
        found = [np.asarray(reading.arrays.get(name, missing), dtype=np.float64) for reading in self.readings]
        return np.stack(found) if found else np.empty((0, *shape))

    def axes(self, name: str) -> list[Axis]:
        """The axes of an array."""
        return [self.header.axes[axis] for axis in self.header.arrays[name]]

    def up_to(self, count: int) -> Trace:
        """The first readings, and the alerts that were raised by then."""
        kept = self.readings[:count]
        end = kept[-1].step if kept else -1
        return Trace(self.header, kept, [alert for alert in self.alerts if alert.step <= end])

    def rewind(self, step: int) -> None:
        """Forget what was read at this step and later: the training went back to before it."""
        if not self.readings or self.readings[-1].step < step:
            return
        self.readings = [reading for reading in self.readings if reading.step < step]
        self.alerts = [alert for alert in self.alerts if alert.step < step]


def flat_scalars(header: Header, reading: Reading) -> dict[str, float]:
    """All numbers that services for scalars take: the scalars, and arrays along a single axis.

    ``"loss/level"`` along the axis ``level`` becomes ``"loss/level/t=249"`` and so on, entry by entry. Of an axis of
    more than :data:`CURVES` positions, such as the parameters of a large network, there are
    ``"weights/moved/smallest"``, ``"weights/moved/median"`` and ``"weights/moved/largest"``.
    """
    found = dict(reading.scalars)
    for name, values in reading.arrays.items():
        axes = header.arrays.get(name, [])
        if len(axes) != 1:
            continue
        labels: Iterable[str] = header.axes[axes[0]].labels
        if len(values) <= CURVES:
            found |= {f"{name}/{label.replace(' ', '')}": float(v) for label, v in zip(labels, values, strict=True)}
            continue
        known = values[~np.isnan(values)]
        if len(known):
            of = {"smallest": known.min(), "median": np.median(known), "largest": known.max()}
            found |= {f"{name}/{which}": float(value) for which, value in of.items()}
    return found

"""Is a measured number the predicted one, up to a tolerance? By equivalence, so that noise never makes it true.

The 95 % interval of the measured number lies within the tolerance of the prediction ("yes"), outside of it ("no"), or
reaches over its edge ("undecided": more replicates would be needed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 0.1  # of the prediction
SURE = 0.95
NORMAL = 1.96  # half a 95 % interval in standard errors, where these come from many points
MOST, FEW = 0.9, 0.5  # shares of numbers: from the first on a prediction holds, below the second it does not


def student(replicates: int) -> float:
    """Half a 95 % interval of a mean in standard errors: Student's t; NaN for one replicate."""
    from scipy.stats import t

    return float(t.ppf((1 + SURE) / 2, replicates - 1)) if replicates > 1 else math.nan


@dataclass(frozen=True)
class Measured:
    """Means over draws with what is known of their errors, of any shape.

    Attributes:
        mean, stderr: over draws (training sets, or networks).
        count: how many draws.
        shared: standard error from what all draws have in common (the points that they are scored on).
    """

    mean: Array
    stderr: Array
    count: int
    shared: Array | float = 0.0

    @classmethod
    def of(cls, draws: Any) -> Measured:
        """Of draws along the first axis, which have nothing in common."""
        rows = np.asarray(draws, dtype=np.float64)
        spread = rows.std(0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else np.full(rows.shape[1:], math.nan)
        return cls(rows.mean(0), spread, len(rows))

    @classmethod
    def on_points(cls, errors: Any) -> Measured:
        """Of errors ``[draws, points]`` on test points that all draws share.

        Draws and points are crossed: the variance of the mean of all is at most the sum of that over draws and that
        over points.
        """
        rows = np.asarray(errors, dtype=np.float64)
        plain = cls.of(rows.mean(1))
        return cls(plain.mean, plain.stderr, plain.count, cls.of(rows.mean(0)).stderr)

    @property
    def half(self) -> Array:
        """Half the 95 % interval: Student's t over draws, and what these share, added in squares."""
        return np.hypot(student(self.count) * self.stderr, NORMAL * np.asarray(self.shared))


def equivalent(off: float, half: float, tolerance: float) -> str:
    """Whether a difference is within ± tolerance: "yes", "no", or "undecided" where its interval leaves that open.

    Args:
        off: the difference.
        half: half of its interval; NaN where it is not known, which decides nothing.
        tolerance: of the difference.
    """
    if abs(off) + half <= tolerance:
        return "yes"
    return "no" if abs(off) - half > tolerance else "undecided"


def above(difference: float, half: float) -> str:
    """Whether a difference is above zero: "yes", "no" where it is below, or "undecided"."""
    return "yes" if difference > half else "no" if difference < -half else "undecided"


@dataclass(frozen=True)
class Agreement:
    """How many of some measured numbers are where they were predicted.

    Attributes:
        yes, no, undecided: how many intervals lie within the tolerance of the prediction, outside of it, or over its
            edge.
        median: of |measured - predicted| / predicted.
    """

    yes: int
    no: int
    undecided: int
    median: float

    @property
    def count(self) -> int:
        """How many numbers."""
        return self.yes + self.no + self.undecided

    @property
    def possible(self) -> set[str]:
        """What may come out when the undecided numbers are decided.

        "yes" where nine in ten agree, "no" where less than half do, "partly" between the two.
        """
        shares = [(self.yes + k) / self.count for k in range(self.undecided + 1)] if self.count else []
        return {"yes" if share >= MOST else "no" if share < FEW else "partly" for share in shares}

    @property
    def holds(self) -> str:
        """What has to come out, or "undecided"."""
        return next(iter(self.possible)) if len(self.possible) == 1 else "undecided"

    @property
    def counts(self) -> str:
        """Yes / no / undecided."""
        return f"{self.yes} / {self.no} / {self.undecided}"

    def __str__(self) -> str:
        return f"{self.counts}, median {self.median:.1%} off"


def agreement(
    predicted: Iterable[float], measured: Iterable[float], halves: Iterable[float], floor: float = 0.0
) -> Agreement:
    """Compare predictions with measurements.

    Args:
        predicted, measured: one each.
        halves: half of the 95 % intervals of their differences.
        floor: predictions below it are taken as it where something is relative to them: of nothing there is no tenth.
    """
    p, found, half = (np.array(list(values), dtype=np.float64) for values in (predicted, measured, halves))
    size = np.maximum(np.abs(p), floor)
    each = [equivalent(*one) for one in zip(found - p, half, TOLERANCE * size, strict=True)]
    median = float(np.median(np.abs(found - p) / size)) if len(p) else math.nan
    return Agreement(each.count("yes"), each.count("no"), each.count("undecided"), median)


def pooled(parts: Sequence[str | Agreement]) -> str:
    """One verdict of several: "yes" where all are, "no" where all are, else "partly".

    "undecided" where that depends on what is undecided.
    """
    open_, can = {"yes", "no"}, []
    for part in parts:
        can.append(part.possible or open_ if isinstance(part, Agreement) else open_ if part == "undecided" else {part})
    found = {end for end in ("yes", "no") if all(end in one for one in can)}
    mixed = any("yes" in a and "no" in b for i, a in enumerate(can) for j, b in enumerate(can) if i != j)
    if mixed or any("partly" in one for one in can):
        found.add("partly")
    return next(iter(found)) if len(found) == 1 and parts else "undecided"

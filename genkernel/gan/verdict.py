"""The verdict on a generator, from stated rules on several indicators, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Label = Literal["ok", "watch", "collapsing", "unknown"]


@dataclass
class Evidence:
    """One indicator, and what it says.

    Attributes:
        name: its key in :data:`genkernel.gan.indicators.INDICATORS`.
        label: in words.
        group: what it looks at: ``"kernel"``, ``"drive"``, ``"geometry"`` or ``"coverage"``.
        value: NaN where it could not be computed.
        healthy: range in the healthy runs of the study (from, to).
        alarm: the threshold beyond which it speaks of collapse; NaN where it has none.
        worse: +1 when larger values are worse, −1 when smaller ones are.
        says: ``"ok"``, ``"watch"``, ``"collapsing"`` or ``"unknown"``.
        counts: the verdict leans on it; else it is shown beside.
        source: where the range comes from, in words.
    """

    name: str
    label: str
    group: str
    value: float
    healthy: tuple[float, float]
    alarm: float
    worse: int
    says: Label
    counts: bool
    source: str


@dataclass
class Verdict:
    """What the evidence adds up to.

    Attributes:
        label: ``"ok"``, ``"watch"``, ``"collapsing"`` or ``"unknown"``.
        reasons: sentences on why.
        evidence: every indicator.
    """

    label: Label
    reasons: list[str] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)

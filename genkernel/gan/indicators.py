"""The scalars of an analysis that may tell a collapsing generator from a healthy one, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genkernel.gan.measures import dominance
from genkernel.gan.results import GanResult

Read = Callable[[GanResult], float]


@dataclass(frozen=True)
class Indicator:
    """One scalar.

    Attributes:
        label: for tables and figures.
        worse: +1 when a larger value is expected of a collapsing generator, −1 when a smaller one is.
        read: its value in a result; NaN where what it needs is missing.
        baseline: it looks at samples or logits alone and needs no kernel and no Jacobian.
    """

    label: str
    worse: int
    read: Read
    baseline: bool = False


def _moved(name: str) -> Read:
    return lambda r: math.nan if r.transport is None else float(getattr(r.transport, name))


def _median(name: str) -> Read:
    return lambda r: float(np.median(getattr(r.jacobian, name)))


def _median_log(result: GanResult) -> float:
    with np.errstate(divide="ignore"):
        return float(np.median(np.log10(result.jacobian.condition_number)))


def _near(name: str) -> Read:
    return lambda r: math.nan if r.coverage.neighbours is None else float(getattr(r.coverage.neighbours, name))


INDICATORS: dict[str, Indicator] = {
    "driving_dominance": Indicator("driving dominance", 1, _moved("driving_dominance")),
    "axial_coherence": Indicator("axial coherence of updates", 1, _moved("axial_coherence")),
    "coherence": Indicator("signed coherence of updates", 1, _moved("coherence")),
    "raw_coherence": Indicator("signed coherence of the drive", 1, _moved("raw_coherence")),
    "score": Indicator("dominance × coherence", 1, _moved("score")),
    "spread_gain": Indicator("spread gain", -1, _moved("spread_gain")),
    "spread_cosine": Indicator("spread cosine", -1, _moved("spread_cosine")),
    "foreign_excess": Indicator(
        "foreign share above its baseline",
        1,
        lambda r: math.nan if r.transport is None else r.transport.foreign_share - r.transport.foreign_baseline,
    ),
    "kernel_effective_rank": Indicator("effective rank of the kernel", -1, lambda r: r.kernel.effective_rank),
    "kernel_mean": Indicator("mean cosine of the kernel", 1, lambda r: r.kernel.mean_off_diagonal),
    "condition_number": Indicator("log₁₀ condition of ∂G/∂z", 1, _median_log),
    "log_volume": Indicator("log-volume of ∂G/∂z", -1, _median("log_volume")),
    "jacobian_effective_rank": Indicator("effective rank of ∂G/∂z", -1, _median("effective_rank")),
    "occupancy_dominance": Indicator(
        "occupancy dominance", 1, lambda r: dominance(r.clusters.occupancy), baseline=True
    ),
    "diversity": Indicator("mean distance of samples", -1, lambda r: r.coverage.diversity.distance, baseline=True),
    "frechet": Indicator("Fréchet distance to the data", 1, lambda r: r.coverage.frechet, baseline=True),
    "relative_diversity": Indicator(
        "diversity relative to the data", -1, lambda r: r.coverage.diversity.relative, baseline=True
    ),
    "recall": Indicator("recall of the data", -1, _near("recall"), baseline=True),
    "coverage": Indicator("coverage of the data", -1, _near("coverage"), baseline=True),
    "precision": Indicator("precision", -1, _near("precision"), baseline=True),
    "separation": Indicator(
        "discriminator separates real from generated",
        1,
        lambda r: math.nan if r.drive is None else r.drive.separation,
        baseline=True,
    ),
}


def indicators(result: GanResult) -> dict[str, float]:
    """Every indicator of a result, NaN where what it needs is missing."""
    return {name: indicator.read(result) for name, indicator in INDICATORS.items()}

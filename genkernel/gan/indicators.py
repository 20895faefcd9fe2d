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
        group: what it looks at: ``"kernel"``, ``"drive"`` (what the discriminator sends), ``"geometry"`` (∂G/∂z) or
            ``"coverage"`` (samples).
        baseline: it looks at samples or logits alone and needs no kernel and no Jacobian.
        depends: what else its value depends on, so that it is compared only where that is alike: ``"latents"`` (their
            number, within a tenth), ``"samples"`` (their number, within a factor of two), ``"dimension"`` (that of the
            latents), ``"clusters"`` (how they were made), ``"space"`` (samples are compared as they are, without
            features), ``"units"`` (of the samples: never known to be alike).
    """

    label: str
    worse: int
    read: Read
    group: str
    baseline: bool = False
    depends: tuple[str, ...] = ()


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
    "driving_dominance": Indicator(
        "driving dominance", 1, _moved("driving_dominance"), "kernel", depends=("samples", "clusters")
    ),
    "axial_coherence": Indicator("axial coherence of updates", 1, _moved("axial_coherence"), "kernel"),
    "coherence": Indicator("signed coherence of updates", 1, _moved("coherence"), "kernel"),
    "raw_coherence": Indicator("signed coherence of the drive", 1, _moved("raw_coherence"), "drive"),
    "score": Indicator("dominance × coherence", 1, _moved("score"), "kernel", depends=("samples", "clusters")),
    "spread_gain": Indicator("spread gain", -1, _moved("spread_gain"), "kernel"),
    "spread_cosine": Indicator("spread cosine", -1, _moved("spread_cosine"), "kernel"),
    "foreign_excess": Indicator(
        "foreign share above its baseline",
        1,
        lambda r: math.nan if r.transport is None else r.transport.foreign_share - r.transport.foreign_baseline,
        "kernel",
        depends=("clusters",),
    ),
    "kernel_effective_rank": Indicator(
        "effective rank of the kernel", -1, lambda r: r.kernel.effective_rank, "kernel", depends=("latents",)
    ),
    "kernel_mean": Indicator("mean cosine of the kernel", 1, lambda r: r.kernel.mean_off_diagonal, "kernel"),
    "condition_number": Indicator("log₁₀ condition of ∂G/∂z", 1, _median_log, "geometry", depends=("dimension",)),
    "log_volume": Indicator("log-volume of ∂G/∂z", -1, _median("log_volume"), "geometry", depends=("units",)),
    "jacobian_effective_rank": Indicator(
        "effective rank of ∂G/∂z", -1, _median("effective_rank"), "geometry", depends=("dimension",)
    ),
    "occupancy_dominance": Indicator(
        "occupancy dominance",
        1,
        lambda r: dominance(r.clusters.occupancy),
        "coverage",
        baseline=True,
        depends=("samples", "clusters"),
    ),
    "diversity": Indicator(
        "mean distance of samples",
        -1,
        lambda r: r.coverage.diversity.distance,
        "coverage",
        baseline=True,
        depends=("units",),
    ),
    "frechet": Indicator(
        "Fréchet distance to the data", 1, lambda r: r.coverage.frechet, "coverage", baseline=True, depends=("units",)
    ),
    "relative_diversity": Indicator(
        "diversity relative to the data",
        -1,
        lambda r: r.coverage.diversity.relative,
        "coverage",
        baseline=True,
        depends=("space",),
    ),
    # fewer samples of the same quality have a larger recall, if anything: that is no reason to leave it out
    "recall": Indicator("recall of the data", -1, _near("recall"), "coverage", baseline=True, depends=("space",)),
    "coverage": Indicator(
        "coverage of the data", -1, _near("coverage"), "coverage", baseline=True, depends=("samples", "space")
    ),
    "precision": Indicator(
        "precision", -1, _near("precision"), "coverage", baseline=True, depends=("samples", "space")
    ),
    "separation": Indicator(
        "discriminator separates real from generated",
        1,
        lambda r: math.nan if r.drive is None else r.drive.separation,
        "drive",
        baseline=True,
    ),
}


def indicators(result: GanResult) -> dict[str, float]:
    """Every indicator of a result, NaN where what it needs is missing."""
    return {name: indicator.read(result) for name, indicator in INDICATORS.items()}


def standard_errors(result: GanResult) -> dict[str, float]:
    """Standard errors, over draws of samples and probes, of the indicators that a verdict can lean on; no NaN."""
    values = result.kernel.normalized
    means = (values.sum(1) - np.diag(values)) / max(1, len(values) - 1)
    # of a mean over pairs: twice that of the means over partners
    latents = 2 * float(means.std()) / math.sqrt(len(means))
    found = {
        "kernel_mean": math.hypot(latents, np.nan_to_num(result.kernel.mean_off_diagonal_stderr)),
        "relative_diversity": result.coverage.diversity.relative_stderr,
        "recall": math.nan if result.coverage.neighbours is None else result.coverage.neighbours.recall_stderr,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}

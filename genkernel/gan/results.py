"""What a GAN analysis returns: numbers only, float64, with the names of ``summary.json``.

Arrays over latents have length n and follow the batch; arrays over clusters have length M and follow
``ClusterTable.names``. What does not exist is ``None`` or NaN here and ``null`` in the summary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.gan.coverage import Diversity, ModeCoverage, Neighbours
from genkernel.gan.game import DriveStatistics
from genkernel.gan.latent_jacobian import LatentSpectra
from genkernel.gan.latent_kernel import LatentKernel
from genkernel.gan.one_step import OneStep
from genkernel.gan.transport import TransportSummary
from genkernel.gan.verdict import Verdict
from genkernel.runs import json_ready

SCHEMA_VERSION = 1

Array = NDArray[np.float64]


@dataclass
class ClusterTable:
    """Which latents belong together.

    Attributes:
        names: ``[M]``.
        labels: cluster of every latent ``[n]``.
        occupancy: share of the latents ``[M]``.
        by: how they were found, in words.
        fixed: known beforehand, so that an empty one is a missing mode.
    """

    names: list[str]
    labels: NDArray[np.int64]
    occupancy: Array
    by: str
    fixed: bool


@dataclass
class JacobianTable:
    """Medians over the latents of a cluster, ``[M]``; NaN where none of them was differentiated."""

    condition_number: Array
    log_volume: Array
    effective_rank: Array


@dataclass
class Coverage:
    """What the samples cover, which no kernel says; None where it cannot be known.

    Attributes:
        modes: samples counted by known modes or by a classifier.
        neighbours: precision, recall, density and coverage against real samples.
        diversity: mean distance between samples, and relative to real ones.
        frechet: squared Fréchet distance to real samples; NaN without any.
        features: what they are compared in, in words.
    """

    modes: ModeCoverage | None
    neighbours: Neighbours | None
    diversity: Diversity
    frechet: float
    features: str


@dataclass
class GanResult:
    """Everything :func:`genkernel.gan.analysis.analyze` found.

    Attributes:
        clusters: the latents' clusters.
        kernel: K_G over the latents, normalised.
        jacobian: singular values of ∂G/∂z at some of them.
        jacobian_by_cluster: their medians per cluster.
        transport: what the drive of each cluster does; None without a discriminator.
        agreement: Spearman correlation of K_G(z, z′) with how alike z and z′ move; NaN without a discriminator.
        drive: how strongly the discriminator still drives the generator; None without one.
        one_step: the first order against real optimizer steps.
        coverage: what the samples cover.
        points: samples and their updates in the plane, ``[n, 2]`` and ``[M, n, 2]``, for generators of 2-D points.
        missing: sentences on what could not be computed, and why.
        verdict: what the indicators add up to; None before they were judged.
        meta: options, notes, seconds.
    """

    clusters: ClusterTable
    kernel: LatentKernel
    jacobian: LatentSpectra
    jacobian_by_cluster: JacobianTable
    transport: TransportSummary | None
    agreement: float
    drive: DriveStatistics | None
    one_step: list[OneStep]
    coverage: Coverage
    points: Array | None = None
    point_updates: Array | None = None
    missing: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def to_summary(self) -> dict[str, Any]:
        """The machine-readable summary, JSON-ready (NaN and infinity become None)."""
        moved, jacobian = self.transport, self.jacobian
        summary = {
            "schema_version": SCHEMA_VERSION,
            "kind": "gan",
            "verdict": "unknown" if self.verdict is None else self.verdict.label,
            "reasons": [] if self.verdict is None else self.verdict.reasons,
            "evidence": [] if self.verdict is None else self.verdict.evidence,
            "clusters": {
                "names": self.clusters.names,
                "occupancy": self.clusters.occupancy,
                "by": self.clusters.by,
                "fixed": self.clusters.fixed,
            },
            "amplification": None if moved is None else moved,
            "jacobian": {
                "singular_values": jacobian.singular_values,
                "exact": jacobian.exact,
                "condition_number": jacobian.condition_number,
                "log_volume": jacobian.log_volume,
                "effective_rank": jacobian.effective_rank,
                "rank": jacobian.rank,
                "latents": jacobian.latents,
                "by_cluster": self.jacobian_by_cluster,
            },
            "kernel": {
                "effective_rank": self.kernel.effective_rank,
                "effective_rank_stderr": self.kernel.effective_rank_stderr,
                "mean_off_diagonal": self.kernel.mean_off_diagonal,
                "mean_off_diagonal_stderr": self.kernel.mean_off_diagonal_stderr,
                "eigenvalues": self.kernel.eigenvalues,
                "by_cluster": self.kernel.by_cluster,
                "probes": self.kernel.probes,
                "agreement_with_movement": self.agreement,
            },
            "drive": self.drive,
            "one_step": self.one_step,
            "coverage": self.coverage,
            "missing": self.missing,
            "meta": self.meta,
        }
        return json_ready(summary)

"""What a GAN analysis returns: numbers only, float64, with the names of ``summary.json``.

Arrays over latents have length n and follow the batch; arrays over clusters have length M and follow
``ClusterTable.names``. What does not exist is ``None`` or NaN here and ``null`` in the summary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.gan.coverage import Diversity, ModeCoverage, Neighbours
from genkernel.gan.game import DiscriminatorKernel, DriveStatistics
from genkernel.gan.latent_jacobian import LatentSpectra
from genkernel.gan.latent_kernel import LatentKernel
from genkernel.gan.one_step import OneStep
from genkernel.gan.scores import Sensitivity
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
        kind: see :class:`~genkernel.gan.clusters.Clusters`; ``"one"`` where all samples are the same.
    """

    names: list[str]
    labels: NDArray[np.int64]
    occupancy: Array
    by: str
    fixed: bool
    kind: str = "given"


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
class PerCluster:
    """What each cluster (mode, class, …) is like by itself, ``[M]`` each; NaN where it cannot be known.

    A class can collapse within itself while all classes are there. Its samples are close to each other then
    (``relative_diversity``), its latents move alike (``kernel_within``, ``coherence``), and its latent Jacobians have
    few directions left (``log_volume``, ``effective_rank``). A cluster of k-means or of modes is narrow by its own
    definition: there only the comparison with real samples of the same cluster says something.

    Attributes:
        latents: number of latents.
        occupancy: share of the latents: for the labels of a conditional generator as it was asked for them.
        recognised: share of all samples that a classifier takes for this class; clusters that are labels only.
        agreed: share of this class's samples that a classifier takes for it; clusters that are labels only.
        real_occupancy: share of the real samples.
        diversity: mean distance between its samples, in the features of ``Coverage``.
        real_diversity: the same for the real samples of the cluster.
        relative_diversity: the one over the other: 1 for a class as diverse as its data.
        kernel_within: mean cosine of K_G over pairs of different latents in it.
        kernel_between: mean cosine of K_G over pairs of a latent in it and one outside.
        share, signed_share: of the drive, see :class:`~genkernel.gan.transport.TransportSummary`.
        drive: mean ‖δ‖.
        raw_coherence: mean pairwise cosine of −δ within it.
        coherence: mean pairwise cosine of the update U within it.
        condition_number, log_volume, effective_rank: medians of the latent Jacobian, see :class:`JacobianTable`.
    """

    latents: NDArray[np.int64]
    occupancy: Array
    recognised: Array
    agreed: Array
    real_occupancy: Array
    diversity: Array
    real_diversity: Array
    relative_diversity: Array
    kernel_within: Array
    kernel_between: Array
    share: Array
    signed_share: Array
    drive: Array
    raw_coherence: Array
    coherence: Array
    condition_number: Array
    log_volume: Array
    effective_rank: Array


@dataclass
class ScoreTable:
    """Means over the samples of a cluster, ``[M]``; NaN where there are none.

    Attributes:
        cosine: between ∇l and s, over the samples that have one.
        attraction, repulsion, difference: of the lengths.
    """

    cosine: Array
    attraction: Array
    repulsion: Array
    difference: Array


@dataclass
class ScoreFields:
    """Vectors at the samples of a planar generator, ``[n, 2]``.

    Attributes:
        attraction: ∇ log p_d.
        repulsion: ∇ log p_g; the score difference has it with a minus.
        descent: −δ, along which the loss of a sample falls.
    """

    attraction: Array
    repulsion: Array
    descent: Array


@dataclass
class ScoreReport:
    """Attraction and repulsion: ∇l beside the estimated score difference s = ∇ log p_d − ∇ log p_g (THEORY §7).

    Attributes:
        cosine: between ∇l and s, mean over samples.
        pooled: of the whole fields, in which long vectors count more.
        per_sample: ``[n]``; NaN where one of the two is exactly zero.
        undefined: number of samples without a cosine.
        attainable, attainable_pooled: what an optimal discriminator would reach with estimates of this quality: means
            over simulations. What the cosine falls short of this is the discriminator's; the rest is the estimate's.
        attainable_std: standard deviation of the first over the simulations.
        attraction, repulsion, difference: mean lengths of ∇ log p_d, ∇ log p_g and s, in 1/units of the samples.
        gradient: mean length of ∇l.
        by_cluster: the same, cluster by cluster.
        sensitivity: the cosines at half and at twice the bandwidths.
        bandwidth: of the estimate of p_g, in the units of the samples.
        real_bandwidth: of that of p_d; NaN where it is known.
        at_edge: a bandwidth is the narrowest or widest that was tried, so that the estimate is not to be relied on;
            samples that (nearly) coincide do this.
        data: where p_d comes from, in words.
        density_ratio: at the optimal discriminator of this loss ∇l has the direction of s.
        reading: what the cosine says with this loss, in a sentence.
        fields: the vectors, for planar generators.
    """

    cosine: float
    pooled: float
    per_sample: Array
    undefined: int
    attainable: float
    attainable_pooled: float
    attainable_std: float
    attraction: float
    repulsion: float
    difference: float
    gradient: float
    by_cluster: ScoreTable
    sensitivity: Sensitivity
    bandwidth: float
    real_bandwidth: float
    at_edge: bool
    data: str
    density_ratio: bool
    reading: str
    fields: ScoreFields | None = None


@dataclass
class GameReport:
    """Eigenvalues of the game of both players, of :class:`~genkernel.gan.game.GameSpectrum`.

    They are no verdict. On trained networks the field of both players is hardly ever zero, so that there is no
    equilibrium for them to describe, and their largest real part is above 0 in healthy and in collapsing runs alike.
    Compare them between checkpoints of one run.

    Attributes:
        eigenvalues: real and imaginary parts ``[k, 2]``, largest real part first.
        exact: all of them; otherwise those that the searches for the largest magnitude and the largest real part
            found, some of them twice.
        abscissa: the largest real part; oscillation: the largest |Im λ/Re λ|.
        stable_step: the largest step size of simultaneous gradient descent that contracts; 0 where none does.
        generator_field, discriminator_field: ‖v‖ of the players' parts.
        generator_loss, discriminator_loss: L_G and L_D, the penalty included.
        parameters: of both players.
        latents, real: numbers of samples that the losses are means over.
    """

    eigenvalues: Array
    exact: bool
    abscissa: float
    oscillation: float
    stable_step: float
    generator_field: float
    discriminator_field: float
    generator_loss: float
    discriminator_loss: float
    parameters: int
    latents: int
    real: int


@dataclass
class SampleSheet:
    """A few samples of the fullest clusters, to be looked at.

    Attributes:
        clusters: the rows, in the clusters' order.
        counts: images of each row.
        strips: its images beside each other: a PNG in base64; :func:`genkernel.gan.sheet.images_of` reads them.
    """

    clusters: list[int]
    counts: list[int]
    strips: list[str]


@dataclass
class GanResult:
    """Everything :func:`genkernel.gan.analysis.analyze` found.

    Attributes:
        clusters: the latents' clusters.
        kernel: K_G over the latents, normalised.
        jacobian: singular values of ∂G/∂z at some of them.
        jacobian_by_cluster: their medians per cluster.
        transport: what the drive of each cluster does; None without a discriminator.
        agreement: Spearman correlation, over pairs, of the cosine of K_G(z, z′) (without P) with the cosine of
            U(z) and U(z′), that is of the kernel with how alike z and z′ move; NaN without a drive.
        drive: how strongly the discriminator still drives the generator; None without one.
        one_step: the first order against real optimizer steps.
        coverage: what the samples cover.
        points: samples and their updates in the plane, ``[n, 2]`` and ``[M, n, 2]``, for generators of 2-D points.
        per_cluster: what each cluster is like by itself.
        score: ∇l beside the estimated score difference; None where densities cannot be estimated.
        discriminator_kernel: whether the discriminator's gradients tell real samples from generated ones; None without
            real samples.
        game: eigenvalues of the game, where they were asked for.
        sheet: some samples of the clusters, of generators of images.
        modes: known modes ``[M, d]``, of samples of up to ten dimensions; else None.
        mode_std: standard deviation of the data around each ``[M]``; None where it was not given.
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
    per_cluster: PerCluster | None = None
    score: ScoreReport | None = None
    discriminator_kernel: DiscriminatorKernel | None = None
    game: GameReport | None = None
    modes: Array | None = None
    mode_std: Array | None = None
    sheet: SampleSheet | None = None
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
            "per_cluster": self.per_cluster,
            "drive": self.drive,
            "score": _without(self.score, "per_sample", "fields"),
            "discriminator": _without(self.discriminator_kernel, "normalized"),
            "game": self.game,
            "one_step": self.one_step,
            "coverage": self.coverage,
            "missing": self.missing,
            "meta": self.meta,
        }
        return json_ready(summary)


def _without(part: Any, *large: str) -> dict[str, Any] | None:
    """A dataclass as a dict, without fields that have an entry for every sample."""
    return None if part is None else {f.name: getattr(part, f.name) for f in fields(part) if f.name not in large}

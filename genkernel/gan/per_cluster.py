"""What each cluster is like by itself: a class may collapse within itself while all classes are there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.gan import measures
from genkernel.gan.answers import Features
from genkernel.gan.clusters import Clusters, by_class
from genkernel.gan.coverage import diversity
from genkernel.gan.latent_kernel import LatentKernel
from genkernel.gan.results import JacobianTable, PerCluster
from genkernel.gan.stages import Compared, Real
from genkernel.gan.transport import TransportSummary

Array = NDArray[np.float64]


def per_cluster(
    clusters: Clusters,
    samples: Tensor,
    pair: Compared,
    kernel: LatentKernel,
    jacobian: JacobianTable,
    *,
    real: Real | None = None,
    classifier: Features | None = None,
    drive: Tensor | None = None,
    update: Tensor | None = None,
    moved: TransportSummary | None = None,
    missing: list[str] | None = None,
) -> PerCluster:
    """One row for each cluster.

    Args:
        samples: of the latents ``[n, *out]``; pair: the same and the real ones in the features that are compared.
        kernel, jacobian: of the whole analysis.
        real: real samples. They belong to the clusters by their own labels where the clusters are labels of a
            conditional generator, else by the rule that the generated ones were clustered by.
        classifier: what recognises the class of a sample; used where clusters are labels.
        drive, update: δ and U ``[n, *out]``; moved: what the transport says.
        missing: gets sentences on what cannot be known.
    """
    M, labels = clusters.count, clusters.labels
    missing = [] if missing is None else missing
    nothing = np.full(M, math.nan)
    true = None if real is None else _clusters_of(real, clusters, missing)
    mine = _diversity(pair.generated, labels, M)
    known = nothing if true is None or pair.real is None else _diversity(pair.real, true, M)
    relative = np.divide(mine, known, out=nothing.copy(), where=known > 0)
    recognised, agreed = _recognised(clusters, samples, classifier, missing)
    return PerCluster(
        latents=clusters.sizes.astype(np.int64),
        occupancy=clusters.occupancy,
        recognised=recognised,
        agreed=agreed,
        real_occupancy=nothing if true is None else np.bincount(true, minlength=M) / len(true),
        diversity=mine,
        real_diversity=known,
        relative_diversity=relative,
        kernel_within=np.diag(kernel.by_cluster).copy(),
        kernel_between=_outside(kernel.normalized, clusters),
        share=nothing if moved is None else moved.share,
        signed_share=nothing if moved is None else moved.signed_share,
        drive=nothing if drive is None else _each(_lengths(drive), labels, M, np.mean),
        raw_coherence=_coherence(None if drive is None else -drive, labels, M),
        coherence=_coherence(update, labels, M),
        condition_number=jacobian.condition_number,
        log_volume=jacobian.log_volume,
        effective_rank=jacobian.effective_rank,
    )


def _clusters_of(real: Real, clusters: Clusters, missing: list[str]) -> NDArray[np.int64] | None:
    """The cluster of every real sample; None where it is not known."""
    if clusters.kind == "labels":
        if real.labels is None:
            missing.append("no labels of the real samples were given: they are not compared class by class")
            return None
        return real.labels.numpy().astype(np.int64)
    return None if clusters.assign is None else clusters.assign(real.samples)


def _recognised(
    clusters: Clusters, samples: Tensor, classifier: Features | None, missing: list[str]
) -> tuple[Array, Array]:
    """Share of the samples that a classifier takes for each class, and share of the class's own ones ``[M]``."""
    M = clusters.count
    nothing = np.full(M, math.nan)
    if classifier is None or clusters.kind != "labels":
        return nothing, nothing
    seen = by_class(samples, classifier)
    if seen.count != M:
        missing.append(
            f"the classifier has {seen.count} classes, the generator {M}: what it recognises is not compared"
        )
        return nothing, nothing
    hits = (seen.labels == clusters.labels).astype(np.float64)
    return seen.occupancy, _each(hits, clusters.labels, M, np.mean)


def _outside(values: Array, clusters: Clusters) -> Array:
    """Mean entry over pairs of a latent in each cluster and one outside ``[M]``; NaN without any."""
    hot = np.eye(clusters.count)[clusters.labels]
    total = (hot * (values @ (1 - hot))).sum(0)
    pairs = clusters.sizes * (len(clusters.labels) - clusters.sizes)
    return np.divide(total, pairs, out=np.full(clusters.count, math.nan), where=pairs > 0)


def _diversity(points: Tensor, labels: NDArray[np.int64], count: int) -> Array:
    rows = [np.flatnonzero(labels == c) for c in range(count)]
    return np.array([diversity(points[r]).distance if len(r) > 1 else math.nan for r in rows])


def _coherence(field: Tensor | None, labels: NDArray[np.int64], count: int) -> Array:
    if field is None:
        return np.full(count, math.nan)
    return np.array([measures.signed_coherence(field[np.flatnonzero(labels == c)]) for c in range(count)])


def _each(values: Array, labels: NDArray[np.int64], count: int, how: Any) -> Array:
    return np.array([how(values[labels == c]) if (labels == c).any() else math.nan for c in range(count)])


def _lengths(field: Tensor) -> Array:
    return field.detach().double().cpu().flatten(1).norm(dim=1).numpy()

"""Kernel transport: what corrections at one cluster of latents do at all latents (THEORY §7, Cor. 4.2, Alg. 7A).

One step of the generator moves the sample of z by

    U(z) = -η J_G(z) P (1/N) Σ_z' J_G(z')ᵀ δ(z') = Σ_c U_c(z) + O(η²),

where δ = ∇_x ℓ_G is the drive and U_c keeps the latents of cluster c alone. One backward product per cluster
over its own latents and one J·u over all latents give every U_c exactly; no kernel matrix is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, NonFiniteError, ZeroGradientError
from genkernel.gan import measures
from genkernel.gan.clusters import Clusters
from genkernel.gan.generator import Generator
from genkernel.spectra.effective_number import entropy_number, participation
from genkernel.tangent import batches, operator
from genkernel.tangent.jvp import Vector
from genkernel.tangent.preconditioner import as_preconditioner

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass
class Transport:
    """Updates of all latents by the drive of each cluster, per unit of learning rate (η = 1).

    M clusters; n latents that the drive comes from; m fresh latents that only receive.

    Attributes:
        total: U(z) ``[n, *out]``.
        fresh_total: U(z*) of the fresh latents ``[m, *out]``; None without any.
        norms: ‖U_c(z)‖ ``[M, n]``.
        inner: ⟨U_c(z), U(z)⟩ ``[M, n]``.
        fresh_norms, fresh_inner: the same for fresh latents, ``[M, m]``.
        parts: U_c(z) ``[M, n, *out]`` where they were asked for.
        gap: ‖Σ_c U_c − U‖ / ‖U‖, which is rounding.
        gradient_norm: ‖P g‖ of the whole step, and of every cluster's part ``[M]``.
    """

    total: Tensor
    fresh_total: Tensor | None
    norms: Array
    inner: Array
    fresh_norms: Array | None
    fresh_inner: Array | None
    parts: Tensor | None
    gap: float
    gradient_norm: float
    cluster_gradient_norms: Array
    preconditioner: str = "none"
    directions: list[Vector] = field(default_factory=list, repr=False)  # P g_c, for interventions


@dataclass
class TransportSummary:
    """What a transport says, as numbers.

    Attributes:
        matrix: [driver c][receiver c'] = mean over z in c' of ‖U_c(z)‖, ``[M, M]``; NaN for receivers without latents.
        share: Σ_z ‖U_c(z)‖ / Σ_{c, z} ‖U_c(z)‖, ``[M]``.
        signed_share: ⟨U_c, U⟩/‖U‖², ``[M]``; sums to 1.
        effective_clusters: e^{H(share)}.
        participation: 1/Σ share².
        driving_dominance, occupancy_dominance: 1 − e^{H}/M of the shares and of the occupancy.
        axial_coherence, axial_null: of U, and of isotropic directions.
        coherence, raw_coherence: signed, of U and of −δ.
        score: dominance × rescaled axial coherence; raw_score: dominance × axial coherence.
        spread_gain: rate of log total variance per unit of learning rate.
        spread_cosine: cosine of the samples and the update, both about their means: the same without a scale.
        foreign_share: update mass at z that comes from other clusters; foreign_baseline: the share of latents in other
            clusters, which it would be if every latent drove alike.
        inheritance: on fresh latents: the correlation of the clusters' shares there with those here, and the axial
            alignment of the two fields' leading directions. NaN without fresh latents.
    """

    matrix: Array
    share: Array
    signed_share: Array
    effective_clusters: float
    participation: float
    driving_dominance: float
    occupancy_dominance: float
    axial_coherence: float
    axial_null: float
    coherence: float
    raw_coherence: float
    score: float
    raw_score: float
    spread_gain: float
    spread_cosine: float
    foreign_share: float
    foreign_baseline: float
    fresh_share: Array | None
    inheritance_share: float
    inheritance_alignment: float


def transport(
    generator: Generator,
    batch: dict[str, Any],
    drive: Tensor,
    clusters: Clusters,
    *,
    fresh: dict[str, Any] | None = None,
    precondition: Any = None,
    keep_parts: bool = False,
    keep_directions: bool = False,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "2GiB",
    progress: Callable[[int, int], None] | None = None,
) -> Transport:
    """U_c(z) for every cluster c.

    Args:
        batch: n latents.
        drive: δ ``[n, *out]`` at them (:meth:`Discriminator.drive`, or any field on the samples).
        clusters: of these latents.
        fresh: m further latents that the update is also evaluated at.
        precondition: P, as for :func:`genkernel.operator`.
        keep_parts: keep every U_c(z), ``M n O`` numbers.
        keep_directions: keep the parameter directions P g_c.
        progress: called with (clusters done, clusters).

    Raises:
        InputError: the drive or the clusters do not fit the latents.
        NonFiniteError: the drive holds NaN or infinity.
        ZeroGradientError: the drive is zero everywhere, or moves no parameter.
    """
    n = batches.size(batch)
    if tuple(drive.shape) != (n, *generator.output_shape):
        raise InputError(f"the drive has shape {tuple(drive.shape)}, the samples have {(n, *generator.output_shape)}")
    if len(clusters.labels) != n:
        raise InputError(f"there are {n} latents and {len(clusters.labels)} cluster labels")
    if not torch.isfinite(drive).all():
        raise NonFiniteError("the drive holds NaN or infinity")
    if not drive.any():
        raise ZeroGradientError(
            "the gradient of the loss at the samples is zero everywhere: the discriminator is constant, or saturated"
        )
    order = torch.from_numpy(clusters.order())  # a cluster's latents lie together, so that others are not run
    every = batches.take(batch, order)
    if fresh is not None:
        every = batches.concatenate(every, fresh)
    op = operator(generator.tangent, every, dtype=dtype, memory=memory, progress=False)
    P = (
        None
        if precondition is None
        else as_preconditioner(precondition, generator.tangent).to(
            generator.device, torch.promote_types(op.dtype, torch.float32)
        )
    )
    m = batches.size(every) - n
    sorted_drive, sorted_labels = drive[order.to(drive.device)], clusters.labels[order.numpy()]
    empty = torch.zeros(m, *generator.output_shape, dtype=drive.dtype, device=drive.device)

    def pulled(c: int) -> Vector:
        mine = torch.from_numpy(sorted_labels == c).to(drive.device)
        w = torch.where(mine.reshape(-1, *[1] * (drive.dim() - 1)), sorted_drive, 0) / n
        g = op.vjp(torch.cat([w, empty]))
        return g if P is None else {name: row[0] for name, row in P.apply({k: v[None] for k, v in g.items()}).items()}

    back = torch.argsort(order)
    members = [c for c in range(clusters.count) if (sorted_labels == c).any()]
    step = {c: pulled(c) for c in members}
    whole = {name: torch.stack([step[c][name] for c in members]).sum(0) for name in step[members[0]]}
    size = _norm(whole)
    if size == 0:
        raise ZeroGradientError("the drive moves no parameter of the generator: its gradients are zero")
    U = -op.jvp(whole).cpu()
    total, fresh_total = U[:n][back], U[n:] if m else None
    norms, inner = np.zeros((clusters.count, n)), np.zeros((clusters.count, n))
    fresh_norms, fresh_inner = np.zeros((clusters.count, m)), np.zeros((clusters.count, m))
    parts = torch.zeros(clusters.count, *total.shape, dtype=total.dtype) if keep_parts else None
    summed = torch.zeros_like(U)
    for done, c in enumerate(members):
        if progress is not None:
            progress(done, len(members))
        part = -op.jvp(step[c]).cpu()
        summed += part
        lengths = part.double().flatten(1).norm(dim=1).numpy()
        products = (part.double() * U.double()).flatten(1).sum(1).numpy()
        norms[c], inner[c] = lengths[:n][back.numpy()], products[:n][back.numpy()]
        fresh_norms[c], fresh_inner[c] = lengths[n:], products[n:]
        if parts is not None:
            parts[c] = part[:n][back]
    length = float(U.double().norm())
    return Transport(
        total=total,
        fresh_total=fresh_total,
        norms=norms,
        inner=inner,
        fresh_norms=fresh_norms if m else None,
        fresh_inner=fresh_inner if m else None,
        parts=parts,
        gap=float((summed - U).double().norm()) / length if length else 0.0,
        gradient_norm=size,
        cluster_gradient_norms=np.array([_norm(step[c]) if c in step else 0.0 for c in range(clusters.count)]),
        preconditioner="none" if P is None else P.describe(),
        directions=[step.get(c, {}) for c in range(clusters.count)] if keep_directions else [],
    )


def summarise(found: Transport, samples: Tensor, drive: Tensor, clusters: Clusters, seed: int = 0) -> TransportSummary:
    """The metrics of THEORY §7.

    Args:
        samples: G(z) ``[n, *out]`` of the latents.
        drive: δ ``[n, *out]``.
        seed: of the isotropic null where it is simulated.
    """
    M = clusters.count
    labels = clusters.labels
    matrix = np.full((M, M), math.nan)
    for receiver in range(M):
        if (labels == receiver).any():
            matrix[:, receiver] = found.norms[:, labels == receiver].mean(1)
    mass = found.norms.sum(1)
    share = mass / max(mass.sum(), 1e-300)
    square = float(found.inner.sum())
    own = found.norms[labels, np.arange(len(labels))].sum()
    occupancy = clusters.occupancy
    axial = measures.axial_coherence(found.total)
    null = measures.axial_null(len(measures.directions(found.total)), found.total[0].numel(), seed)
    driving = measures.dominance(share)
    fresh_share = None if found.fresh_norms is None else found.fresh_norms.sum(1) / max(found.fresh_norms.sum(), 1e-300)
    return TransportSummary(
        matrix=matrix,
        share=share,
        signed_share=found.inner.sum(1) / square if square else np.full(M, math.nan),
        effective_clusters=entropy_number(share),
        participation=participation(share),
        driving_dominance=driving,
        occupancy_dominance=measures.dominance(occupancy),
        axial_coherence=axial,
        axial_null=null,
        coherence=measures.signed_coherence(found.total),
        raw_coherence=measures.signed_coherence(-drive),
        score=driving * measures.rescaled(axial, null),
        raw_score=driving * axial,
        spread_gain=measures.spread_gain(samples, found.total),
        spread_cosine=measures.spread_cosine(samples, found.total),
        foreign_share=1 - own / max(mass.sum(), 1e-300),
        foreign_baseline=1 - float((occupancy**2).sum()),
        fresh_share=fresh_share,
        inheritance_share=math.nan if fresh_share is None else _correlation(share, fresh_share),
        inheritance_alignment=math.nan if found.fresh_total is None else _aligned(found.total, found.fresh_total),
    )


def _aligned(field: Tensor, other: Tensor) -> float:
    """|cosine| of the leading axes of two fields of directions."""
    first, second = _axis(field), _axis(other)
    return math.nan if first is None or second is None else float((first @ second).abs())


def _axis(field: Tensor) -> Tensor | None:
    unit = measures.directions(field)
    return torch.linalg.svd(unit, full_matrices=False).Vh[0] if len(unit) else None


def _correlation(a: Array, b: Array) -> float:
    """Pearson's; NaN where all shares are the same."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 1e-12 else math.nan


def _norm(u: Vector) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in u.values()))

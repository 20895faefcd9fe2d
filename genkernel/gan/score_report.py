"""Attraction and repulsion in an analysis: when they can be estimated, from what, and what comes of it (THEORY §7)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.gan.clusters import Clusters
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.losses import Loss
from genkernel.gan.results import ScoreFields, ScoreReport, ScoreTable
from genkernel.gan.scores import (
    MOST_DIMENSIONS,
    SAMPLES_NEEDED,
    Kde,
    Mixture,
    attainable,
    score_cosine,
    score_difference,
    scott,
    sensitivity,
)
from genkernel.gan.stages import Real

Array = NDArray[np.float64]

DRAWS = 5  # simulations behind the attainable cosine
MOST_REAL = 1024  # real samples in an estimate, or as many as generated ones: bandwidths cost their square

# whether ∇l has the direction of s at the discriminator's optimum, and what a cosine then says
_RATIO = (
    True,
    "At the optimal discriminator of this loss the gradient of the logit is the score difference: a cosine below the "
    "attainable one is the discriminator's own error.",
)
_READINGS: dict[str, tuple[bool, str]] = {
    "non-saturating": _RATIO,
    "minimax": _RATIO,
    "kl": _RATIO,
    "lsgan": (
        True,
        "At the optimum of least squares the output is D = p_d/(p_d + p_g), whose gradient is D(1 − D) times the score "
        "difference: parallel to it, not equal, so that the cosine is meaningful and the lengths are not.",
    ),
    "wgan": (
        False,
        "The critic of this loss is not a density ratio, and the gradient of its value is no score difference: the "
        "cosine says how far the two happen to agree, and a low one is no error.",
    ),
    "hinge": (
        False,
        "The optimal discriminator of the hinge loss is flat wherever it is sure, and the gradient of its output is no "
        "score difference: the cosine says how far the two happen to agree, and a low one is no error.",
    ),
}
_UNKNOWN = (
    False,
    "With a loss of one's own it is not known whether the gradient of the logit is a score difference at the optimum.",
)


def obstacle(
    discriminator: Discriminator,
    samples: Tensor,
    real: Real | None,
    modes: Tensor | None,
    mode_std: float | Tensor | None,
) -> str | None:
    """Why attraction and repulsion cannot be estimated, in a sentence; None where they can.

    Densities are estimated in as many dimensions as there are samples for: those of Silverman's table (19 in the
    plane, 223 in four dimensions, 2,790 in six), and never in more than ten.

    Args:
        samples: generated ones ``[n, *out]``.
        real: used where the modes and their width are not both known.
    """
    d, counts = samples[0].numel(), {"generated": len(samples)}
    known = modes is not None and mode_std is not None
    what = "attraction and repulsion are not estimated"
    if d > MOST_DIMENSIONS:
        return f"{what}: samples have {d} dimensions, and densities can be estimated in at most {MOST_DIMENSIONS}"
    if discriminator.classes is not None:
        return f"{what}: a conditional discriminator compares densities within each class"
    if not known and real is None:
        return f"{what}: they need real samples, or known modes with their standard deviation"
    if not known and real is not None:
        counts["real"] = len(real.samples)
    for kind, count in counts.items():
        if count < SAMPLES_NEEDED[d - 1]:
            return (
                f"{what}: in {d} dimensions a density estimate needs about {SAMPLES_NEEDED[d - 1]:,} samples, and "
                f"there are {count} {kind} ones"
            )
    try:
        for points in (samples, *([] if known or real is None else [real.samples])):
            scott(points)
    except InputError as error:
        return f"{what}: {error}"
    return None


def score_report(
    discriminator: Discriminator,
    samples: Tensor,
    clusters: Clusters,
    drive: Tensor,
    loss: str | Loss,
    *,
    real: Real | None = None,
    modes: Tensor | None = None,
    mode_std: float | Tensor | None = None,
    seed: int = 0,
) -> ScoreReport:
    """∇l beside the score difference, where :func:`obstacle` finds none.

    p_d is the mixture of equally likely round Gaussians where ``modes`` and ``mode_std`` are given, else an estimate
    from real samples (at most 1024, or n); p_g is an estimate from the generated samples, each left out at its own
    place. Bandwidths are those of largest leave-one-out likelihood.

    Args:
        samples: generated ones ``[n, *out]``.
        clusters: of these.
        drive: δ ``[n, *out]`` at them.
        loss: of the generator, which says what the discriminator is.
        real, modes, mode_std: what is known of the data; modes ``[M, *out]``, the standard deviation one or ``[M]``.
        seed: of the choice of real samples, and of the simulations.

    Raises:
        InputError: shapes do not fit.
        NonFiniteError: a sample, a logit or a gradient is NaN or infinite.
    """
    generated = Kde(samples)
    data: Kde | Mixture
    if modes is not None and mode_std is not None:
        variance = torch.as_tensor(mode_std, dtype=torch.float64).square()
        data, source = Mixture(modes, variance), "the known modes, as equally likely round Gaussians"
    elif real is not None:
        some = real.take(max(MOST_REAL, len(samples)), seed).samples
        data, source = Kde(some), f"an estimate from {len(some)} real samples"
    else:
        raise InputError("scores need real samples, or known modes with their standard deviation")
    gradient = -discriminator.drive(samples, "kl").to(samples)
    found = score_difference(samples, data, generated)
    cosine = score_cosine(gradient, found)
    best = attainable(data, generated, draws=DRAWS, seed=seed)
    lengths = {
        "attraction": found.attraction.norm(dim=1).numpy(),
        "repulsion": found.repulsion.norm(dim=1).numpy(),
        "difference": found.difference.norm(dim=1).numpy(),
    }
    ratio, reading = _READINGS.get(loss, _UNKNOWN) if isinstance(loss, str) else _UNKNOWN
    return ScoreReport(
        cosine=cosine.mean,
        pooled=cosine.pooled,
        per_sample=cosine.per_sample,
        undefined=cosine.undefined,
        attainable=float(best.mean.mean()),
        attainable_pooled=float(best.pooled.mean()),
        attainable_std=float(best.mean.std()),
        **{name: float(values.mean()) for name, values in lengths.items()},
        gradient=float(gradient.double().flatten(1).norm(dim=1).mean()),
        by_cluster=ScoreTable(
            cosine=_means(cosine.per_sample, clusters),
            **{name: _means(values, clusters) for name, values in lengths.items()},
        ),
        sensitivity=sensitivity(samples, data, generated, gradient),
        bandwidth=generated.bandwidth,
        real_bandwidth=data.bandwidth if isinstance(data, Kde) else math.nan,
        at_edge=generated.at_edge or (isinstance(data, Kde) and data.at_edge),
        data=source,
        density_ratio=ratio,
        reading=reading,
        fields=_fields(found.attraction, found.repulsion, -drive) if samples[0].numel() == 2 else None,
    )


def _means(values: Array, clusters: Clusters) -> Array:
    """Means per cluster ``[M]`` over the values that are not NaN."""
    found = np.full(clusters.count, math.nan)
    for c in range(clusters.count):
        mine = values[clusters.labels == c]
        if np.isfinite(mine).any():
            found[c] = np.nanmean(mine)
    return found


def _fields(*vectors: Any) -> ScoreFields:
    return ScoreFields(*(v.detach().double().cpu().flatten(1).numpy() for v in vectors))

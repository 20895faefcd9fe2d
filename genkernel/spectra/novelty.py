"""How new a sample is to a kernel: what of its tangent feature lies outside of those of the training samples.

    d(x)² = ‖(I - Π) φ(x)‖² / ‖φ(x)‖²                        Π onto the span of the training features
    ‖φ‖² d² = k(x, x) - k_xᵀ K⁺ k_x                           the posterior variance of a noiseless Gaussian process
    v_λ(x) = k(x, x) - k_xᵀ (K + λ I)⁻¹ k_x                   the same with noise (ridge) λ
    h(x) = φᵀ (Φᵀ Φ)⁺ φ = k_xᵀ (K²)⁺ k_x                      leverage: of the part that lies inside

Leverages of the training samples sum to the rank. Leverage does not see what lies outside of the span, so it is no
score of novelty by itself (THEORY §5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.mercer import precision_of
from genkernel.tangent import Kernel


@dataclass(frozen=True)
class Novelty:
    """Scores of m new samples.

    Attributes:
        projection_distance: d ``[m]``, between 0 (in the span of the training features) and 1 (orthogonal to it).
        variance: v_λ ``[m]``; with λ = 0 what projection distances are made of.
        leverage: h ``[m]``.
        rank: of the training kernel, at the tolerance.
        tolerance: relative to its largest eigenvalue.
        ridge: λ.
    """

    projection_distance: Tensor
    variance: Tensor
    leverage: Tensor
    rank: int
    tolerance: float
    ridge: float


def novelty(trained: Any, cross: Any, own: Any, *, ridge: float = 0.0, tolerance: float | None = None) -> Novelty:
    """Projection distance, variance and leverage of new samples, from kernels.

    Args:
        trained: K of the n training samples with themselves ``[n, n]``.
        cross: k between the m new samples and the training samples ``[m, n]``.
        own: k(x, x) of the new samples ``[m]``; ``cross.norms_x`` where cross is a :class:`Kernel`.
        ridge: λ ≥ 0 of the variance, in units of the kernel.
        tolerance: eigenvalues of K below it times the largest are rounding; n times the precision by default.

    Raises:
        InputError: shapes differ, something is not finite, or λ or the tolerance make no sense.
    """
    K, k = (_values(given, name) for given, name in ((trained, "trained"), (cross, "cross")))
    kxx = torch.as_tensor(own).detach().double().cpu()
    if K.shape[0] != K.shape[1] or k.shape[1] != len(K) or tuple(kxx.shape) != (len(k),):
        raise InputError(
            f"trained is [n, n], cross [m, n] and own [m], not {tuple(K.shape)}, {tuple(k.shape)}, {tuple(kxx.shape)}"
        )
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is finite and not negative, not {ridge}")
    tolerance = len(K) * precision_of(trained) if tolerance is None else tolerance
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is relative to the largest eigenvalue, between 0 and 1, not {tolerance}")
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    kept = values > tolerance * float(values[-1])
    lam, U = values[kept], vectors[:, kept]
    inside = (k @ U).square()
    outside = (kxx - (inside / lam).sum(1)).clamp_min(0)
    variance = kxx - (inside / (lam + ridge)).sum(1) if ridge else outside
    distance = torch.where(kxx > 0, (outside / kxx.clamp_min(1e-300)).sqrt(), 0.0)
    return Novelty(distance, variance.clamp_min(0), (inside / lam.square()).sum(1), int(kept.sum()), tolerance, ridge)


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve: the share of (new, known) pairs that a score ranks right.

    Attributes:
        value: 0.5 by chance, 1 where all new samples score higher.
        low, high: 95 % of the bootstrap over samples.
    """

    value: float
    low: float
    high: float


def auroc(known: ArrayLike, new: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Auroc:
    """How well a score tells new samples from known ones.

    Args:
        known, new: scores, higher for what is newer.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: one of them is empty or not finite.
    """
    from scipy.stats import rankdata

    a, b = (np.asarray(given, dtype=np.float64).ravel() for given in (known, new))
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("an AUROC needs finite scores of known and of new samples")

    def area(x: np.ndarray, y: np.ndarray) -> float:
        ranks = rankdata(np.concatenate([x, y]))
        return float((ranks[len(x) :].sum() - len(y) * (len(y) + 1) / 2) / (len(x) * len(y)))

    draw = np.random.default_rng(seed)
    found = [area(draw.choice(a, len(a)), draw.choice(b, len(b))) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5]) if found else (np.nan, np.nan)
    return Auroc(area(a, b), float(low), float(high))


def _values(given: Any, name: str) -> Tensor:
    values = given.values if isinstance(given, Kernel) else torch.as_tensor(given)
    K = values.detach().double().cpu()
    if K.dim() != 2 or not torch.isfinite(K).all():
        raise InputError(f"{name} is a finite matrix with one number per pair, not {tuple(K.shape)}")
    return K

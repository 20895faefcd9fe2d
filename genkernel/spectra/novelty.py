"""How new a sample is to a kernel: what of its tangent feature lies outside of those of the training samples.

    d(x)² = ‖(I - Π) φ(x)‖² / ‖φ(x)‖²                        Π onto the span of the training features
    ‖φ‖² d² = k(x, x) - k_xᵀ K⁺ k_x                           the posterior variance of a noiseless Gaussian process
    v_λ(x) = k(x, x) - k_xᵀ (K + λ I)⁻¹ k_x                   the same with noise (ridge) λ
    h(x) = φᵀ (Φᵀ Φ)⁺ φ = k_xᵀ (K²)⁺ k_x                      leverage: of the part that lies inside

Leverages of the training samples sum to the rank. Leverage does not see what lies outside of the span, so it is no
score of novelty by itself (THEORY §5). Kernels with full blocks are scored stacked (Π onto the span of the gradients of
all outputs, sums over the outputs of a sample) or output by output.

Eigenvalues of a kernel are squared singular values, so distances below the root of the tolerance are rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of
from genkernel.spectra.mercer import as_matrix, precision_of
from genkernel.tangent import Kernel

WAYS = ("stacked", "each")
FEWEST = 5  # samples on a side, below which an AUROC has no interval
_Z = 1.959963984540054  # 97.5 % of a normal distribution
_KNOWN = 1e-2  # of d²: what rounding may do to a distance is said from there on
_STEP = 1e-12  # from an area of 0 or 1, where its own standard error is 0


@dataclass(frozen=True)
class Novelty:
    """Scores of m new samples; ``[m, O]`` where every output was scored by itself.

    Attributes:
        projection_distance: d ``[m]``, between 0 (in the span of the training features) and 1 (orthogonal to it).
        variance: v_λ ``[m]``; with λ = 0 what projection distances are made of.
        leverage: h ``[m]``.
        rank: of the training kernel, at the tolerance (of each output ``[O]``, as a tuple, where these are by
            themselves).
        tolerance: relative to its largest eigenvalue.
        ridge: λ.
        notes: what to know about these numbers, in words.
    """

    projection_distance: Tensor
    variance: Tensor
    leverage: Tensor
    rank: int | tuple[int, ...]
    tolerance: float
    ridge: float
    notes: tuple[str, ...] = ()


def novelty(
    trained: Any,
    cross: Any,
    own: Any = None,
    *,
    ridge: float = 0.0,
    tolerance: float | None = None,
    outputs: str = "stacked",
) -> Novelty:
    """Projection distance, variance and leverage of new samples, from kernels.

    Where tangent features fit into memory, :func:`projection_distance` has the first of them with all digits, per
    row of the features; from a kernel, distances below the root of the tolerance are rounding.

    Args:
        trained: K of the n training samples with themselves: a symmetric :class:`Kernel`, ``[n, n]``, or full blocks
            ``[n, n, O, O]``.
        cross: k between the m new samples and the training samples ``[m, n]`` or ``[m, n, O, O]``.
        own: k(x, x) of the new samples ``[m]``, of every output ``[m, O]`` for blocks; ``cross.norms_x`` by default
            where cross is a :class:`Kernel`.
        ridge: λ ≥ 0 of the variance, in units of the kernel.
        tolerance: eigenvalues of K below it times the largest are rounding; rows times the precision by default.
        outputs: for blocks: ``"stacked"``, the span of the gradients of all outputs, and sums over the outputs of a
            sample; or ``"each"``, every output in the span of its own gradients.

    Raises:
        InputError: shapes differ, something is not finite, K is not positive semi-definite, k(x, x) is smaller than
            what is inside of the span by more than rounding (kernels that do not belong together), sample by sample, or
            an option makes no sense.
    """
    if outputs not in WAYS:
        raise InputError(f"outputs is 'stacked' or 'each', not {outputs!r}")
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is finite and not negative, not {ridge}")
    trained, cross = (K if isinstance(K, Kernel) else as_tensor(K, "a kernel") for K in (trained, cross))
    _belong_together(trained, cross)
    if own is None:
        if not isinstance(cross, Kernel):
            raise InputError("k(x, x) of the new samples is missing: give own=, or cross as a Kernel")
        own = cross.norms_x
    K, k = _values(trained, "trained"), _values(cross, "cross")
    kxx = as_tensor(own, "own").double()
    fits = K.shape[0] == K.shape[1] == k.shape[1] and K.shape[2:] == k.shape[2:]
    if not fits or tuple(kxx.shape) != (len(k), *k.shape[3:]):
        raise InputError(
            "trained is [n, n], cross [m, n] and own [m], or [n, n, O, O], [m, n, O, O] and [m, O], not "
            f"{tuple(K.shape)}, {tuple(k.shape)}, {tuple(kxx.shape)}"
        )
    if not torch.isfinite(kxx).all() or bool((kxx < 0).any()):
        raise InputError("own is k(x, x), finite and not negative")
    each = outputs == "each" and K.dim() == 4
    rows = len(K) if each else len(as_matrix(K)[0])
    precision = max(precision_of(trained), precision_of(cross))
    floor = rows * precision
    tolerance = floor if tolerance is None else tolerance
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is relative to the largest eigenvalue, between 0 and 1, not {tolerance}")
    if each:
        every = range(K.shape[2])
        found = [_scores(K[..., o, o], k[..., o, o], kxx[:, o], ridge, tolerance, floor) for o in every]
        scores = _Scores(*(torch.stack(part, 1) for part in zip(*(one for one, _ in found), strict=True)))
        rank: int | tuple[int, ...] = tuple(own_rank for _, own_rank in found)
    else:
        kxx = kxx.reshape(len(k), -1).sum(1)
        scores, rank = _scores(as_matrix(K)[0], as_matrix(k)[0], kxx, ridge, tolerance, floor)
    if bool((scores.inside > (kxx > 0) * (1 + max(1e-6, 100 * floor)) + scores.rounding).any()):
        raise InputError(
            "k(x, x) of a new sample is smaller than the part of it inside of the training span: trained, cross and "
            "own are not of one kernel"
        )
    return Novelty(
        projection_distance=torch.where(kxx > 0, (1 - scores.inside).clamp(0, 1).sqrt(), 0.0),
        variance=torch.where(kxx > 0, kxx * (1 - scores.shrunk).clamp_min(0), 0.0),
        leverage=scores.leverage,
        rank=rank,
        tolerance=tolerance,
        ridge=ridge,
        notes=_notes(tolerance, floor, kxx, scores.rounding),
    )


def _belong_together(trained: Any, cross: Any) -> None:
    if isinstance(trained, Kernel) and not trained.symmetric:
        raise InputError("trained is between different samples on its two sides: it has to be of x against x")
    if isinstance(trained, Kernel) and isinstance(cross, Kernel):
        for what, pair in (
            ("normalised", (trained.is_normalized, cross.is_normalized)),
            ("of the cotangents", tuple(K.meta.get("cotangents") for K in (trained, cross))),
        ):
            if pair[0] != pair[1]:
                raise InputError(f"trained and cross are not of one kernel: {what}: {pair[0]} and {pair[1]}")


class _Scores(NamedTuple):
    """Of every new sample ``[m]``, or ``[m, O]``; the first three are shares of k(x, x), or plain where that is 0.

    What is known is K + E with ‖E‖ up to rows · precision · λ_1, and k + e with ‖e‖² up to precision² · tr K · k(x, x).
    To first order that changes k K⁺ k by k K⁺ E K⁺ k, which is at most ‖E‖ times the leverage h, and by 2 k K⁺ e, at
    most 2 √h ‖e‖ ≤ precision · (tr K · h + k(x, x)): no more than twice rows · precision · λ_1 · h, and rounding.

    Attributes:
        inside: k K⁺ k.
        shrunk: k (K + λ)⁻¹ k within the span.
        rounding: what ``inside`` may be off by, for the rounding of the kernel.
        leverage: k (K²)⁺ k.
    """

    inside: Tensor
    shrunk: Tensor
    rounding: Tensor
    leverage: Tensor


def _scores(K: Tensor, k: Tensor, kxx: Tensor, ridge: float, tolerance: float, floor: float) -> tuple[_Scores, int]:
    """Of samples with k(x, x) ``[m]`` and rows ``[m · outputs, n]`` of k, which are summed over outputs; the rank of K.

    Everything is divided by the largest entry of K and by k(x, x) first: squares of what is beyond 1e±160 are none.
    """
    unit, own = unit_of(K), torch.where(kxx > 0, kxx, 1.0)
    lam, U = _span(K / unit, tolerance, floor)
    rows = k / unit**0.5 / own.sqrt().repeat_interleave(len(k) // len(own))[:, None]
    inside = (rows @ U).square()

    def of(weights: Tensor) -> Tensor:
        return (inside * weights).sum(1).reshape(len(own), -1).sum(1)

    leverage = of(1 / lam.square())
    found = _Scores(
        inside=of(1 / lam),
        shrunk=of(1 / (lam + ridge / unit)),
        rounding=2 * floor * float(lam[-1]) * leverage,
        leverage=leverage * own / unit,
    )
    return found, len(lam)


def _span(K: Tensor, tolerance: float, floor: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the tolerance, and their vectors.

    Raises:
        InputError: not symmetric, not positive semi-definite beyond rounding, or zero.
    """
    size = float(K.abs().max())
    if float((K - K.T).abs().max()) > max(1e-6, 100 * floor) * size:
        raise InputError("trained is not symmetric: it has to be of x against x at one set of weights")
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    if not float(values[-1]) > 0:
        raise InputError("the training kernel is zero: there is no span to be outside of")
    if float(values[0]) < -max(1e-12, 10 * floor) * float(values[-1]):
        raise InputError(
            f"trained has an eigenvalue of {float(values[0]):.2e} beside {float(values[-1]):.2e}: it is not positive "
            "semi-definite beyond rounding"
        )
    kept = values > tolerance * float(values[-1])
    return values[kept], vectors[:, kept]


def _notes(tolerance: float, floor: float, kxx: Tensor, rounding: Tensor) -> tuple[str, ...]:
    notes = []
    if tolerance < floor:
        notes.append(
            f"the tolerance {tolerance:.1e} is below the rounding of the kernel, {floor:.1e}: directions that are "
            "rounding count as training directions, and distances may be too small"
        )
    if floor > 1e-8:
        notes.append(
            f"the kernel was made in low precision: distances below {floor**0.5:.0e} are rounding. dtype='float64' "
            "makes it finer"
        )
    blurred = int(((rounding > _KNOWN) & (kxx > 0)).sum())
    if blurred:
        notes.append(
            f"{blurred} of {kxx.numel()} distances hang on directions in which the training kernel is hardly more than "
            "its rounding, and may be off by .1 and more: give a larger tolerance=, or take projection_distance of the "
            "features"
        )
    dead = int((kxx <= 0).sum())
    if dead:
        notes.append(f"{dead} scores are of samples without gradient, k(x, x) = 0: their distance is set to 0")
    return tuple(notes)


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve: the share of (new, known) pairs that a score ranks right.

    Attributes:
        value: 0.5 by chance, 1 where all new samples score higher.
        low, high: 95 %, for other samples of the same kinds; NaN with fewer than :data:`FEWEST` on a side.
    """

    value: float
    low: float
    high: float


def auroc(known: ArrayLike, new: ArrayLike) -> Auroc:
    """How well a score tells new samples from known ones, with 95 %.

    Each end of the interval is the outer one of two. DeLong, DeLong and Clarke-Pearson (1988) take the variance from
    the samples, for which it is right for any distributions where samples are many; the interval is symmetric on the
    scale log A / (1 - A). It has no width, and is too narrow, where few pairs or none are ranked wrong. Hanley and
    McNeil (1982) take the variance from the area alone, V(θ), and the interval holds all θ that are within 1.96 √V(θ)
    of A (Newcombe 2006, method 5): it has a width at A = 0 and 1, too, and is too narrow where the two kinds spread
    differently and the sides are of different sizes. Together they cover 93 to 99 % in simulations of normal scores
    (areas .5 to .995, 5 to 60 samples a side, standard deviations up to a factor of 2.5 apart).

    Args:
        known, new: scores, higher for what is newer.

    Raises:
        InputError: one of them is empty or not finite.
    """
    a, b = (as_tensor(given, "scores").double().numpy().ravel() for given in (known, new))
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("an AUROC needs finite scores of known and of new samples")
    lower, higher = _placements(a, b)
    value = float(higher.mean())
    if min(len(a), len(b)) < FEWEST:
        return Auroc(value, np.nan, np.nan)
    ends = [_score_interval(value, len(a), len(b))]
    variance = float(lower.var(ddof=1) / len(a) + higher.var(ddof=1) / len(b))
    if 0 < value < 1 and variance > 0:
        half = _Z * variance**0.5 / (value * (1 - value))  # of the logit, by its derivative
        odds = np.log(value / (1 - value))
        ends.append((float(1 / (1 + np.exp(half - odds))), float(1 / (1 + np.exp(-half - odds)))))
    return Auroc(value, min(low for low, _ in ends), max(high for _, high in ends))


def _placements(
    known: NDArray[np.float64], new: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each known sample the share of new ones above it, for each new one that of known ones below; ties are half.

    By ranks (Mann and Whitney); both have the area as their mean, and it is their variances that DeLong takes.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, new]))
    below = (ranks[len(known) :] - rankdata(new)) / len(known)
    above = 1 - (ranks[: len(known)] - rankdata(known)) / len(new)
    return above, below


def _score_interval(value: float, known: int, new: int) -> tuple[float, float]:
    """All areas from which this one is not further than 1.96 of their own standard errors."""
    from scipy.optimize import brentq

    more = (known + new) / 2 - 1

    def beyond(area: float) -> float:
        spread = area * (1 - area) * (1 + more * (1 - area) / (2 - area) + more * area / (1 + area)) / (known * new)
        return (value - area) ** 2 - _Z**2 * spread

    # at the area itself it is negative, at 0 and 1 positive: unless these are the area, and then the end
    low = float(brentq(beyond, 0, value - _STEP)) if value > 0 else 0.0
    high = float(brentq(beyond, value + _STEP, 1)) if value < 1 else 1.0
    return low, high


def _values(given: Any, name: str) -> Tensor:
    K = as_tensor(given.values if isinstance(given, Kernel) else given, name).double()
    if K.dim() not in (2, 4) or (K.dim() == 4 and K.shape[2] != K.shape[3]) or not K.numel():
        raise InputError(f"{name} has one number per pair, or blocks [n, m, O, O], not {tuple(K.shape)}")
    if not torch.isfinite(K).all():
        raise InputError(f"{name} has NaN or infinite entries")
    return K

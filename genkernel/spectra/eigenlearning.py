"""Eigenlearning: what kernel regression learns of every eigenmode, and the errors that follow.

With eigenvalues λ_i of the integral operator of the kernel, a target Σ v_i ψ_i with noise of variance ε², n samples and
the ridge δ (the predictor is k_xᵀ (K + δ I)⁻¹ y), κ ≥ 0 solves

    n = Σ_i λ_i / (λ_i + κ) + δ / κ,      L_i = λ_i / (λ_i + κ)      (learnabilities; Σ L_i = n - δ / κ)
    E_0 = n / (n - Σ L_i²),               test MSE = E_0 (Σ (1 - L_i)² v_i² + ε²)
    train MSE = (δ / (n κ))² test MSE,    E v̂_i = L_i v_i,      Var v̂_i = test MSE L_i² / n

(Simon, Dickens, Karkada, DeWeese: The eigenlearning framework, 2023; THEORY §9). The test error includes the noise of
fresh labels. The theory is of samples drawn independently from a continuous distribution: on a finite domain draw them
without replacement and score the whole domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, real_number

Array = NDArray[np.float64]


class InfiniteRisk(InputError):
    """The expected error is infinite: as many samples as modes, and no ridge."""


@dataclass(frozen=True)
class Risk:
    """What eigenlearning says of one number of samples.

    Attributes:
        samples: n.
        ridge: δ.
        noise: ε², the variance of the labels' noise.
        kappa: κ, 0 where all modes are learned.
        learnabilities: L_i ``[r]``.
        test_mse: expected squared error on fresh noisy labels, per sample (summed over output dimensions).
        train_mse: expected squared error on the training labels.
        learnability: of the target, Σ L_i v_i² / Σ v_i².
        overfitting: E_0.
        mean: E v̂_i ``[r, ...]``, the learned coefficients in the mean.
        variance: Var v̂_i ``[r]``; with several columns of targets summed over them, as ``test_mse`` is (columns may
            differ, and single ones are not told apart).
        rest: the target's energy in no mode: it cannot be learned and counts as noise in the errors.
        notes: what to keep in mind, in words.
        stderr: of ``test_mse``, from the reference samples being a sample; NaN where they are taken as the density, and
            for one sample. It does not cover what the theory itself gets wrong (smooth kernels in few dimensions).
    """

    samples: float
    ridge: float
    noise: float
    kappa: float
    learnabilities: Array
    test_mse: float
    train_mse: float
    learnability: float
    overfitting: float
    mean: Array
    variance: Array
    rest: float = 0.0
    notes: tuple[str, ...] = ()
    stderr: float = math.nan


def solve_kappa(eigenvalues: ArrayLike, samples: float, ridge: float = 0.0) -> float:
    """κ with Σ λ_i / (λ_i + κ) + δ / κ = n, to rounding.

    Args:
        eigenvalues: λ_i ≥ 0 of the integral operator ``[r]`` (those of the matrix of m samples over m).
        samples: n > 0; need not be whole.
        ridge: δ ≥ 0.

    Returns:
        κ ≥ 0; 0 without a ridge where there are no more positive eigenvalues than samples: every mode is then learned.

    Raises:
        InputError: eigenvalues are negative or not finite, all zero without a ridge, or numbers make no sense.
    """
    lam = _eigenvalues(eigenvalues)
    samples, ridge = _checked(samples, ridge)
    positive = lam[lam > 0]
    if not len(positive) and not ridge:
        raise InputError("all eigenvalues are zero: there is nothing to learn")
    if not ridge and len(positive) <= samples:
        return 0.0
    # Σ λ/(λ+κ) + δ/κ falls in κ: from r (or ∞) at 0 to 0 at ∞; it is below (Σλ + δ)/κ, so κ is below (Σλ + δ)/n
    high = (float(positive.sum()) + ridge) / samples
    low = high
    while _filled(positive, low, ridge) < samples:
        low /= 16
        if low < 1e-300:
            return 0.0
    from scipy.optimize import brentq

    log_low, log_high = math.log(low), math.log(high) + 1e-12
    found = brentq(
        lambda t: _filled(positive, math.exp(t), ridge) - samples,
        log_low,
        log_high,
        xtol=1e-15,
        rtol=8.9e-16,
        maxiter=500,
    )
    return math.exp(float(found))


def learnabilities(eigenvalues: ArrayLike, samples: float, ridge: float = 0.0) -> Array:
    """L_i = λ_i / (λ_i + κ) ``[r]``, which sum to n - δ / κ.

    Args, Raises: as for :func:`solve_kappa`.
    """
    lam = _eigenvalues(eigenvalues)
    return _learned(lam, solve_kappa(lam, samples, ridge))


def expected_risk(
    eigenvalues: ArrayLike,
    coefficients: ArrayLike,
    samples: float,
    *,
    ridge: float = 0.0,
    noise: float = 0.0,
    missing_trace: float = 0.0,
) -> Risk:
    """What n samples are expected to teach.

    Args:
        eigenvalues: λ_i ``[r]``.
        coefficients: v_i of the target in the eigenmodes (of norm 1 under the density of the data), ``[r]`` or
            ``[r, outputs]``. What of the target is in no mode belongs into ``noise``.
        samples: n.
        ridge: δ.
        noise: ε², summed over outputs.
        missing_trace: tr - Σ λ_i of modes that are not listed: they act like a ridge, in κ alone.

    Raises:
        InputError: as for :func:`solve_kappa`; shapes differ, or variances are negative.
    """
    lam = _eigenvalues(eigenvalues)
    v = as_tensor(coefficients, "coefficients").double().numpy()
    if v.shape[:1] != lam.shape or not np.isfinite(v).all():
        raise InputError(f"coefficients are finite, one (or one row) per eigenvalue [{len(lam)}], not {v.shape}")
    noise, missing_trace = not_negative(noise, "noise"), not_negative(missing_trace, "missing_trace")
    n, ridge = _checked(samples, ridge)
    kappa = solve_kappa(lam, n, ridge + missing_trace)
    L = _learned(lam, kappa)
    filled = float((L**2).sum())
    if filled >= n * (1 - 1e-12):
        raise InfiniteRisk(
            f"{int((lam > 0).sum())} positive eigenvalues and {n:g} samples without a ridge: at this threshold the "
            "expected error is infinite. Add a ridge, or ask for another number of samples"
        )
    e0 = n / (n - filled)
    unit = float(np.abs(v).max(initial=0.0)) or 1.0  # squares of what is beyond 1e±160 overflow or vanish
    squared = ((v / unit) ** 2).reshape(len(lam), -1).sum(1)
    total = float(squared.sum())
    test = e0 * (float(((1 - L) ** 2 * squared).sum()) * unit * unit + noise)
    # all modes learned and samples to spare: a regression in r dimensions leaves (n - r) / n of what is not its
    train = (ridge / (n * kappa)) ** 2 * test if kappa else (1 - filled / n) ** 2 * test
    return Risk(
        samples=n,
        ridge=float(ridge),
        noise=float(noise),
        kappa=kappa,
        learnabilities=L,
        test_mse=test,
        train_mse=train,
        learnability=float((L * squared).sum()) / total if total else math.nan,
        overfitting=e0,
        mean=L.reshape(-1, *([1] * (v.ndim - 1))) * v,
        variance=test * L**2 / n,
    )


def measured_learnability(targets: ArrayLike, predictions: ArrayLike) -> float:
    """⟨f, f̂⟩ / ⟨f, f⟩ of predictions over a domain (Simon et al., definition of learnability).

    Args:
        targets: f at every point of the domain, or at points drawn from its density, without noise; any shape.
        predictions: f̂ at the same points, of one training set; the average over training sets is the learnability.

    Raises:
        InputError: shapes differ, something is not finite, or the target is zero.
    """
    f, found = (as_tensor(t, n).double().numpy() for t, n in ((targets, "targets"), (predictions, "predictions")))
    if f.shape != found.shape:
        raise InputError(f"targets {f.shape} and predictions {found.shape} differ in shape")
    if not (np.isfinite(f).all() and np.isfinite(found).all()):
        raise InputError("a target or a prediction is NaN or infinite")
    unit = float(np.abs(f).max(initial=0.0))
    if not unit:
        raise InputError("the target is zero everywhere: it has no learnability")
    f = f / unit
    return float((f * (found / unit)).sum() / (f**2).sum())


def _filled(lam: Array, kappa: float, ridge: float) -> float:
    return float((lam / (lam + kappa)).sum()) + ridge / kappa


def _learned(lam: Array, kappa: float) -> Array:
    return np.where(lam > 0, lam / (lam + kappa), 0.0) if kappa else (lam > 0).astype(np.float64)


def _eigenvalues(values: ArrayLike) -> Array:
    lam = as_tensor(values, "eigenvalues").double().numpy()
    if lam.ndim != 1 or not len(lam):
        raise InputError(f"eigenvalues are a list [r], not an array of shape {lam.shape}")
    if not np.isfinite(lam).all():
        raise InputError("an eigenvalue is NaN or infinite")
    worst = float(lam.min())
    if worst < -1e-9 * float(np.abs(lam).max()):
        raise InputError(f"an eigenvalue is negative ({worst:.2e}): a kernel's integral operator has none")
    return np.maximum(lam, 0.0)


def not_negative(given: Any, name: str) -> float:
    """A finite number that is not negative: a ridge, a variance, a trace.

    Raises:
        InputError: it is none.
    """
    found = real_number(given, name)
    if not 0 <= found < math.inf:
        raise InputError(f"{name} is finite and not negative, not {found}")
    return found


def _checked(samples: Any, ridge: Any) -> tuple[float, float]:
    n = real_number(samples, "samples")
    if not 0 < n < math.inf:
        raise InputError(f"samples is a positive number, not {n}")
    return n, not_negative(ridge, "ridge")

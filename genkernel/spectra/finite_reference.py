"""Errors of n samples from m reference samples that are themselves a sample: without the bias of taking them for all.

Eigenvalues of m samples are not those of the density: large ones are too large, those beyond the m-th are missing. But
the resolvent of their kernel K ``[m, m]`` shows sums over the true ones, at any n/m, with a bias that vanishes as m
grows (Jacot et al., 2020, kernel alignment risk estimator; Golub, Heath, Wahba, 1979, generalised cross-validation).
With a ridge μ of its own, s = tr (K + μ)⁻¹ and s₂ = tr (K + μ)⁻²,

    κ = 1 / s,      Σ L_i = m - μ s,      Σ L_i² = m - s² / s₂
    Σ (1 - L_i)² v_i² + noise of y = yᵀ (K + μ)⁻² y / s₂,      Σ (1 - L_i) v_i² + noise of y = yᵀ (K + μ)⁻¹ y / s

n samples with the ridge δ have the same κ as m with the ridge μ where (μ - δ) s = m - n. So their error follows from
eigenlearning's formulas, without a single true eigenvalue. At n = m (μ = δ) it is generalised cross-validation; for
n ≪ m it is what the m samples as the density give. Kernels of O outputs have mO and nO equations for m and n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.spectra.arrays import unit_of
from genkernel.spectra.eigenlearning import InfiniteRisk, Risk
from genkernel.spectra.mercer import Mercer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SampledReference:
    """Reference samples that are independent draws from the density, with targets: what does not depend on n.

    Attributes:
        mercer: of the kernel of m reference samples. Modes that are not in it share the rest of the trace and of the
            targets evenly.
        coefficients: of the targets in the modes ``[r, ...]``.
        unit: the largest target: squares of it may be too large or too small for a float.
        flat, inside, outside: targets over it ``[mO, d]``, their part in every mode ``[r, d]``, and what is left
            ``[mO, d]``.
        scale: the largest eigenvalue of K, for the same reason.
        eigenvalues: of K over it ``[r]``.
        tail: what every missing eigenvalue of K is taken for, over it.
    """

    mercer: Mercer
    coefficients: Array
    unit: float
    flat: Array
    inside: Array
    outside: Array
    scale: float
    eigenvalues: Array
    tail: float

    @classmethod
    def of(cls, mercer: Mercer, targets: Tensor) -> SampledReference:
        """Project targets ``[m]``, ``[m, d]``, or ``[m, O]`` for a kernel of O outputs, finite, on the modes.

        Raises:
            InputError: targets do not fit.
        """
        r, rows = mercer.rank, mercer.samples * mercer.outputs
        vectors = mercer.vectors[:, :r].numpy()
        v = mercer.coefficients(targets)[:r].numpy()
        unit = unit_of(targets)
        flat = targets.double().numpy().reshape(rows, -1) / unit
        inside = vectors.T @ flat
        top = float(mercer.values[0])  # of K / m
        k = mercer.values[:r].clamp_min(0).numpy() / top
        missing, beyond = mercer.trace / top - float(k.sum()), rows - r
        tail = missing / beyond if beyond and missing > mercer.floor / top * rows else 0.0
        return cls(mercer, v, unit, flat, inside, flat - vectors @ inside, top * mercer.samples, k, tail)

    def risk(self, samples: float, *, ridge: float = 0.0, noise: float = 0.0) -> Risk:
        """What n samples are expected to teach.

        Args:
            samples: n, at most m.
            ridge, noise: δ and ε², as for :func:`predict_risk`.

        Returns:
            ``learnabilities`` are those of the reference samples' modes (they sum to n - δ / κ, single small ones are
            rough), ``learnability`` is of the targets with their noise, ``stderr`` is filled in (NaN for one sample).

        Raises:
            InfiniteRisk: n equals the number of modes, without a ridge.
        """
        mercer, v, flat, inside, outside = self.mercer, self.coefficients, self.flat, self.inside, self.outside
        m, outputs, r, k, tail = mercer.samples, mercer.outputs, mercer.rank, self.eigenvalues, self.tail
        vectors = mercer.vectors[:, :r].numpy()
        rows, n = m * outputs, samples * outputs  # equations
        beyond = rows - r
        energy, left = (inside**2).sum(1), float((outside**2).sum())
        if not ridge and not tail and r < n:
            return _all_learned(mercer, v, self.unit, flat, outside, samples, noise)
        delta = ridge / self.scale  # κ and μ are in units of the largest eigenvalue, too

        def sums(mu: float) -> tuple[float, float]:
            s = float((1 / (k + mu)).sum()) + (beyond / (tail + mu) if beyond else 0.0)
            return s, float((1 / (k + mu) ** 2).sum()) + (beyond / (tail + mu) ** 2 if beyond else 0.0)

        mu = delta + _extra_ridge(
            lambda extra: extra * sums(delta + extra)[0], rows - n, float(k.sum()) + beyond * tail
        )
        singular = mu == 0 and beyond > 0 and not tail
        s, s2 = (1.0, math.inf) if singular else sums(mu)
        spare = s**2 / s2 - (rows - n)  # n - Σ L²
        if singular or spare <= 1e-12 * n:
            raise InfiniteRisk(
                f"{r} modes and {samples:g} samples without a ridge: at this threshold the expected error is "
                "infinite. Add a ridge, or ask for another number of samples"
            )
        inner, outer = 1 / (k + mu), 1 / (tail + mu) if beyond else 0.0
        bias = outputs * (float((energy * inner**2).sum()) + left * outer**2) / s2
        unlearned = outputs * (float((energy * inner).sum()) + left * outer) / s
        shares = ((vectors @ (inner[:, None] * inside) + outside * outer) ** 2).reshape(m, -1).sum(1)
        e0, kappa, L = n / spare, outputs / s, k * inner
        unit = self.unit
        test = e0 * (bias * unit * unit + noise)
        total = float((flat**2).sum()) / m
        return Risk(
            samples=samples,
            ridge=ridge,
            noise=noise,
            kappa=kappa * self.scale,
            learnabilities=L,
            test_mse=test,
            train_mse=(delta * outputs / (n * kappa)) ** 2 * test,
            learnability=1 - unlearned / total if total else math.nan,
            overfitting=e0,
            mean=L.reshape(-1, *([1] * (v.ndim - 1))) * v,
            variance=test * L**2 / n,
            rest=left / m * unit * unit,
            stderr=e0 * outputs * _of_sum(shares) / s2 * unit * unit,
        )


def _all_learned(
    mercer: Mercer, v: Array, unit: float, flat: Array, outside: Array, samples: float, noise: float
) -> Risk:
    """A regression in r dimensions with n > r equations and no ridge: what is outside of them is the noise."""
    m, outputs, r = mercer.samples, mercer.outputs, len(v)
    n, free = samples * outputs, m * outputs - r
    shares = (outside**2).reshape(m, -1).sum(1)
    level, e0 = outputs * float(shares.sum()) / free, n / (n - r)
    test = e0 * (level * unit * unit + noise)
    total = float((flat**2).sum()) / m
    return Risk(
        samples=samples,
        ridge=0.0,
        noise=noise,
        kappa=0.0,
        learnabilities=np.ones(r),
        test_mse=test,
        train_mse=(1 - r / n) ** 2 * test,
        learnability=1 - level / total if total else math.nan,
        overfitting=e0,
        mean=v,
        variance=np.full(r, test / n),
        rest=float(shares.sum()) / m * unit * unit,
        stderr=e0 * outputs * _of_sum(shares) / free * unit * unit,
    )


def _of_sum(shares: Array) -> float:
    """Standard error of Σ shares over the choice of samples; NaN for one sample, which shows no spread."""
    return math.sqrt(len(shares)) * float(shares.std()) if len(shares) > 1 else math.nan


def _extra_ridge(filled: Callable[[float], float], wanted: float, trace: float) -> float:
    """μ - δ with (μ - δ) tr (K + μ)⁻¹ = m - n, which rises from 0 (or the number of zero modes) to m."""
    from scipy.optimize import brentq

    if wanted <= 0:
        return 0.0
    high = trace + 1e-300
    while filled(high) < wanted:
        high *= 4
    low = high
    while filled(low) > wanted:
        low /= 16
        if low < 1e-30 * trace:
            return 0.0
    found = brentq(
        lambda t: filled(math.exp(t)) - wanted, math.log(low), math.log(high) + 1e-12, xtol=1e-14, rtol=1e-14
    )
    return math.exp(float(found))

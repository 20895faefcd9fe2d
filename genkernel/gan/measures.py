"""Numbers that are read off update fields and kernels over latents (THEORY §7)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.effective_number import entropy_number

Array = NDArray[np.float64]


def dominance(weights: Array) -> float:
    """1 − e^{H}/M: 0 for equal parts, 1 − 1/M for a single one."""
    return 1.0 - entropy_number(weights) / len(weights)


def directions(field: Tensor) -> Tensor:
    """Unit vectors ``[n, d]`` float64 of a field ``[n, ...]``; vectors of length zero are left out."""
    flat = field.detach().double().flatten(1)
    size = flat.norm(dim=1)
    return flat[size > 0] / size[size > 0, None]


def signed_coherence(field: Tensor) -> float:
    """Mean pairwise cosine (‖Σ û‖² − N)/(N(N − 1)): 1 when all point the same way, about 0 for none; NaN below two."""
    unit = directions(field)
    n = len(unit)
    return (float(unit.sum(0).square().sum()) - n) / (n * (n - 1)) if n > 1 else math.nan


def axial_coherence(field: Tensor) -> float:
    """λ_max of the mean of û ûᵀ, in [1/min(N, d), 1]: 1 when all lie on one axis, whatever the sign."""
    unit = directions(field)
    if not len(unit):
        return math.nan
    small = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    return float(torch.linalg.eigvalsh(small)[-1].clamp(0) / len(unit))


def axial_null(n: int, d: int, seed: int = 0, draws: int = 32) -> float:
    """The mean axial coherence of N isotropic directions in d dimensions.

    From the largest eigenvalue of a Wishart matrix, (√(N−1) + √d)² and the mean of the Tracy–Widom law
    around it: Johnstone 2001); from ``draws`` simulations where N or d is below 16.
    """
    if n < 1 or d < 1:
        raise InputError(f"directions need n ≥ 1 and d ≥ 1, not {n} and {d}")
    if d == 1 or n == 1:
        return 1.0
    if min(n, d) >= 16:
        edge = math.sqrt(n - 1) + math.sqrt(d)
        width = edge * (1 / math.sqrt(n - 1) + 1 / math.sqrt(d)) ** (1 / 3)
        return (edge**2 + _TRACY_WIDOM * width) / (n * d)
    draw = torch.Generator().manual_seed(seed)
    found = [axial_coherence(torch.randn(n, d, generator=draw, dtype=torch.float64)) for _ in range(draws)]
    return sum(found) / draws


_TRACY_WIDOM = -1.2065335745820  # mean of the law of order 1


def rescaled(coherence: float, null: float) -> float:
    """(A − A₀)/(1 − A₀), at least 0."""
    return max(0.0, (coherence - null) / (1 - null)) if null < 1 else 0.0


def spread_gain(samples: Tensor, update: Tensor, eta: float = 1.0) -> float:
    """2⟨G − Ḡ, U − Ū⟩ / (η ‖G − Ḡ‖²): the rate of log total variance; negative when the update contracts."""
    g, u = samples.detach().double().flatten(1), update.detach().double().flatten(1)
    g, u = g - g.mean(0), u - u.mean(0)
    total = float(g.square().sum())
    return 2 * float((g * u).sum()) / (eta * total) if total > 0 else math.nan


def spread_cosine(samples: Tensor, update: Tensor) -> float:
    """⟨G − Ḡ, U − Ū⟩ / (‖G − Ḡ‖ ‖U − Ū‖), from −1 (the update contracts only) to 1; NaN where either is constant."""
    g, u = samples.detach().double().flatten(1), update.detach().double().flatten(1)
    g, u = g - g.mean(0), u - u.mean(0)
    size = float(g.norm() * u.norm())
    return float((g * u).sum()) / size if size > 0 else math.nan


def kernel_effective_rank(normalized: Array) -> float:
    """e^{H(λ/Σλ)} of a normalised kernel ``[n, n]``, negative λ (noise) as 0; compare at equal n."""
    values = np.linalg.eigvalsh((normalized + normalized.T) / 2)
    return entropy_number(np.clip(values, 0, None))


def mean_off_diagonal(normalized: Array) -> float:
    """Mean of k(z, z′) over z ≠ z′; NaN for one latent."""
    n = len(normalized)
    return float((normalized.sum() - np.trace(normalized)) / (n * (n - 1))) if n > 1 else math.nan


def total_variance(samples: Tensor) -> float:
    """Σ over entries of the variance over samples."""
    return float(samples.detach().double().flatten(1).var(0, unbiased=False).sum())


def separation(generated: Array, real: Array) -> float:
    """Probability that a real logit ``[m]`` is larger than a generated one ``[n]`` (area under the ROC curve)."""
    fake = np.sort(generated)
    below, up_to = np.searchsorted(fake, real, "left"), np.searchsorted(fake, real, "right")
    return float((below + up_to).mean() / (2 * len(fake)))

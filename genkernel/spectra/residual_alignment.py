"""Where the first residual lies in the spectrum of the effective Gram matrix, and what would be expected anyway.

    K = Σ_j λ_j u_j u_jᵀ,      r(0)ᵀ K r(0) = Σ_j λ_j (u_jᵀ r(0))²

Yang and Chaudhari (2025) find the residual in the eigenvectors of the smallest eigenvalues. A direction drawn at
random already has half of its length in the lower half of any spectrum, so that shares are given beside what random
directions, and trainings on shuffled labels, have (THEORY §10).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import unit_of
from genkernel.spectra.effective_gram import EffectiveGram


@dataclass(frozen=True)
class ResidualAlignment:
    """Shares of a residual and of its quadratic form by eigenvector, beside random directions.

    Attributes:
        eigenvalues: λ_j of K ``[m]``, falling.
        energy: (u_jᵀ r)² / ‖r‖² ``[m]``.
        lower_share: Σ of it over the lower half of the spectrum (the ⌊m/2⌋ smallest eigenvalues).
        random_lower_share: what a random direction has in the mean, ⌊m/2⌋ / m.
        random_interval: 95 % of random directions.
        shuffled_lower_share: of a training on shuffled labels, in its own matrix; None where there is none.
        top: how many eigenvectors ``top_share`` and ``top_gap_share`` are of.
        top_share: the share of the residual in those of the largest eigenvalues.
        top_gap_share: the share of r(0)ᵀ K r(0) that they carry.
        random_top_gap_share: what they carry for a random direction, in the mean over ``draws`` directions. The ratio
            of the means, their share of tr K, is larger: the form is large where they carry much of it.
        gap_ratio: r(0)ᵀ K r(0) over the mean of the form over random directions of the same length, ‖r‖² tr K / m;
            below 1 the gap grows more slowly along the residual than along random directions in their mean.
    """

    eigenvalues: Tensor
    energy: Tensor
    lower_share: float
    random_lower_share: float
    random_interval: tuple[float, float]
    shuffled_lower_share: float | None
    top: int
    top_share: float
    top_gap_share: float
    random_top_gap_share: float
    gap_ratio: float


def residual_alignment(
    gram: EffectiveGram,
    *,
    step: int | None = None,
    top: int = 3,
    shuffled: EffectiveGram | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> ResidualAlignment:
    """Alignment of r(0) with the effective Gram matrix of its training.

    For cross-entropy everything is in the space of residuals that sum to zero over the outputs.

    Args:
        gram: from :func:`genkernel.spectra.effective_gram_matrix`.
        step: of one of its snapshots; the matrix at the end by default.
        top: eigenvectors of the largest eigenvalues.
        shuffled: the matrix of a training from the same start with the targets permuted among the samples.
        draws, seed: random directions, for the interval and the mean.

    Raises:
        InputError: there is no such snapshot, ``top`` is not 1 to m, or the matrix is zero.
    """
    values, energy = _spectrum(gram, step)
    m = len(values)
    if not 1 <= top <= m:
        raise InputError(f"top is 1 to {m} eigenvectors, not {top}")
    if draws < 2:
        raise InputError(f"an interval takes two draws or more, not {draws}")
    if not float(values.abs().max()):
        raise InputError("the effective Gram matrix is zero: nothing was learned")
    lower = m // 2
    noise = torch.randn(draws, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).square()
    shares = noise[:, :lower].sum(1) / noise.sum(1)
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    sizes = values / unit_of(values)
    carried, noise_carried = sizes * energy, sizes * noise
    return ResidualAlignment(
        eigenvalues=values,
        energy=energy,
        lower_share=_lower(energy),
        random_lower_share=lower / m,
        random_interval=(low, high),
        shuffled_lower_share=None if shuffled is None else _lower(_spectrum(shuffled, step)[1]),
        top=top,
        top_share=float(energy[:top].sum()),
        top_gap_share=float(carried[:top].sum() / carried.sum()),
        random_top_gap_share=float((noise_carried[:, :top].sum(1) / noise_carried.sum(1)).mean()),
        gap_ratio=float(carried.sum() / sizes.mean()),
    )


def _spectrum(gram: EffectiveGram, step: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and the residual's share in every eigenvector."""
    if step is not None and step not in gram.snapshots:
        raise InputError(f"there is no snapshot of step {step}: name it in snapshots= of effective_gram_matrix")
    K, r = gram.matrix if step is None else gram.snapshots[step], gram.residual
    basis = gram.basis()
    if basis is not None:
        K, r = basis.T @ K @ basis, basis.T @ r
    values, vectors = torch.linalg.eigh(K)
    energy = (vectors.T @ (r / unit_of(r))).square()
    return values.flip(0), (energy / energy.sum()).flip(0)


def _lower(energy: Tensor) -> float:
    return float(energy[len(energy) - len(energy) // 2 :].sum())

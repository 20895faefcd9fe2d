"""How much of a residual lies where the kernel cannot learn.

    E_null(τ) = ‖r - U_τ U_τᵀ r‖² / ‖r‖²       U_τ: left singular vectors of J with σ_j > τ σ_1
    ρ_K = rᵀ K r / (λ_1 ‖r‖²)                  free of tolerances

At a stationary point of the squared loss Jᵀr ≈ 0, so on the training set the residual is in the null space by
definition (Theorem 3.8 of Guo, He, Morel; THEORY §5): the statement says something where samples outnumber parameters,
or on samples that were not trained on. It is empty as ‖r‖ → 0, so what is reported is of r / ‖r‖, beside ‖Jᵀr‖.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.ranks import rows_of

DECADES = tuple(10.0**-k for k in range(1, 13))


@dataclass(frozen=True)
class NullEnergy:
    """The energy of a residual in null spaces, by tolerance.

    Attributes:
        tolerances: τ, relative to σ_1 ``[t]``.
        energy: E_null(τ) ``[t]``.
        ranks: of U_τ ``[t]``.
        random: what a residual of random direction has, 1 - rank / rows ``[t]``.
        rayleigh: ρ_K.
        stationarity: ‖Jᵀr‖ / (σ_1 ‖r‖): √ρ_K.
        norm: ‖r‖.
        floor: tolerances below it are rounding.
    """

    tolerances: Tensor
    energy: Tensor
    ranks: Tensor
    random: Tensor
    rayleigh: float
    stationarity: float
    norm: float
    floor: float


def null_space_energy(features: Tensor, residual: Tensor, tolerances: Sequence[float] = DECADES) -> NullEnergy:
    """The curve E_null(τ), from tangent features.

    Args:
        features: J ``[n, P]`` or ``[n, O, P]``.
        residual: ∂ℓ/∂f ``[n]`` or ``[n, O]``.
        tolerances: τ, between 0 and 1. Those below the noise floor are taken, and the floor says so.

    Raises:
        InputError: shapes differ, something is not finite, the residual or the features are zero.
    """
    J = rows_of(features).double()
    r = torch.as_tensor(residual).detach().cpu().double().reshape(-1)
    if len(r) != len(J):
        raise InputError(f"the residual has {len(r)} entries, and the features {len(J)} rows")
    if not torch.isfinite(r).all():
        raise InputError("the residual has NaN or infinite entries")
    size = float(r.norm())
    if not size:
        raise InputError("the residual is zero: there is no direction to speak of")
    if not tolerances or any(not 0 < t < 1 for t in tolerances):
        raise InputError("tolerances are relative to the largest singular value, between 0 and 1")
    U, sigma, _ = torch.linalg.svd(J, full_matrices=False)
    if not float(sigma[0]):
        raise InputError("all features are zero: nothing can be learned at these weights")
    share = (U.T @ (r / size)).square()
    ranks = torch.tensor([int((sigma > t * sigma[0]).sum()) for t in tolerances])
    learned = torch.cat([torch.zeros(1, dtype=torch.float64), share.cumsum(0)])[ranks]
    rayleigh = float((share * (sigma / sigma[0]).square()).sum())
    return NullEnergy(
        tolerances=torch.tensor(tolerances, dtype=torch.float64),
        energy=(1 - learned).clamp(0, 1),
        ranks=ranks,
        random=1 - ranks / len(J),
        rayleigh=rayleigh,
        stationarity=rayleigh**0.5,
        norm=size,
        floor=max(J.shape) * torch.finfo(torch.as_tensor(features).dtype).eps,
    )

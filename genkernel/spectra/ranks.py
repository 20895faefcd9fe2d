"""Numerical ranks of tangent features, and by how much new samples raise them (the rank gap).

    Φ = [φ(x_1) … φ(x_n)],   Φ_mix = [Φ, φ(x*_1) …],   gap = rank Φ_mix - rank Φ ≥ 0

with one absolute tolerance τ σ_1(Φ_mix) for both (Definition 5.1 of Guo, He, Morel; THEORY §5). Ranks are of features,
by singular values: eigenvalues of a kernel are their squares, so features below √ε of the largest vanish in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import InputError

STEPS = (1e-2, 1.0, 1e2)  # factors of the tolerance over which a gap has to stay the same
NEAR_CAP = 0.9  # ranks of sketched features beyond this share of the sketch's size are refused


@dataclass(frozen=True)
class Rank:
    """A numerical rank, and what it was read from.

    Attributes:
        value: singular values above the tolerance.
        tolerance: absolute.
        singular_values: falling.
    """

    value: int
    tolerance: float
    singular_values: Tensor


@dataclass(frozen=True)
class RankGap:
    """By how much new samples raise the rank of the tangent features.

    Attributes:
        gap: rank of the mixture minus that of the training features.
        trained, mixed: the two ranks.
        tolerance: absolute, of both.
        by_factor: factor on the tolerance → gap.
        stable: the gap is the same for all of these.
    """

    gap: int
    trained: Rank
    mixed: Rank
    tolerance: float
    by_factor: dict[float, int]
    stable: bool


def numerical_rank(features: Tensor, tolerance: float | None = None, *, cap: int | None = None) -> Rank:
    """Singular values above a tolerance.

    Args:
        features: one feature per row ``[rows, P]``, any leading axes (sample, output) before P.
        tolerance: relative to the largest singular value; by default the larger dimension times the precision.
        cap: the size of the sketch that features were projected to, if they were.

    Raises:
        InputError: not finite, no row, or a rank within 10 % of the cap, which then is the sketch's and not the
            features'.
    """
    phi = rows_of(features)
    return _rank(torch.linalg.svdvals(phi), relative_tolerance(phi, tolerance), cap)


def tangent_rank_gap(
    trained: Tensor, new: Tensor, tolerance: float | None = None, *, cap: int | None = None
) -> RankGap:
    """The rank that new samples add.

    Args:
        trained: tangent features of training samples ``[n, P]`` or ``[n, O, P]``.
        new: of new samples, likewise.
        tolerance, cap: as for :func:`numerical_rank`, relative to the largest singular value of the mixture.

    Raises:
        InputError: as there; the numbers of parameters differ.
    """
    phi, star = rows_of(trained), rows_of(new)
    if phi.shape[1] != star.shape[1]:
        raise InputError(f"features of {phi.shape[1]} and of {star.shape[1]} parameters do not mix")
    mix = torch.cat([phi, star.to(phi.dtype)])
    own, both = torch.linalg.svdvals(phi), torch.linalg.svdvals(mix)
    absolute = relative_tolerance(mix, tolerance) * float(both[0])
    by_factor = {f: int((both > f * absolute).sum()) - int((own > f * absolute).sum()) for f in STEPS}
    return RankGap(
        gap=by_factor[1.0],
        trained=_above(own, absolute, cap),
        mixed=_above(both, absolute, cap),
        tolerance=absolute,
        by_factor=by_factor,
        stable=len(set(by_factor.values())) == 1,
    )


def relative_tolerance(phi: Tensor, tolerance: float | None) -> float:
    """The one that was asked for, or max(rows, P) ε.

    Raises:
        InputError: it is not between 0 and 1.
    """
    floor = max(phi.shape) * torch.finfo(phi.dtype).eps
    if tolerance is None:
        return floor
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is relative to the largest singular value, between 0 and 1, not {tolerance}")
    return tolerance


def rows_of(features: Tensor) -> Tensor:
    """``[rows, P]``.

    Raises:
        InputError: not finite, or empty.
    """
    phi = torch.as_tensor(features).detach().cpu()
    if phi.dim() < 2 or not phi.numel():
        raise InputError(f"features have one row per sample [n, P] or [n, O, P], not {tuple(phi.shape)}")
    if not torch.isfinite(phi).all():
        raise InputError("features have NaN or infinite entries")
    return phi.reshape(-1, phi.shape[-1])


def _rank(values: Tensor, tolerance: float, cap: int | None) -> Rank:
    return _above(values, tolerance * float(values[0]), cap)


def _above(values: Tensor, absolute: float, cap: int | None) -> Rank:
    rank = int((values > absolute).sum())
    if cap is not None and rank > NEAR_CAP * cap:
        raise InputError(
            f"a rank of {rank} is within 10 % of the sketch's size, {cap}: it may be the sketch's and not the "
            "features'. Take a larger sketch, or exact features"
        )
    return Rank(rank, absolute, values)

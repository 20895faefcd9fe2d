"""How much of a residual lies where the kernel cannot learn.

    E_null(τ) = ‖r - U_τ U_τᵀ r‖² / ‖r‖²       U_τ: left singular vectors of J with σ_j > τ σ_1
    ρ_K = rᵀ K r / (λ_1 ‖r‖²)                  free of tolerances

At a stationary point of the squared loss Jᵀr ≈ 0, so on the training set the residual is in the null space by
definition (Theorem 3.8 of Guo, He, Morel; THEORY §5): the statement says something where samples outnumber parameters,
or on samples that were not trained on. It is empty as ‖r‖ → 0, so what is reported is of r / ‖r‖, beside ‖Jᵀr‖.

The same curve from three sources: features (SVD, all digits), a kernel (its eigenvalues are σ², so half of the digits),
and an operator (products alone: Gauss quadrature of the residual's spectral measure, with bounds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of
from genkernel.spectra.mercer import Mercer, mercer_decomposition, mixed
from genkernel.spectra.ranks import afford, floor_note, precision_of_features, rows_of
from genkernel.tangent import Kernel, TangentOperator

DECADES = tuple(10.0**-k for k in range(1, 13))
UNRESOLVED = 0.1  # bounds of an energy that are further apart are named


@dataclass(frozen=True)
class NullEnergy:
    """The energy of a residual in null spaces, by tolerance.

    Attributes:
        tolerances: τ, relative to σ_1 ``[t]``.
        energy: E_null(τ) ``[t]``.
        low, high: bounds of the energy ``[t]``: the energy itself where all modes are known; by the
            Chebyshev-Markov-Stieltjes inequalities where a quadrature stands for them.
        ranks: of U_τ ``[t]``; None from an operator.
        random: what a residual of random direction has on average, 1 - rank / rows ``[t]``.
        random_spread: the standard deviation of that over directions ``[t]``: √(2 p (1 - p) / (rows + 2)) for a mean p.
        random_stderr: the standard error of ``random`` ``[t]``: 0, or that over random vectors from an operator.
        rayleigh: ρ_K.
        stationarity: ‖Jᵀr‖ / (σ_1 ‖r‖): √ρ_K.
        norm: ‖r‖.
        floor: tolerances below it are rounding.
        notes: what a reader has to know, in words.
    """

    tolerances: Tensor
    energy: Tensor
    low: Tensor
    high: Tensor
    ranks: Tensor | None
    random: Tensor
    random_spread: Tensor
    random_stderr: Tensor
    rayleigh: float
    stationarity: float
    norm: float
    floor: float
    notes: tuple[str, ...] = ()


def null_space_energy(
    features: Tensor | Kernel | Mercer | TangentOperator,
    residual: Tensor,
    tolerances: Sequence[float] = DECADES,
    *,
    steps: int = 30,
    probes: int = 8,
    seed: int = 0,
    memory: str | int = "8GiB",
) -> NullEnergy:
    """The curve E_null(τ), from tangent features, a kernel, or a matrix-free operator.

    Beside features it holds a float64 copy of them, where they are not float64, and up to twice their size in float64
    for their QR decomposition or singular vectors.

    Args:
        features: J ``[n, P]`` or ``[n, O, P]``, in the dtype that it was computed in. Or the kernel J Jᵀ of the same
            samples, of one output ``[n, n]`` or with full blocks ``[n, n, O, O]``, as a :class:`Kernel` or by all of
            its modes (:func:`mercer_decomposition`). Or its :class:`TangentOperator`.
        residual: ∂ℓ/∂f ``[n, *out]``, O numbers for each sample; or flat ``[n·O]``, the outputs of a sample next to one
            another.
        tolerances: τ, between 0 and 1. Those below the noise floor are taken, and a note says so.
        steps, probes, seed: of operators: Lanczos steps per vector, and random vectors for the baseline.
        memory: bound on what is held beside features (``"8GiB"``, bytes).

    Raises:
        InputError: shapes differ, something is not finite, the residual or the features are zero, or more than
            ``memory`` is needed. A trace kernel of several outputs, or a normalised one: of these rᵀKr is ‖Jᵀr‖² of no
            residual. A symmetric matrix in the place of features: it is a kernel.
    """
    r = as_tensor(residual, "the residual").double()
    taus = torch.as_tensor(tolerances, dtype=torch.float64).reshape(-1)
    if not len(taus) or not bool(((taus > 0) & (taus < 1)).all()):
        raise InputError("tolerances are relative to the largest singular value, between 0 and 1")
    if not torch.isfinite(r).all():
        raise InputError("the residual has NaN or infinite entries")
    if isinstance(features, (TangentOperator, Kernel, Mercer)):
        _refuse_mixed(features)
    if isinstance(features, TangentOperator):
        r, size = _direction(r, features.shape[0] // features.rows_per_sample, features.rows_per_sample, "the operator")
        found = _of_operator(features, r, taus, steps, probes, seed)
    elif isinstance(features, (Kernel, Mercer)):
        modes = features if isinstance(features, Mercer) else mercer_decomposition(features)
        r, size = _direction(r, modes.samples, modes.outputs, "the kernel")
        found = _of_kernel(modes, r, taus)
    else:
        J = as_tensor(features, "features")
        _refuse_kernel(J)
        afford(2, memory, J)
        rows = rows_of(J)
        r, size = _direction(r, len(J), len(rows) // len(J), "the features")
        found = _of_features(rows, precision_of_features(J), r, taus)
    return replace(found, norm=size)  # all else is of r / ‖r‖


def _direction(r: Tensor, n: int, outputs: int, what: str) -> tuple[Tensor, float]:
    """r / ‖r‖ ``[n·O]`` and ‖r‖.

    Raises:
        InputError: it has neither a row for each sample nor one number for each row of J, or it is zero.
    """
    if r.numel() != n * outputs or r.shape[:1] not in ((n,), (r.numel(),)):
        raise InputError(
            f"the residual has shape {list(r.shape)}, {r.numel()} entries, and {what} {n} samples with {outputs} "
            f"output(s): give [{n}, {outputs}], or flat [{n * outputs}]"
        )
    unit = unit_of(r)  # squares of entries beyond 1e±154 are infinite or 0
    r = r.reshape(-1) / unit
    if not r.any():
        raise InputError("the residual is zero: there is no direction to speak of")
    return r / r.norm(), unit * float(r.norm())


def _refuse_mixed(kernel: TangentOperator | Kernel | Mercer) -> None:
    why = kernel.mixed if isinstance(kernel, Mercer) else mixed(kernel)
    if why:
        raise InputError(
            f"the kernel is {why}, so that rᵀKr is not ‖Jᵀr‖²: give the kernel with gk.blocks(), that of one output "
            "with its own residual, gk.operator(model, x) without cotangents, or gk.tangent_features(model, x)"
        )


def _refuse_kernel(J: Tensor) -> None:
    if not (J.dim() == 2 and J.shape[0] == J.shape[1] > 1):
        return
    size = float(J.abs().max())  # NaN is refused with the features
    if float((J - J.T).abs().max()) <= 100 * precision_of_features(J) * size:
        raise InputError(
            "a symmetric matrix in the place of features is a kernel: give it as mercer_decomposition(K), or features "
            "that happen to be symmetric as [n, 1, P]"
        )


def _of_features(J: Tensor, eps: float, r: Tensor, taus: Tensor) -> NullEnergy:
    # a wide matrix is turned to a triangle first (QR, backward stable): the SVD is then of a small one
    U, sigma, _ = torch.linalg.svd(
        torch.linalg.qr(J.T, mode="r")[1].T if J.shape[1] > len(J) else J, full_matrices=False
    )
    floor = max(J.shape) * eps
    notes = [note for note in (floor_note(floor, eps),) if note]
    if int((sigma > floor * sigma[0]).sum()) == len(J):
        notes.append(
            f"the {len(J)} rows are linearly independent in {J.shape[1]} parameters: the null space is empty, and what "
            "the curve shows is energy on small singular values"
        )
    return _of_modes(U, sigma, r, taus, floor, notes)


def _of_kernel(found: Mercer, r: Tensor, taus: Tensor) -> NullEnergy:
    rows = len(found.vectors)
    if len(found.values) < rows:
        raise InputError(f"a null space needs all {rows} modes, and these are the {len(found.values)} largest")
    _nonzero(float(found.values[0]))
    relative = max(found.floor, 0.0) / float(found.values[0])
    floor = math.sqrt(relative)
    notes = [
        f"from a kernel: its eigenvalues are squares of singular values, so tolerances below {floor:.0e} are rounding "
        f"(from features: below about {relative:.0e})"
    ]
    return _of_modes(found.vectors, found.values.clamp_min(0).sqrt(), r, taus, floor, notes)


def _of_modes(U: Tensor, sigma: Tensor, r: Tensor, taus: Tensor, floor: float, notes: list[str]) -> NullEnergy:
    """From all left singular vectors ``[rows, k]`` and singular values ``[k]``, falling."""
    _nonzero(float(sigma[0]))
    rows = len(r)
    inside = U.T @ r
    share = inside.square()
    # what no mode holds, where rows outnumber them
    outside = float((r - U @ inside).square().sum()) if rows > U.shape[1] else 0.0
    ranks = (sigma[None, :] > (taus * sigma[0])[:, None]).sum(1)
    # summed from the null space up: 1 - Σ would leave rounding of 1 where little is left
    left = outside + torch.cat([share.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    energy = left[ranks].clamp(0, 1)
    rayleigh = float((share * (sigma / sigma[0]).square()).sum())
    random = 1 - ranks.double() / rows
    return NullEnergy(
        tolerances=taus,
        energy=energy,
        low=energy.clone(),
        high=energy.clone(),
        ranks=ranks,
        random=random,
        random_spread=_spread(random, rows),
        random_stderr=torch.zeros_like(random),
        rayleigh=rayleigh,
        stationarity=rayleigh**0.5,
        norm=1.0,
        floor=floor,
        notes=(*notes, *_below(taus, floor)),
    )


def _of_operator(operator: TangentOperator, r: Tensor, taus: Tensor, steps: int, probes: int, seed: int) -> NullEnergy:
    if steps < 2 or probes < 2:
        raise InputError(f"an operator's curve needs 2 or more steps and probes, not {steps} and {probes}")
    top = float(operator.eigsh(1, seed=seed).values[0])
    _nonzero(top)
    cuts = taus.square() * top
    measure = operator.spectral_measure(r, steps)
    low, energy, high = _shares(measure.nodes, measure.weights, cuts)
    density = operator.spectral_density(probes, steps, scale="linear", seed=seed)
    each = torch.stack([_shares(n, w, cuts)[1] for n, w in zip(density.nodes, density.weights, strict=True)])
    # ⟨r, K r⟩ itself: quadrature has an error of the size of the rounding of its weights
    rayleigh = max(0.0, float(r @ (operator @ r)) / top)
    floor = math.sqrt(measure.floor / top)
    notes = [
        f"from products: a quadrature of {len(measure.nodes)} nodes, with bounds; tolerances below {floor:.0e} are "
        "rounding"
    ]
    open_ = int((high - low > UNRESOLVED).sum())
    if open_:
        notes.append(
            f"at {open_} of {len(taus)} tolerances the bounds are more than {UNRESOLVED} apart: more steps resolve "
            "smaller eigenvalues, features all of them"
        )
    random = each.mean(0)
    return NullEnergy(
        tolerances=taus,
        energy=energy,
        low=low,
        high=high,
        ranks=None,
        random=random,
        # not that of the probes: random signs do not see the diagonal of U Uᵀ, which random directions do
        random_spread=_spread(random, len(r)),
        random_stderr=each.std(0) / probes**0.5,
        rayleigh=rayleigh,
        stationarity=rayleigh**0.5,
        norm=1.0,
        floor=floor,
        notes=(*notes, *_below(taus, floor)),
    )


def _spread(random: Tensor, rows: int) -> Tensor:
    """Of a Beta((N - k)/2, k/2), which is what a random direction has outside of k = N (1 - random) of N dimensions."""
    return (2 * random * (1 - random) / (rows + 2)).sqrt()


def _shares(nodes: Tensor, weights: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Share of the energy at eigenvalues up to the cuts: least, as the quadrature says, most ``[t]``.

    Between two nodes the share is at least the weights below the lower of them and at most those up to the upper
    (Chebyshev, Markov, Stieltjes; Golub and Meurant 2010).
    """
    known = weights > torch.finfo(torch.float64).eps ** 2  # an exhausted Krylov space leaves nodes of weight 0
    order = nodes[known].argsort()
    x, w = nodes[known][order].contiguous(), weights[known][order]
    total = torch.cat([torch.zeros(1, dtype=torch.float64), w.cumsum(0), w.sum()[None]])
    count = torch.searchsorted(x, cuts, right=True)
    return total[(count - 1).clamp_min(0)].clamp(0, 1), total[count].clamp(0, 1), total[count + 1].clamp(0, 1)


def _nonzero(top: float) -> None:
    if not top:
        raise InputError("all features are zero: nothing can be learned at these weights")


def _below(taus: Tensor, floor: float) -> list[str]:
    below = int((taus < floor).sum())
    return [f"{below} of {len(taus)} tolerances are below the noise floor, {floor:.0e}"] if below else []

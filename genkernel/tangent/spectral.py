"""Spectra of an operator that is known only by its products: eigenpairs, trace, spectral density.

Nothing here knows what the operator is made of: it is a function from ``[rows, c]`` to ``[rows, c]``
(float64, on the CPU), and for the trace also the quadratic forms zᵀKz, which cost less than products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import ConvergenceError, InputError

Product = Callable[[Tensor], Tensor]  # [rows, c] → [rows, c]
Forms = Callable[[Tensor], Tensor]  # Z [rows, c] → z_jᵀ K z_j, [c]

_SMALL = 16  # operators up to this size are simply written out
_STORED = 2**30  # bytes of Lanczos vectors kept at once


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues, in descending order.

    Attributes:
        values: ``[k]``.
        vectors: ``[rows, k]``, orthonormal.
        residuals: ``[k]``, ‖K v − λ v‖: an eigenvalue of K lies within that distance of each value.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class Trace:
    """An estimate of the trace.

    Attributes:
        value, stderr: the estimate and its standard error (0 when exact, nan with one probe).
        method: ``"exact"``, ``"hutchinson"`` or ``"hutch++"``.
        probes: vectors that the operator was applied to.
    """

    value: float
    stderr: float
    method: str
    probes: int


@dataclass(frozen=True)
class SpectralDensity:
    """How many eigenvalues lie where, smoothed.

    Attributes:
        grid: eigenvalues ``[g]``.
        density: ``[g]``, eigenvalues per unit of the axis: per decade when ``scale`` is ``"log"``.
        stderr: ``[g]``, standard error over probes (nan with one probe).
        nodes, weights: ``[probes, steps]``; weights of a probe sum to 1. Quadrature of the spectrum.
        rows: number of eigenvalues, which is what the density integrates to.
        scale: ``"log"`` or ``"linear"``.
        floor: on the log axis, eigenvalues at or below it (rounding noise, null space) are put on it.
    """

    grid: Tensor
    density: Tensor
    stderr: Tensor
    nodes: Tensor
    weights: Tensor
    rows: int
    scale: str
    floor: float

    def integral(self) -> float:
        """∫ density over its axis: ``rows`` as long as the grid covers the spectrum."""
        axis = self.grid.log10() if self.scale == "log" else self.grid
        return float(torch.trapezoid(self.density, axis))

    def trace_of(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """tr f(K) for an elementwise function of the eigenvalues, with its standard error over probes."""
        each = self.rows * (self.weights * function(self.nodes)).sum(1)
        return float(each.mean()), _stderr(each)


@dataclass(frozen=True)
class SpectralMeasure:
    """Gauss quadrature of the energy of one vector over the eigenvalues of an operator.

    Attributes:
        nodes: Ritz values ``[s]``, falling; the first is (from below) the largest eigenvalue that the vector touches.
        weights: shares of ‖v‖² ``[s]``, which sum to 1.
        energy: ‖v‖².
        floor: nodes at or below it are rounding, or 0.
    """

    nodes: Tensor
    weights: Tensor
    energy: float
    floor: float

    def below(self, value: float) -> float:
        """Share of the energy in modes with eigenvalues up to ``value``."""
        return float(self.weights[self.nodes <= value].sum())

    def mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """vᵀ f(K) v / ‖v‖² for an elementwise function of the eigenvalues."""
        return float((self.weights * function(self.nodes)).sum())


@dataclass(frozen=True)
class Solution:
    """(K + δ I)⁻¹ Y by conjugate gradients.

    Attributes:
        values: ``[rows, c]``.
        residuals: ‖(K + δ I) X - Y‖ / ‖Y‖ of each column ``[c]``, from a product of its own at the end.
        steps: of the iteration.
        converged: every column reached the tolerance; otherwise the steps ran out, or rounding was reached.
    """

    values: Tensor
    residuals: Tensor
    steps: int
    converged: bool


# ---------------------------------------------------------------------------------- eigenpairs


def eigenpairs(product: Product, rows: int, k: int, *, seed: int = 0, tol: float = 1e-8) -> Eigenpairs:
    """The k largest eigenpairs of a symmetric operator by implicitly restarted Lanczos (ARPACK).

    Args:
        product: the operator.
        rows: its size.
        k: how many.
        seed: of the starting vector.
        tol: relative accuracy of the eigenvalues at which the iteration stops.

    Raises:
        InputError: k is not between 1 and ``rows``.
        ConvergenceError: the iteration did not converge.
    """
    import numpy as np
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    if not 1 <= k <= rows:
        raise InputError(f"k={k} eigenpairs do not exist: the operator has {rows} rows")
    if rows <= _SMALL or k >= rows - 1:
        whole = product(torch.eye(rows, dtype=torch.float64))
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
    else:
        start = torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

        def matvec(v: np.ndarray) -> np.ndarray:
            return product(torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).reshape(-1, 1))[:, 0].numpy()

        operator = LinearOperator((rows, rows), matvec=matvec, dtype=np.float64)
        try:
            found, basis = eigsh(operator, k=k, which="LA", v0=start.numpy(), tol=tol)
        except ArpackError as failure:
            raise ConvergenceError(
                f"the Lanczos iteration for {k} eigenpairs did not converge ({failure}): ask for fewer, or raise tol"
            ) from failure
        order = np.argsort(found)
        values, vectors = torch.from_numpy(found[order]), torch.from_numpy(basis[:, order].copy())
    values, vectors = values.flip(0)[:k].clone(), vectors.flip(1)[:, :k].clone()
    residuals = (product(vectors) - vectors * values).norm(dim=0)
    return Eigenpairs(values, vectors, residuals)


# --------------------------------------------------------------------------------------- trace


def trace_outside(forms: Forms, vectors: Tensor, probes: int, *, seed: int = 0, block: int = 32) -> Trace:
    """The trace of (I - U Uᵀ) K (I - U Uᵀ) by Hutchinson's estimator: what known eigenvectors leave of it.

    Args:
        forms: the operator's quadratic forms.
        vectors: U ``[rows, k]``, orthonormal.
        probes: random vectors.
        seed: of the random signs.
        block: how many quadratic forms are asked for at once.

    Raises:
        InputError: no probe.
    """
    if probes < 1:
        raise InputError(f"the trace needs at least 1 probe, not {probes}")
    draw = torch.Generator().manual_seed(seed)
    each = []
    for first in range(0, probes, block):
        signs = _signs(len(vectors), min(block, probes - first), draw)
        each.append(forms(signs - vectors @ (vectors.T @ signs)))
    found = torch.cat(each)
    return Trace(float(found.mean()), _stderr(found), "hutchinson", probes)


def trace(
    product: Product, forms: Forms, rows: int, probes: int, *, method: str = "hutch++", seed: int = 0, block: int = 32
) -> Trace:
    """The trace of a square operator, without bias, from ``probes`` vectors.

    Hutchinson: the mean of zᵀKz over random signs z, with variance 2(‖S‖_F² − Σ S_aa²)/q for the
    symmetric part S of K (THEORY §1). Hutch++ (Meyer, Musco, Musco, Woodruff 2021, algorithm 1): the
    trace on the range Q of K applied to a third of the vectors is exact, and Hutchinson is left with
    (I − QQᵀ)K(I − QQᵀ), whose norm is small where the spectrum falls. With as many probes as rows the
    trace is computed from unit vectors, exactly.

    Args:
        product, forms: the operator.
        rows: its size.
        probes: vectors that it is applied to.
        method: ``"hutch++"`` or ``"hutchinson"``.
        seed: of the random signs.
        block: how many quadratic forms are asked for at once.

    Raises:
        InputError: an unknown method, or too few probes for it.
    """
    if method not in ("hutch++", "hutchinson"):
        raise InputError(f"method is 'hutch++' or 'hutchinson', not {method!r}")
    least = 3 if method == "hutch++" else 1
    if probes < least:
        raise InputError(f"{method} needs at least {least} probes, not {probes}")

    def all_forms(columns: int, make: Callable[[int, int], Tensor]) -> Tensor:
        return torch.cat([forms(make(s, min(columns, s + block))) for s in range(0, columns, block)])

    def units(start: int, stop: int) -> Tensor:
        chosen = torch.zeros(rows, stop - start, dtype=torch.float64)
        chosen[torch.arange(start, stop), torch.arange(stop - start)] = 1
        return chosen

    if probes >= rows:
        return Trace(float(all_forms(rows, units).sum()), 0.0, "exact", rows)
    draw = torch.Generator().manual_seed(seed)
    if method == "hutchinson":
        each = all_forms(probes, lambda start, stop: _signs(rows, stop - start, draw))
        return Trace(float(each.mean()), _stderr(each), method, probes)
    third = probes // 3
    Q = torch.linalg.qr(product(_signs(rows, third, draw)))[0]
    inside = all_forms(third, lambda start, stop: Q[:, start:stop])

    def outside(start: int, stop: int) -> Tensor:
        signs = _signs(rows, stop - start, draw)
        return signs - Q @ (Q.T @ signs)

    each = all_forms(probes - 2 * third, outside)
    return Trace(float(inside.sum() + each.mean()), _stderr(each), method, probes)


# ----------------------------------------------------------------------------- spectral density


def spectral_density(
    product: Product,
    rows: int,
    *,
    probes: int = 8,
    steps: int = 30,
    points: int = 400,
    width: float | None = None,
    scale: str = "log",
    precision: float = 2.0**-52,
    seed: int = 0,
) -> SpectralDensity:
    """The density of eigenvalues of a symmetric operator by stochastic Lanczos quadrature.

    For a random unit vector z, Lanczos turns zᵀf(K)z into a sum over ``steps`` nodes (Ritz values)
    with weights (squared first components of their eigenvectors): Gauss quadrature, exact for
    polynomials of degree 2·steps − 1 (Ubaru, Chen, Saad 2017). Its mean over probes, times ``rows``,
    is tr f(K); a Gaussian bump around each grid point in place of f gives the density.

    Args:
        product: the operator.
        rows: its size.
        probes: random vectors; the standard error comes from their spread.
        steps: Lanczos steps per probe, at most ``rows``.
        points: length of the grid.
        width: standard deviation of the bump, on the axis (decades when ``scale`` is ``"log"``);
            by default 0.1 decades, or 1/50 of the spectrum's extent on the linear axis.
        scale: ``"log"`` (tangent kernels span many decades) or ``"linear"``.
        precision: relative rounding error of the products; the floor of the log axis is that times
            the largest node times √rows.
        seed: of the random vectors.

    Raises:
        InputError: an option that makes no sense.
    """
    if scale not in ("log", "linear"):
        raise InputError(f"scale is 'log' or 'linear', not {scale!r}")
    if min(probes, steps) < 1 or points < 2 or (width is not None and not width > 0):
        raise InputError("a spectral density needs probes and steps of at least 1, points of at least 2, width above 0")
    steps = min(steps, rows)
    draw = torch.Generator().manual_seed(seed)
    together = max(1, min(probes, _STORED // (8 * rows * steps)))
    parts = [
        _lanczos(product, _signs(rows, min(together, probes - start), draw), steps, precision)
        for start in range(0, probes, together)
    ]
    nodes, weights = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    top = float(nodes.max())
    floor = 0.0
    if scale == "log":
        if top <= 0:
            raise InputError("the operator has no positive eigenvalue, so its spectrum has no logarithmic axis")
        floor = top * precision * max(1.0, rows**0.5)
        places, sigma = nodes.clamp_min(floor).log10(), 0.1 if width is None else width
    else:
        places = nodes
        sigma = (float(nodes.max() - nodes.min()) or abs(top) or 1.0) / 50 if width is None else width
    axis = torch.linspace(float(places.min()) - 5 * sigma, float(places.max()) + 5 * sigma, points, dtype=torch.float64)
    # a grid coarser than the bump would not see every bump: the bump is then as wide as the grid
    sigma = max(sigma, float(axis[1] - axis[0]))
    each = torch.stack([_bumps(axis, places[p], weights[p], sigma) for p in range(probes)]) * rows
    stderr = each.std(0) / probes**0.5 if probes > 1 else torch.full_like(axis, math.nan)
    grid = 10.0**axis if scale == "log" else axis
    return SpectralDensity(grid, each.mean(0), stderr, nodes, weights, rows, scale, floor)


def spectral_measures(
    product: Product, vectors: Tensor, steps: int, *, precision: float = 2.0**-52
) -> list[SpectralMeasure]:
    """vᵀ f(K) v of several vectors as sums over nodes, exact for polynomials of degree 2·steps - 1 (Golub, Meurant).

    Args:
        product: the operator.
        vectors: ``[rows, c]``; the products of all are taken together.
        steps: Lanczos steps, at most the number of rows.
        precision: relative rounding error of the products.

    Raises:
        InputError: a vector is zero, or steps is below 1.
    """
    energies = vectors.double().square().sum(0)
    if not bool((energies > 0).all()):
        raise InputError("the vector is zero: there is no energy to spread over eigenvalues")
    if steps < 1:
        raise InputError(f"steps is at least 1, not {steps}")
    rows = len(vectors)
    nodes, weights = _lanczos(product, vectors.double(), min(steps, rows), precision)
    found = []
    for own, shares, energy in zip(nodes, weights, energies.tolist(), strict=True):
        order = own.argsort(descending=True)
        floor = float(own.abs().max()) * precision * max(1.0, rows**0.5)
        found.append(SpectralMeasure(own[order], shares[order], energy, floor))
    return found


def solve(product: Product, targets: Tensor, ridge: float, steps: int, tol: float) -> Solution:
    """Conjugate gradients on every column at once (Hestenes, Stiefel 1952): products of all are taken together.

    Args:
        product: a symmetric positive semi-definite operator.
        targets: Y ``[rows, c]``.
        ridge: δ ≥ 0.
        steps: at most so many.
        tol: relative residual at which a column is done.

    Raises:
        InputError: a ridge that is negative, no steps, or a target of zero.
    """
    if not 0 <= ridge < math.inf or steps < 1:
        raise InputError(f"a solution needs a ridge of at least 0 and steps of at least 1, not {ridge} and {steps}")
    Y = targets.double()
    size = Y.norm(dim=0)
    if not bool((size > 0).all()):
        raise InputError("a target is zero everywhere: there is nothing to solve for")
    X, R = torch.zeros_like(Y), Y.clone()
    D, rho = R.clone(), R.square().sum(0)
    going, taken = torch.ones_like(size, dtype=torch.bool), 0
    for _ in range(steps):
        going = going & (rho.sqrt() > tol * size)
        if not bool(going.any()):
            break
        taken += 1
        KD = product(D) + ridge * D
        curvature = (D * KD).sum(0)
        going = going & (curvature > 0)  # the null space, or rounding: nothing is gained along it
        length = torch.where(going, rho / curvature.clamp_min(1e-300), torch.zeros_like(rho))
        X, R = X + length * D, R - length * KD
        fresh = R.square().sum(0)
        D, rho = torch.where(going, R + fresh / rho.clamp_min(1e-300) * D, torch.zeros_like(D)), fresh
    # the recursion's own residual goes on falling where rounding has stopped the solution's
    left = (product(X) + ridge * X - Y).norm(dim=0) / size
    return Solution(X, left, taken, bool((left <= 10 * tol).all()))


def _lanczos(product: Product, start: Tensor, steps: int, precision: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``[c, steps]`` of the Gauss quadrature of each column, reorthogonalised in full.

    A column whose Krylov space is exhausted goes on with zeros: they form a block of their own in the
    tridiagonal matrix, and nodes of weight 0.
    """
    columns = start.shape[1]
    basis = [start / start.norm(dim=0)]
    alphas, betas = [], []
    size = torch.zeros(columns, dtype=torch.float64)
    for step in range(steps):
        v = basis[-1]
        w = product(v)
        alphas.append((v * w).sum(0))
        for _ in range(2):  # once loses orthogonality, twice is enough
            for q in basis:
                w = w - q * (q * w).sum(0)
        beta = w.norm(dim=0)
        size = torch.maximum(size, alphas[-1].abs() + beta)
        going = beta > 8 * precision * size
        beta = torch.where(going, beta, torch.zeros_like(beta))
        if step + 1 < steps:
            betas.append(beta)
            basis.append(torch.where(going, w / torch.where(going, beta, torch.ones_like(beta)), torch.zeros_like(w)))
    tridiagonal = torch.diag_embed(torch.stack(alphas, 1))
    if betas:
        side = torch.stack(betas, 1)
        tridiagonal = tridiagonal + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values, vectors[:, 0, :].square()


def _bumps(axis: Tensor, places: Tensor, weights: Tensor, sigma: float) -> Tensor:
    """Σ_j weight_j · N(axis; place_j, sigma²)."""
    z = (axis[:, None] - places[None, :]) / sigma
    return (weights * torch.exp(-0.5 * z * z)).sum(1) / (sigma * math.sqrt(2 * math.pi))


def _signs(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (columns, rows), generator=draw).T.to(torch.float64) * 2 - 1


def _stderr(each: Tensor) -> float:
    return float(each.std() / len(each) ** 0.5) if len(each) > 1 else math.nan

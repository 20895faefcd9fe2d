"""Spectra of an operator that is known only by its products: eigenpairs, trace, spectral density.

Nothing here knows what the operator is made of: it is a function from ``[rows, c]`` to ``[rows, c]``
(float64, on the CPU), and for the trace also the quadratic forms zᵀKz, which cost less than products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genkernel.errors import ConvergenceError, InputError

if TYPE_CHECKING:
    import numpy as np

Product = Callable[[Tensor], Tensor]  # [rows, c] → [rows, c]
Forms = Callable[[Tensor], Tensor]  # Z [rows, c] → z_jᵀ K z_j, [c]

_SMALL = 16  # operators up to this size are simply written out
_STORED = 2**30  # bytes of Lanczos vectors kept at once
_LONGEST = 512  # Lanczos vectors of a search for eigenvalues that were missed
_LOOK = 4  # steps of it between looks at its Ritz values
_UNSEEN = 1e-6  # probability with which it may end on one that it did not see


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


def eigenpairs(
    product: Product, rows: int, k: int, *, seed: int = 0, tol: float = 1e-8, precision: float = 2.0**-52
) -> Eigenpairs:
    """The k largest eigenpairs of a symmetric operator, each as often as it occurs.

    Implicitly restarted Lanczos (ARPACK) sees one direction of every eigenspace, and copies of a repeated eigenvalue
    only by what rounding adds: it may leave some out without a sign in its residuals. So what it found is projected
    out, and a Lanczos run from a fresh start looks for eigenvalues above the smallest of them, until there are none.

    Args:
        product: the operator.
        rows: its size.
        k: how many.
        seed: of the starting vectors.
        tol: relative accuracy of the eigenvalues at which the iteration stops.
        precision: relative rounding error of the products.

    Raises:
        InputError: k is not between 1 and ``rows``.
        ConvergenceError: the iteration did not converge.
    """
    if not 1 <= k <= rows:
        raise InputError(f"k={k} eigenpairs do not exist: the operator has {rows} rows")
    if rows <= _SMALL or k >= rows - 1:
        whole = product(torch.eye(rows, dtype=torch.float64))
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
        values, vectors = values.flip(0)[:k].clone(), vectors.flip(1)[:, :k].clone()
        return Eigenpairs(values, vectors, (product(vectors) - vectors * values).norm(dim=0))
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(rows, generator=draw, dtype=torch.float64)
    try:
        values, vectors = _arpack(product, start, k, tol)
    except ConvergenceError:
        if product(start[:, None]).any():
            raise
        zero = torch.zeros(k, dtype=torch.float64)  # of an operator that is zero, every vector is an eigenvector
        return Eigenpairs(zero, torch.eye(rows, k, dtype=torch.float64), zero.clone())
    found, basis = (values, vectors) if k == 1 else _with_copies(product, values, vectors, draw, tol, precision)
    image = product(basis)
    if basis is not vectors:  # what was found apart was orthogonal up to tol: once more, together
        found, mix = torch.linalg.eigh((basis.T @ image + image.T @ basis) / 2)
        found, mix = found.flip(0), mix.flip(1)
        basis, image = basis @ mix, image @ mix
    return Eigenpairs(found, basis, (image - basis * found).norm(dim=0))


def _arpack(product: Product, start: Tensor, k: int, tol: float) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues, falling, and their vectors."""
    import numpy as np
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    rows = len(start)

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).reshape(-1, 1))[:, 0].numpy()

    operator = LinearOperator((rows, rows), matvec=matvec, dtype=np.float64)
    try:
        found, basis = eigsh(operator, k=k, which="LA", v0=start.numpy(), tol=tol)
    except ArpackError as failure:
        raise ConvergenceError(
            f"the Lanczos iteration for {k} eigenpairs did not converge ({failure}): ask for fewer, or raise tol"
        ) from failure
    order = np.argsort(found)[::-1].copy()
    return torch.from_numpy(found[order]), torch.from_numpy(basis[:, order].copy())


def _with_copies(
    product: Product, values: Tensor, vectors: Tensor, draw: torch.Generator, tol: float, precision: float
) -> tuple[Tensor, Tensor]:
    """The k largest of these eigenpairs and those that were missed; what was given where none was.

    Raises:
        ConvergenceError: a search did not converge, or found ever more.
    """
    rows, k = vectors.shape
    rounding = float(values.abs().max()) * precision
    # every search finds at least the largest that is missing, so k of them find all
    for _ in range(k + 1):
        slack = max(tol * abs(float(values[-1])), rounding * rows**0.5)
        missed, found = _above(product, vectors, float(values[-1]), draw, slack, 8 * rounding)
        if not len(missed):
            return values, vectors
        both = torch.cat([values, missed])
        order = both.argsort(descending=True, stable=True)[:k]
        values, vectors = both[order], torch.cat([vectors, found], 1)[:, order]
    raise ConvergenceError(
        f"after {k + 1} searches there were still eigenvalues above the {k} largest that were found: the products are "
        "not accurate enough to tell equal eigenvalues apart, raise tol"
    )


def _above(
    product: Product, known: Tensor, least: float, draw: torch.Generator, slack: float, nothing: float
) -> tuple[Tensor, Tensor]:
    """Eigenpairs above the least of the known ones, of the operator outside of these.

    Lanczos from one random unit vector v, reorthogonalised in full. After s steps with Ritz values θ_i and
    off-diagonals β_i, ‖Π (K - θ_i) v‖ = Π β_i (Golub and Meurant, 2010): on an eigenvector with an eigenvalue above a
    level that no θ_i reaches, v has a component of at most Π β_i / Π (level - θ_i). A random vector has one below c
    with a probability of at most c √(2 rows / π): once that is below :data:`_UNSEEN`, there is none.

    Args:
        product: the operator.
        known: orthonormal eigenvectors ``[rows, k]``.
        least: the smallest of their eigenvalues.
        draw: where the starting vector is from.
        slack: by how much an eigenvalue has to exceed it, and what residuals may be.
        nothing: norm up to which a vector is rounding.

    Returns:
        Eigenvalues ``[c]``, with the largest that was not known among them, and vectors ``[rows, c]``; c may be 0.
    """
    import numpy as np
    from scipy.linalg import eigh_tridiagonal

    rows, k = known.shape

    def outside(w: Tensor, *others: Tensor) -> Tensor:
        for _ in range(2):  # once leaves rounding of what was taken away
            for basis in (known, *others):
                w = w - basis @ (basis.T @ w)
        return w

    # no more vectors than the iteration with restarts held, or than the store has room for
    limit = min(rows - k, max(20, 2 * k + 1, min(_LONGEST, _STORED // (8 * rows))))
    start = outside(torch.randn(rows, generator=draw, dtype=torch.float64))
    basis = torch.empty(limit, rows, dtype=torch.float64).T  # columns that are never written take no memory
    basis[:, 0] = start / start.norm()
    diagonal, side = np.zeros(limit), np.zeros(limit)
    for step in range(limit):
        s = step + 1
        w = product(basis[:, step:s].contiguous())[:, 0]
        diagonal[step] = float(basis[:, step] @ w)
        w = outside(w, basis[:, :s])
        side[step] = float(w.norm())
        done = side[step] <= nothing or s == rows - k
        if done or s == limit or s % _LOOK == 0:
            ritz, mix = eigh_tridiagonal(diagonal[:s], side[:step])
            high = ritz > least + slack
            if not high.any():
                if done or _component(ritz, side[:s], least + slack) * math.sqrt(2 * rows / math.pi) < _UNSEEN:
                    return torch.zeros(0, dtype=torch.float64), known[:, :0]
            elif done or bool((side[step] * abs(mix[-1, high]) <= slack).all()):
                return torch.from_numpy(ritz[high]), basis[:, :s] @ torch.from_numpy(mix[:, high].copy())
        if s < limit:
            basis[:, s] = w / side[step]
    # so dense a spectrum takes more vectors than are kept
    value, vector = _arpack(lambda v: outside(product(outside(v))), start, 1, slack / max(abs(least), slack))
    high = value > least + slack
    return value[high], vector[:, high]


def _component(ritz: np.ndarray, side: np.ndarray, level: float) -> float:
    """Π β_i / Π (level - θ_i), of Ritz values below the level."""
    import numpy as np

    with np.errstate(divide="ignore"):  # a value on the level leaves everything open
        return float(np.exp(min(0.0, np.log(side).sum() - np.log(level - ritz).sum())))


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

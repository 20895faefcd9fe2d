"""Moments of linear least squares along optimizers and their equations, without Monte Carlo.

With u = (θ, 1), or (θ, m, 1) with momentum, a step on batch B is linear: u ← (I + ηA_B) u. So is the noise of the
stochastic differential equation, du = Āu dt + √η Σ_i C_i u dW_i with C_i ∝ A_i − Ā (A_i: sample i alone). Moments of
any one order therefore follow a linear recursion or a linear differential equation of their own. Second moments,

    S ← (1/|𝓑|) Σ_B (I + ηA_B) S (I + ηA_B)ᵀ        Ṡ = ĀS + SĀᵀ + η Σ_i C_i S C_iᵀ,

give the mean of (x_q·θ)²; its variance takes fourth moments, which close in the same way.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from torch import Tensor

from genkernel.errors import InputError, NonFiniteError
from genkernel.paths.stochastic.gradient_noise import noise_scale
from genkernel.paths.stochastic.iid_batches import check_batch
from genkernel.paths.stochastic.problems import LinearRegression
from genkernel.paths.stochastic.sde import SGD, SGDM, Optimizer

Array = NDArray[np.float64]
Process = Literal["discrete", "sde", "modified", "flow"]

_MOST_MOMENTS = 1001  # distinct monomials of the state: 10 parameters with fourth moments
_MOST_BATCHES = 5000  # distinct batches, each of which takes part in a fourth moment


@dataclass(frozen=True)
class Readout:
    """The observable (x_q·θ)^power.

    Attributes:
        query: x_q ``[P]``.
        power: 1 or 2.
    """

    query: Tensor
    power: int = 2

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise InputError(f"power={self.power}: a readout is x·θ (power 1) or its square (power 2)")
        if self.query.dim() != 1:
            raise InputError(f"a query is a vector [P], not of shape {tuple(self.query.shape)}")

    def __call__(self, theta: Tensor) -> Tensor:
        """``[R, P] → [R]``."""
        return (theta @ self.query.to(theta)) ** self.power


@dataclass(frozen=True)
class Moments:
    """A readout along the path, exact up to round-off.

    Attributes:
        times: kη ``[K + 1]``.
        mean: ``[K + 1]``.
        variance: ``[K + 1]``; None where it was not asked for.
    """

    times: Array
    mean: Array
    variance: Array | None


def exact_moments(
    problem: LinearRegression,
    theta0: Tensor,
    optimizer: Optimizer,
    readout: Readout,
    *,
    eta: float,
    steps: int,
    batch_size: int,
    process: Process = "discrete",
    replacement: bool = False,
    variance: bool = True,
) -> Moments:
    """Mean and variance of a readout at t = kη over all batch orders, or over all Brownian paths.

    Args:
        problem: linear regression.
        theta0: ``[P]``.
        optimizer: SGD or SGDM.
        readout: what is looked at.
        eta, steps, batch_size, replacement: as in :func:`genkernel.paths.stochastic.sde.simulate_discrete`.
        process: ``"discrete"``, the iteration itself; ``"sde"``; ``"modified"``, with the second-order drift (SGD);
            ``"flow"``, the equation without noise.
        variance: also the variance, which takes moments of twice the order: few parameters, few distinct batches.

    Raises:
        InputError: another optimizer, shapes or rates that do not fit, or more moments than can be held.
        NonFiniteError: the iteration diverges.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: there has to be at least one step")
    state = _State(problem, theta0, optimizer, readout, eta, batch_size, replacement, process)
    order = readout.power * (2 if variance else 1)
    monomials = _Monomials(state.size, order)
    if process == "discrete":
        operator = monomials.power(state.batches() if order > 2 else None, *state.step())
    else:
        drift, noise = state.equation()
        operator = expm(eta * monomials.generator(drift, noise))
    moments = monomials.of(state.start)
    first = monomials.contraction(state.query, readout.power)
    second = monomials.contraction(state.query, 2 * readout.power) if variance else None
    means, variances = [], []
    for k in range(steps + 1):
        with np.errstate(over="ignore", invalid="ignore"):  # said below
            moments = moments if k == 0 else operator @ moments
        if not np.isfinite(moments).all():
            raise NonFiniteError(f"the moments diverge: infinity at step {k}; take a smaller eta")
        means.append(float(first @ moments))
        if second is not None:
            variances.append(max(float(second @ moments) - means[-1] ** 2, 0.0))
    return Moments(
        eta * np.arange(steps + 1, dtype=np.float64), np.array(means), np.array(variances) if variance else None
    )


class _State:
    """u and the matrices that act on it."""

    def __init__(
        self,
        problem: LinearRegression,
        theta0: Tensor,
        optimizer: Optimizer,
        readout: Readout,
        eta: float,
        batch_size: int,
        replacement: bool,
        process: Process,
    ):
        if not isinstance(problem, LinearRegression):
            raise InputError("exact moments are those of a LinearRegression; other problems take Monte Carlo (runs=)")
        if not isinstance(optimizer, SGD | SGDM):
            raise InputError(f"{optimizer.name} is not linear in its state: exact moments are for SGD and SGDM")
        if process not in ("discrete", "sde", "modified", "flow"):
            raise InputError(f"process is 'discrete', 'sde', 'modified' or 'flow', not {process!r}")
        if process == "modified" and not isinstance(optimizer, SGD):
            raise InputError(f"the modified drift is that of SGD, and there is none for {optimizer.name}")
        if theta0.shape != (problem.parameters,) or readout.query.shape != theta0.shape:
            raise InputError(
                f"theta0 {tuple(theta0.shape)} and the query {tuple(readout.query.shape)} are vectors of the problem's "
                f"{problem.parameters} parameters"
            )
        mu = getattr(optimizer, "mu", None)
        if not eta > 0 or (mu is not None and not 0 < mu * eta <= 1):
            raise InputError(f"eta={eta:g} and momentum rate {mu}: eta is positive and rate · eta at most 1")
        check_batch(problem.samples, batch_size, replacement)
        self.eta, self.mu, self.process = eta, mu, process
        self.batch_size, self.replacement = batch_size, replacement
        self.parameters = problem.parameters
        self.size = self.parameters * (1 if mu is None else 2) + 1
        x, y = problem.x.cpu().numpy(), problem.y.cpu().numpy()
        # ∇ℓ_i = G_i u
        self.gradients = np.zeros((problem.samples, self.parameters, self.size))
        self.gradients[:, :, : self.parameters] = x[:, :, None] * x[:, None, :]
        self.gradients[:, :, -1] = -x * y[:, None]
        self.mean = self.gradients.mean(0)
        self.start = np.zeros(self.size)
        self.start[: self.parameters] = theta0.double().cpu().numpy()
        self.start[-1] = 1.0
        self.query = np.zeros(self.size)
        self.query[: self.parameters] = readout.query.double().cpu().numpy()

    def step(self) -> tuple[Array, Array]:
        """The mean of I + ηA_B, and matrices N_i with Σ_i N_i ⊗ N_i its covariance over batches."""
        scale = math.sqrt(noise_scale(len(self.gradients), self.batch_size, replacement=self.replacement))
        return self._stepped(self.mean), scale * np.stack([self._forced(g) for g in self.gradients - self.mean])

    def batches(self) -> list[tuple[float, Array]]:
        """Every distinct batch: its probability and I + ηA_B."""
        n, size = len(self.gradients), self.batch_size
        count = math.comb(n + size - 1, size) if self.replacement else math.comb(n, size)
        if count > _MOST_BATCHES:
            raise InputError(
                f"there are {count} distinct batches of {size} out of {n}, and the variance takes all of them (at most "
                f"{_MOST_BATCHES}): pass variance=False, or runs= for Monte Carlo"
            )
        if not self.replacement:
            chosen = itertools.combinations(range(n), size)
            return [(1 / count, self._stepped(self.gradients[list(one)].mean(0))) for one in chosen]
        found = []
        for one in itertools.combinations_with_replacement(range(n), size):
            orders = math.factorial(size) / math.prod(math.factorial(one.count(i)) for i in set(one))
            found.append((orders / n**size, self._stepped(self.gradients[list(one)].mean(0))))
        return found

    def equation(self) -> tuple[Array, Array]:
        """Ā, and √η C_i ``[n, d, d]``."""
        drift = np.zeros((self.size, self.size))
        noise = np.zeros((len(self.gradients), self.size, self.size))
        p = self.parameters
        scale = math.sqrt(
            self.eta * noise_scale(len(self.gradients), self.batch_size, replacement=self.replacement)
        )  # fmt: skip
        scale = 0.0 if self.process == "flow" else scale
        if self.mu is None:
            drift[:p] = -self.mean
            noise[:, :p] = -scale * (self.gradients - self.mean)
            if self.process == "modified":
                drift -= 0.5 * self.eta * drift @ drift  # −(η/2) ∇²L ∇L
        else:
            drift[:p, p : 2 * p] = -np.eye(p)
            drift[p : 2 * p] = self.mu * self.mean
            drift[p : 2 * p, p : 2 * p] -= self.mu * np.eye(p)
            noise[:, p : 2 * p] = scale * self.mu * (self.gradients - self.mean)
        return drift, noise

    def _forced(self, gradient: Array) -> Array:
        """What a gradient G u ``[P, d]`` adds to a step."""
        moved = np.zeros((self.size, self.size))
        p = self.parameters
        if self.mu is None:
            moved[:p] = -self.eta * gradient
        else:
            moved[p : 2 * p] = self.mu * self.eta * gradient
            moved[:p] = -self.eta * moved[p : 2 * p]
        return moved

    def _stepped(self, gradient: Array) -> Array:
        moved = np.eye(self.size) + self._forced(gradient)
        if self.mu is not None:
            p, kept = self.parameters, 1 - self.mu * self.eta
            moved[p : 2 * p, p : 2 * p] = kept * np.eye(p)
            moved[:p, p : 2 * p] = -self.eta * kept * np.eye(p)
        return moved


class _Monomials:
    """Moments E[u^α] of one order p as a vector ``[D]``, and linear maps of u as matrices on it."""

    def __init__(self, size: int, order: int):
        self.size, self.order = size, order
        count = math.comb(size + order - 1, order)
        if count > _MOST_MOMENTS:
            raise InputError(
                f"moments of order {order} of a state of {size} numbers are {count}, and at most {_MOST_MOMENTS} are "
                "held: pass variance=False, or runs= for Monte Carlo"
            )
        self.keys = list(itertools.combinations_with_replacement(range(size), order))
        place = {key: k for k, key in enumerate(self.keys)}
        # the symmetric tensor E[u ⊗ … ⊗ u] out of its distinct entries
        self.entries = np.array(
            [place[tuple(sorted(key))] for key in itertools.product(range(size), repeat=order)]
        ).reshape((size,) * order)
        self.distinct = tuple(np.array(self.keys).T)

    def of(self, u: Array) -> Array:
        """The moments of a number that is certain."""
        return np.array([math.prod(u[i] for i in key) for key in self.keys])

    def power(self, batches: list[tuple[float, Array]] | None, mean: Array, noise: Array) -> Array:
        """E[M ⊗ … ⊗ M] ``[D, D]`` over batches; to second order their mean and covariance are enough."""
        basis = self._basis()
        found = np.zeros_like(basis)
        if batches is None:
            found += self._everywhere(basis, mean)
            for matrix in noise if self.order == 2 else ():
                found += self._everywhere(basis, matrix)
        for chance, matrix in batches or ():
            found += chance * self._everywhere(basis, matrix)
        return self._matrix(found)

    def generator(self, drift: Array, noise: Array) -> Array:
        """d/dt of the moments ``[D, D]``: drift on every factor, noise on every pair of factors."""
        basis = self._basis()
        found = np.zeros_like(basis)
        for a in range(self.order):
            found += self._at(basis, drift, a)
        for a, b in itertools.combinations(range(self.order), 2):
            for matrix in noise:
                if matrix.any():
                    found += self._at(self._at(basis, matrix, a), matrix, b)
        return self._matrix(found)

    def contraction(self, query: Array, power: int) -> Array:
        """The row ``[D]`` that takes the moments to E(q·u)^power; the last entry of u is 1 and fills up the order."""
        filled = [query] * power + [np.eye(self.size)[-1]] * (self.order - power)
        row = np.zeros(len(self.keys))
        for key in itertools.product(range(self.size), repeat=self.order):
            weight = math.prod(vector[i] for vector, i in zip(filled, key, strict=True))
            if weight:
                row[self.entries[key]] += weight
        return row

    def _basis(self) -> Array:
        """The D unit vectors as symmetric tensors ``[D, d, …, d]``."""
        return np.eye(len(self.keys))[self.entries].transpose(self.order, *range(self.order))

    def _matrix(self, tensors: Array) -> Array:
        return tensors[(slice(None), *self.distinct)].T

    def _at(self, tensors: Array, matrix: Array, factor: int) -> Array:
        return np.moveaxis(np.tensordot(matrix, tensors, axes=(1, factor + 1)), 0, factor + 1)

    def _everywhere(self, tensors: Array, matrix: Array) -> Array:
        for factor in range(self.order):
            tensors = self._at(tensors, matrix, factor)
        return tensors

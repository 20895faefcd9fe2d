"""How far a stochastic differential equation is from the optimizer it models, in distribution.

Weak order p (Guo, He & Morel, Definition 3.1): max_{k ≤ T/η} |E g(θ_k) − E g(Θ_{kη})| ≤ C η^p for smooth g of
polynomial growth. Noise enters means only at O(η), so gradient flow without any noise is of weak order one as well: a
slope on means says nothing about the diffusion term. The variance of g does, which is why it is always reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.stochastic.moments import Readout, exact_moments
from genkernel.paths.stochastic.problems import LinearRegression, Problem
from genkernel.paths.stochastic.sde import Observable, Optimizer, simulate_discrete, simulate_sde

Array = NDArray[np.float64]
Model = Literal["sde", "modified", "flow"]

RESOLVED = 5.0  # standard errors an error has to exceed to count in a slope


@dataclass(frozen=True)
class Slope:
    """A line through log error over log η.

    Attributes:
        value: its slope; NaN with fewer than two resolved errors.
        stderr: from the standard errors of the errors; 0 for exact ones.
        used: which η counted ``[E]``: those with an error above five standard errors.
    """

    value: float
    stderr: float
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class WeakError:
    """The errors of one model at several learning rates.

    Attributes:
        optimizer: its name.
        model: ``"sde"``, ``"modified"`` (second-order drift) or ``"flow"`` (no noise).
        route: ``"exact moments"`` or ``"Monte Carlo"``.
        etas: learning rates ``[E]``.
        mean: max_k |E g(θ_k) − E g(Θ_kη)| ``[E]``.
        mean_stderr: at the step of the maximum ``[E]``; 0 for exact moments.
        variance, variance_stderr: the same of Var g ``[E]``.
        relative_variance: the error of the variance over the largest variance of the iteration ``[E]``.
        relative_variance_stderr: its standard error ``[E]``.
        slope_mean, slope_variance: fits of ``mean`` and of ``relative_variance`` (the variance itself is O(η)).
        horizon: T.
        runs: R of either side; None for exact moments.
    """

    optimizer: str
    model: str
    route: str
    etas: Array
    mean: Array
    mean_stderr: Array
    variance: Array
    variance_stderr: Array
    relative_variance: Array
    relative_variance_stderr: Array
    slope_mean: Slope
    slope_variance: Slope
    horizon: float
    runs: int | None


def weak_error(
    problem: Problem,
    theta0: Tensor,
    optimizer: Optimizer,
    observable: Readout | Observable,
    *,
    etas: Sequence[float],
    horizon: float,
    batch_size: int,
    model: Model = "sde",
    runs: int | None = None,
    seed: int = 0,
    replacement: bool = False,
    substeps: int = 8,
) -> WeakError:
    """Weak error over a list of learning rates at a fixed horizon and fixed θ_0.

    Args:
        problem, theta0, optimizer, batch_size, replacement: as for
            :func:`genkernel.paths.stochastic.sde.simulate_discrete`.
        observable: g: ``θ [R, P] → [R]``. For exact moments a :class:`Readout`.
        etas: learning rates that divide the horizon, each usually half of the one before.
        horizon: T.
        model: the equation that is compared with the iteration.
        runs: R per side and learning rate for Monte Carlo; None for exact moments (linear regression, SGD and SGDM).
        seed: of batches and noise, for Monte Carlo.
        substeps: Euler steps per η, for Monte Carlo. The scheme's own error is part of what is reported.

    Raises:
        InputError: fewer than two learning rates, one that does not divide the horizon, or what the simulations refuse.
        NonFiniteError: a simulation diverges.
    """
    counts = _steps(etas, horizon)
    if model not in ("sde", "modified", "flow"):
        raise InputError(f"model is 'sde', 'modified' or 'flow', not {model!r}")
    if runs is not None and runs < 2:
        raise InputError(f"runs={runs}: a mean with a standard error needs at least two")
    rows = []
    for row, (eta, steps) in enumerate(zip(etas, counts, strict=True)):
        if runs is None:
            if not isinstance(problem, LinearRegression) or not isinstance(observable, Readout):
                raise InputError(
                    "exact moments take a LinearRegression and a Readout; give runs= to compare by Monte Carlo"
                )
            rows.append(_exactly(problem, theta0, optimizer, observable, eta, steps, batch_size, model, replacement))
            continue
        discrete = simulate_discrete(
            problem, theta0, optimizer, eta=eta, steps=steps, batch_size=batch_size, replacement=replacement,
            seeds=_seeds(seed, row, runs), observe=observable,
        )  # fmt: skip
        equation = simulate_sde(
            problem, theta0, optimizer, eta=eta, steps=steps, batch_size=batch_size, replacement=replacement,
            runs=runs, seed=seed * len(counts) + row, observe=observable, substeps=substeps,
            drift="modified" if model == "modified" else "first", noise=model != "flow",
        )  # fmt: skip
        if discrete.mean.ndim != 1:
            raise InputError(f"an observable is one number per run, not of shape {discrete.mean.shape[1:]}")
        mean = _largest(discrete.mean, equation.mean, discrete.mean_stderr, equation.mean_stderr)
        variance = _largest(discrete.variance, equation.variance, discrete.variance_stderr, equation.variance_stderr)
        rows.append((*mean, *variance, float(discrete.variance.max())))
    mean, mean_stderr, variance, variance_stderr, most = np.array(rows).T
    relative, relative_stderr = _ratio(variance, most), _ratio(variance_stderr, most)
    return WeakError(
        optimizer=optimizer.name,
        model=model,
        route="exact moments" if runs is None else "Monte Carlo",
        etas=np.array(etas, dtype=np.float64),
        mean=mean,
        mean_stderr=mean_stderr,
        variance=variance,
        variance_stderr=variance_stderr,
        relative_variance=relative,
        relative_variance_stderr=relative_stderr,
        slope_mean=fit_slope(etas, mean, mean_stderr),
        slope_variance=fit_slope(etas, relative, relative_stderr),
        horizon=horizon,
        runs=runs,
    )


def fit_slope(etas: Sequence[float] | Array, errors: Array, stderr: Array | None = None) -> Slope:
    """The least-squares slope of log error over log η, through the errors above five standard errors.

    Args:
        etas: ``[E]``.
        errors: ``[E]``.
        stderr: ``[E]``; exact errors without.
    """
    errors = np.asarray(errors, dtype=np.float64)
    around = np.zeros_like(errors) if stderr is None else np.asarray(stderr, dtype=np.float64)
    used = np.isfinite(errors) & (errors > 0) & (errors > RESOLVED * around)
    x = np.log(np.asarray(etas, dtype=np.float64)[used])
    if len(x) < 2 or np.ptp(x) == 0:
        return Slope(math.nan, math.nan, used)
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    logs = np.log(errors[used])
    return Slope(float(weights @ logs), float(np.sqrt(np.sum((weights * around[used] / errors[used]) ** 2))), used)


def _exactly(
    problem: LinearRegression,
    theta0: Tensor,
    optimizer: Optimizer,
    readout: Readout,
    eta: float,
    steps: int,
    batch_size: int,
    model: Model,
    replacement: bool,
) -> tuple[float, ...]:
    discrete, equation = (
        exact_moments(
            problem, theta0, optimizer, readout, eta=eta, steps=steps, batch_size=batch_size,
            replacement=replacement, process=process,
        )
        for process in ("discrete", model)
    )  # fmt: skip
    assert discrete.variance is not None and equation.variance is not None
    mean = float(np.abs(discrete.mean - equation.mean).max())
    variance = float(np.abs(discrete.variance - equation.variance).max())
    return mean, 0.0, variance, 0.0, float(discrete.variance.max())


def _largest(one: Array, other: Array, stderr: Array, other_stderr: Array) -> tuple[float, float]:
    """The largest difference and its standard error."""
    k = int(np.abs(one - other).argmax())
    return float(abs(one[k] - other[k])), float(math.hypot(stderr[k], other_stderr[k]))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full_like(part, math.nan), where=whole > 0)


def _steps(etas: Sequence[float], horizon: float) -> list[int]:
    if len(set(etas)) < 2:
        raise InputError(f"etas={list(etas)}: a slope needs at least two different learning rates")
    if not horizon > 0 or any(not eta > 0 for eta in etas):
        raise InputError(f"etas={list(etas)} and horizon={horizon}: all of them have to be positive")
    for eta in etas:
        if abs(horizon / eta - round(horizon / eta)) > 1e-6 or round(horizon / eta) < 1:
            raise InputError(f"eta={eta} does not divide the horizon {horizon} into whole steps")
    return [round(horizon / eta) for eta in etas]


def _seeds(seed: int, row: int, runs: int) -> NDArray[np.int64]:
    """Other batches for every learning rate: errors at different η are then independent."""
    return np.arange(runs, dtype=np.int64) + ((seed & 0xFFFFFF) << 38) + (row << 32)

"""What the path-kernel formula of Adam leaves out, with exact moments.

For f(θ) = θ² on the loss ½θ² with gradient noise of variance σ² and a constant preconditioner 1, Adam's equation is
linear: dΘ = −ι (D + N) ds with M = D + N, dD = ρ₁(Θ − D) ds the average of past gradients and dN = −ρ₁N ds + ρ₁√η σ dW
that of past noise. The chain rule gives E f(Θ_T) = f_0 − 2∫ι E[ΘD] − 2∫ι E[ΘN]. The first integral is the formula
(Guo, He & Morel, Thm 3.7: the double integral over gradients at t ≤ s); the second is its remainder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from genkernel.errors import InputError, NonFiniteError

Array = NDArray[np.float64]

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # second moments of (Θ, D, N)


@dataclass(frozen=True)
class Remainder:
    """The largest remainder up to the horizon at one learning rate.

    Attributes:
        equation: |E f(Θ_t) − formula|, along the equation.
        iteration: |E f(θ_k) − formula|, as the theorem states it.
        limit: η σ² T = (η/2)∫tr(PΣP∇²f), the leading omitted term as ρ₁ → ∞.
    """

    equation: float
    iteration: float
    limit: float


def remainder(
    eta: float, zeta: float, *, horizon: float = 2.0, sigma: float = 1.0, start: float = 1.0, corrected: bool = False
) -> Remainder:
    """The remainder with ρ₁ = η^{−ζ}.

    Args:
        eta: learning rate; it divides the horizon.
        zeta: 0 ≤ ζ < 1.
        horizon: T.
        sigma: standard deviation of the gradient noise.
        start: θ_0; momentum starts at 0.
        corrected: with bias correction, ι = 1/(1 − e^{−ρ₁s}); 1 otherwise.

    Raises:
        InputError: ζ is outside [0, 1), or η does not divide the horizon.
        NonFiniteError: the moments could not be integrated.
    """
    steps = round(horizon / eta)
    if not 0 <= zeta < 1 or not eta > 0 or abs(horizon / eta - steps) > 1e-6:
        raise InputError(f"zeta={zeta} lies in [0, 1), and eta={eta} divides the horizon {horizon}")
    rate = eta**-zeta

    def derivative(s: float, y: Array) -> Array:
        moments = _symmetric(y)
        # 1/ι is 0 at s = 0, where D = N = 0
        iota = 1 / -math.expm1(-rate * max(s, 1e-14)) if corrected else 1.0
        drift = np.array([[0, -iota, -iota], [rate, -rate, 0], [0, 0, -rate]])
        change = drift @ moments + moments @ drift.T
        change[2, 2] += rate**2 * eta * sigma**2
        return np.array([*(change[i, j] for i, j in _PAIRS), -2 * iota * moments[0, 1]])

    first = np.zeros(7)
    first[0] = start**2
    times = np.linspace(0, horizon, steps + 1)
    solved = solve_ivp(derivative, (0, horizon), first, method="DOP853", rtol=1e-10, atol=1e-13, t_eval=times)
    if not solved.success:
        raise NonFiniteError(f"the moments could not be integrated: {solved.message}")
    formula = start**2 + solved.y[6]
    equation = np.abs(solved.y[0] - formula).max()
    iteration = np.abs(_iterated(eta, rate, steps, sigma, start, corrected) - formula).max()
    return Remainder(float(equation), float(iteration), eta * sigma**2 * horizon)


def _symmetric(y: Array) -> Array:
    moments = np.zeros((3, 3))
    for value, (i, j) in zip(y, _PAIRS, strict=False):
        moments[i, j] = moments[j, i] = value
    return moments


def _iterated(eta: float, rate: float, steps: int, sigma: float, start: float, corrected: bool) -> Array:
    """E θ_k² ``[steps + 1]`` of the iteration itself."""
    beta, moments = 1 - rate * eta, np.array([[start**2, 0.0], [0.0, 0.0]])
    found = [start**2]
    for k in range(steps):
        gamma = eta / (1 - beta ** (k + 1)) if corrected else eta
        step = np.array([[1 - gamma * (1 - beta), -gamma * beta], [1 - beta, beta]])
        noise = sigma * (1 - beta) * np.array([-gamma, 1.0])
        moments = step @ moments @ step.T + np.outer(noise, noise)
        found.append(float(moments[0, 0]))
    return np.array(found)

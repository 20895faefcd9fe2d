"""Small networks on a line, to stationarity on one set and on fresh samples: their residuals in null spaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.null_space.setting import FRESH, TAUS, Setting

Array = NDArray[np.float64]

UNITS = 6
PARAMETERS = 3 * UNITS + 1
SAMPLES = 60
NOISE = 0.3
ROUGH = 0.5  # amplitude of the part of the target that six units cannot learn
MOMENTUM = 0.95  # heavy ball: stationarity is the same, and comes twenty times sooner
POLISHED = "Levenberg-Marquardt"  # the last entry of the first study
EVALUATIONS = 600  # of the residual in that iteration


def target(x: Tensor, rough: float = ROUGH) -> Tensor:
    """E[y | x]: a part that six units learn, and one that they cannot, so that a residual is left."""
    return (4 * x).sin() + rough * (20 * x).sin()


def start(seeds: int, draw: torch.Generator) -> Tensor:
    """Weights of several networks Σ_j a_j tanh(w_j x + c_j) + d ``[seeds, 19]``, in the order a, w, c, d."""
    a = torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64) / UNITS**0.5
    w = 2 * torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64)
    c = torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64)
    return torch.cat([a, w, c, torch.zeros(seeds, 1, dtype=torch.float64)], 1)


def evaluate(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs ``[seeds, n]`` and tangent features ``[seeds, n, 19]`` at x ``[seeds, n]``."""
    a, w, c, d = theta.split([UNITS, UNITS, UNITS, 1], 1)
    h = (x[:, :, None] * w[:, None] + c[:, None]).tanh()
    inner = a[:, None] * (1 - h.square())
    J = torch.cat([h, inner * x[:, :, None], inner, torch.ones_like(x)[:, :, None]], 2)
    return (h * a[:, None]).sum(2) + d, J


def sample(seeds: int, n: int, draw: torch.Generator, rough: float = ROUGH) -> tuple[Tensor, Tensor]:
    """Points on [-2, 2] and noisy answers ``[seeds, n]``."""
    x = 4 * torch.rand(seeds, n, generator=draw, dtype=torch.float64) - 2
    return x, target(x, rough) + NOISE * torch.randn(seeds, n, generator=draw, dtype=torch.float64)


def descend(theta: Tensor, velocity: Tensor, x: Tensor, y: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """One step of heavy-ball gradient descent on half the mean squared error: weights, velocity."""
    f, J = evaluate(theta, x)
    velocity = MOMENTUM * velocity - rate / x.shape[1] * (J.transpose(1, 2) @ (f - y)[:, :, None])[:, :, 0]
    return theta + velocity, velocity


@dataclass(frozen=True)
class Reading:
    """Residuals of several networks, in null spaces.

    Attributes:
        energy: E_null(τ) ``[seeds, τ]``.
        ranks: of U_τ, likewise.
        machine: E_null at the noise floor ``[seeds]``.
        rayleigh: ρ_K ``[seeds]``.
        gradient: ‖Jᵀr‖ / n ``[seeds]``.
        error: mean r² ``[seeds]``.
    """

    energy: Array
    ranks: Array
    machine: Array
    rayleigh: Array
    gradient: Array
    error: Array


def read(theta: Tensor, x: Tensor, to: Tensor) -> Reading:
    """The residual f - to at x, for every network."""
    from genkernel.spectra import null_space_energy

    f, J = evaluate(theta, x)
    r = f - to
    floor = max(J.shape[1:]) * torch.finfo(torch.float64).eps
    found = [null_space_energy(one, res, [*TAUS, floor]) for one, res in zip(J, r, strict=True)]
    energy = np.stack([one.energy.numpy() for one in found])
    return Reading(
        energy=energy[:, :-1],
        ranks=np.stack([one.ranks.numpy() for one in found if one.ranks is not None])[:, :-1],
        machine=energy[:, -1],
        rayleigh=np.array([one.rayleigh for one in found]),
        gradient=(J.transpose(1, 2) @ r[:, :, None]).norm(dim=(1, 2)).numpy() / x.shape[1],
        error=r.square().mean(1).numpy(),
    )


def to_stationarity(setting: Setting, seed: int) -> dict[str, Reading]:
    """Step → residuals on the one training set of 60 samples, under full-batch descent; then nearer to stationarity.

    Descent alone leaves gradients of 5e-4 after tens of thousands of steps, so the last of it is Levenberg and
    Marquardt's iteration, from where the descent ended. Weights of some networks grow without an end: they have no
    stationary point, and ``gradient`` says which.
    """
    draw = torch.Generator().manual_seed(seed)
    theta, (x, y) = start(setting.seeds, draw), sample(setting.seeds, SAMPLES, draw)
    velocity = torch.zeros_like(theta)
    found: dict[str, Reading] = {}
    for step in range(setting.steps[-1] + 1):
        if step in setting.steps:
            found[str(step)] = read(theta, x, y)
        theta, velocity = descend(theta, velocity, x, y, setting.rate)
    found[POLISHED] = read(torch.stack([polish(*one) for one in zip(theta, x, y, strict=True)]), x, y)
    return found


def polish(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where Levenberg and Marquardt's iteration comes to from here ``[19]``."""
    from scipy.optimize import least_squares

    def residual(w: Array) -> Array:
        return (evaluate(torch.from_numpy(w)[None], x[None])[0][0] - y).numpy()

    def jacobian(w: Array) -> Array:
        return evaluate(torch.from_numpy(w)[None], x[None])[1][0].numpy()

    tight = 1e-15
    end = least_squares(
        residual, theta.numpy(), jacobian, method="lm", xtol=tight, ftol=tight, gtol=tight, max_nfev=EVALUATIONS
    )
    return torch.from_numpy(end.x)


@dataclass(frozen=True)
class Case:
    """Trainings on sets of one size, or on fresh samples.

    Attributes:
        name: the size, or "fresh".
        trained: residuals on the training set at the end; None for fresh samples.
        before, after: residuals E[f - y | x] on the population, at the start and at the end.
    """

    name: str
    trained: Reading | None
    before: Reading
    after: Reading


def on_population(n: int | None, setting: Setting, seed: int, rough: float = ROUGH) -> Case:
    """The same networks on a set of n samples in every step, or on 60 fresh ones; rates fall linearly to 0."""
    draw = torch.Generator().manual_seed(seed)
    theta = start(setting.seeds, draw)
    at = 4 * torch.rand(setting.seeds, setting.population, generator=draw, dtype=torch.float64) - 2
    before = read(theta, at, target(at, rough))
    data = sample(setting.seeds, n, draw, rough) if n is not None else None
    velocity = torch.zeros_like(theta)
    for step in range(setting.passes):
        x, y = data if data is not None else sample(setting.seeds, SAMPLES, draw, rough)
        theta, velocity = descend(theta, velocity, x, y, setting.rate * (1 - step / setting.passes))
    trained = read(theta, *data) if data is not None else None
    name = FRESH if n is None else str(n)
    return Case(
        name if rough else f"{name}, without the rough part", trained, before, read(theta, at, target(at, rough))
    )

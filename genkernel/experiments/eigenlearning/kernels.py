"""Kernel regressions on drawn training sets, beside what eigenlearning predicts of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.equivalence import Measured
from genkernel.spectra import Risk, expected_risk, mercer_decomposition, predict_risk

Array = NDArray[np.float64]

COEFFICIENTS = 10  # leading modes whose learned coefficients are compared


# -------------------------------------------------------------------------------- domains


def boolean_cube(dimensions: int) -> Tensor:
    """All corners of {-1, 1}^d, ``[2^d, d]``."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dimensions)), dtype=torch.float64)


def parity(cube: Tensor, bits: int) -> Tensor:
    """The product of the first bits, ``[2^d]``: an eigenfunction of every kernel that permutations and flips leave."""
    return cube[:, :bits].prod(1)


def circle(points: int) -> tuple[Tensor, Tensor, list[str]]:
    """Evenly spaced points of the unit circle ``[M, 2]``, Fourier modes of mean square 1 ``[M, M]``, their names."""
    angle = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
    modes, names = [torch.ones(points, dtype=torch.float64)], ["1"]
    for k in range(1, points // 2 + 1):
        lone = 2 * k == points  # its sine is zero at all points
        modes.append((k * angle).cos() * (1 if lone else math.sqrt(2)))
        names.append(f"cos {k}φ" if k > 1 else "cos φ")
        if not lone:
            modes.append((k * angle).sin() * math.sqrt(2))
            names.append(f"sin {k}φ" if k > 1 else "sin φ")
    return torch.stack([angle.cos(), angle.sin()], 1), torch.stack(modes, 1), names


# ----------------------------------------------------------------------------- regressions


def regress(kernel: Tensor, targets: Tensor, train: Tensor, ridge: float = 0.0) -> Tensor:
    """Predictions at all m points ``[m, F]`` from the targets ``[m, F]`` at the training points.

    Points that are named several times count once: with targets that are functions of the point this is the
    minimum-norm interpolation, for no ridge.
    """
    places = train.unique() if not ridge else train
    own = kernel[places][:, places] + ridge * torch.eye(len(places), dtype=kernel.dtype)
    return kernel[:, places] @ torch.linalg.solve(own, targets[places])


@dataclass(frozen=True)
class OnDomain:
    """Regressions on training sets of one size from a finite domain, for F functions; scores over the whole domain.

    Attributes:
        mse: mean squared errors ``[F]``.
        learnability: ⟨f, f̂⟩ / ⟨f, f⟩ ``[F]``.
        distinct: mean number of distinct training points.
    """

    mse: Measured
    learnability: Measured
    distinct: float


def on_domain(
    kernel: Tensor, functions: Tensor, samples: int, draws: int, seed: int, *, replacement: bool = False
) -> OnDomain:
    """Ridgeless regressions of functions ``[m, F]`` on ``draws`` training sets."""
    m = len(kernel)
    draw = torch.Generator().manual_seed(seed)
    errors, learned, distinct = [], [], []
    for _ in range(draws):
        if replacement:
            places = torch.randint(m, (samples,), generator=draw)
        else:
            places = torch.randperm(m, generator=draw)[:samples]
        scores = scored(functions, regress(kernel, functions, places))
        errors.append(scores[0])
        learned.append(scores[1])
        distinct.append(len(places.unique()))
    return OnDomain(Measured.of(errors), Measured.of(learned), float(np.mean(distinct)))


def scored(functions: Tensor, predictions: Tensor) -> tuple[Array, Array]:
    """Mean squared errors and learnabilities ``[F]`` each, of columns."""
    errors = (predictions - functions).square().mean(0)
    learned = (functions * predictions).sum(0) / functions.square().sum(0)
    return errors.numpy(), learned.numpy()


@dataclass(frozen=True)
class InDimensions:
    """Regressions of one smooth function of normal inputs in d dimensions.

    Attributes:
        dimensions: d.
        predicted: test error, with the reference points as the density.
        reference_stderr: of it, from these being one sample (as ``reference="sample"`` states it).
        measured: over training sets, all scored on the same fresh points.
    """

    dimensions: int
    predicted: float
    reference_stderr: float
    measured: Measured


def in_dimensions(dimensions: int, samples: int, reference: int, draws: int, seed: int) -> InDimensions:
    """sin 2x_1, x ~ N(0, I_d), with the kernel exp(-|x - x'|² / 2d) and ridge 0.01; scored on 1000 fresh points."""
    draw = torch.Generator().manual_seed(seed)

    def normal(n: int) -> Tensor:
        return torch.randn(n, dimensions, generator=draw, dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * dimensions))

    def target(x: Tensor) -> Tensor:
        return (2 * x[:, 0]).sin()

    ridge = 0.01
    known, fresh = normal(reference), normal(1000)
    mercer, y = mercer_decomposition(kernel(known, known)), target(known)
    predicted = predict_risk(mercer, y, samples, ridge=ridge).test_mse
    rough = predict_risk(mercer, y, samples, ridge=ridge, reference="sample").stderr
    errors = []
    for _ in range(draws):
        x = normal(samples)
        own = kernel(x, x) + ridge * torch.eye(samples, dtype=torch.float64)
        found = kernel(fresh, x) @ torch.linalg.solve(own, target(x))
        errors.append((found - target(fresh)).square().numpy())
    return InDimensions(dimensions, predicted, rough, Measured.on_points(errors))


# -------------------------------------------------------------------------- Gaussian design


@dataclass(frozen=True)
class Design:
    """One regression on Gaussian eigenfunctions."""

    samples: int
    ridge: float
    noise: float


@dataclass(frozen=True)
class DesignResult:
    """Theory, and regressions that were simulated: errors, and moments of the learned coefficients.

    Attributes:
        risk: predicted.
        test, train: errors, one number each.
        learned: the coefficients v̂_i of the leading modes ``[COEFFICIENTS]``.
        variance_ratio: Σ Var v̂_i over the twenty leading modes, simulated over predicted.
    """

    design: Design
    risk: Risk
    test: Measured
    train: Measured
    learned: Measured
    variance_ratio: Measured


def gaussian_design(design: Design, modes: int, runs: int, seed: int) -> DesignResult:
    """λ_i = i^(-3/2), v_i ~ N(0, 1) / i, regressions on independent standard normal ψ_i(x)."""
    draw = np.random.default_rng(seed)
    numbers = np.arange(1, modes + 1)
    lam = numbers**-1.5
    v = draw.normal(size=modes) / numbers
    tests, trains, learned = [], [], []
    n = design.samples
    for _ in range(runs):
        psi = draw.normal(size=(n, modes))
        y = psi @ v + math.sqrt(design.noise) * draw.normal(size=n)
        K = (psi * lam) @ psi.T
        alpha = np.linalg.solve(K + design.ridge * np.eye(n), y)
        w = lam * (psi.T @ alpha)
        tests.append(((w - v) ** 2).sum() + design.noise)
        trains.append(((K @ alpha - y) ** 2).mean())
        learned.append(w)
    risk = expected_risk(lam, v, n, ridge=design.ridge, noise=design.noise)
    found = Measured.of(learned)
    spread = ((np.array(learned) - found.mean)[:, :20] ** 2).sum(1) * runs / (runs - 1)
    return DesignResult(
        design, risk, Measured.of(tests), Measured.of(trains), Measured.of(np.array(learned)[:, :COEFFICIENTS]),
        Measured.of(spread / risk.variance[:20].sum()),
    )  # fmt: skip

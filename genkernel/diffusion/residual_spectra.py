"""What a denoiser's kernel can still learn at each noise level, and what it cannot.

At every level alone, over the outputs of m images, n·O rows (Theorem 3.8 of Guo, He, Morel; THEORY §5, §9):

    r = f(x_t) - target                      the residual; its energy over the eigenvalues λ of K = J Jᵀ
    E_null(τ)                                the share of ‖r‖² in modes with λ ≤ τ² λ_1
    ρ_K = rᵀ K r / (λ_1 ‖r‖²)                1: all of it in the fastest mode; √ρ_K = ‖Jᵀr‖ / (σ_1 ‖r‖)
    L(n) = Σ_i L_i v_i² / Σ v_i²             the share of a target that kernel regression on n images learns,
                                             L_i = λ_i / (λ_i + κ)

Beside each stand vectors of random direction. Nothing is decomposed: Lanczos steps from a vector give its energy over
the eigenvalues as a Gauss quadrature (:meth:`~genkernel.tangent.TangentOperator.spectral_measures`).
The images are to be such that the network was not trained on: on training images a small Jᵀr is what training means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.pairs import grid
from genkernel.errors import InputError
from genkernel.spectra.results import ResidualSpectra
from genkernel.tangent import operator
from genkernel.tangent.spectral import SpectralMeasure

if TYPE_CHECKING:
    from genkernel.diffusion.denoiser import Denoiser

Array = NDArray[np.float64]

TOLERANCES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
FOLDS = 2  # halves of the images, each with a kernel of its own
RANDOM = 3  # vectors of random direction beside the residual
ROOM = 4  # the kernel has to be of this many times as many images as regression learns from


def residual_spectra(
    den: Denoiser,
    images: Tensor,
    timesteps: Sequence[float],
    *,
    steps: int = 30,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    tick: Callable[[], object] = lambda: None,
) -> ResidualSpectra:
    """The null-space energy of the residual and the learnability of the target, level by level.

    Args:
        den: the denoiser.
        images: ``[m, C, H, W]`` in [0, 1], at least 4 that the network was not trained on; half of them are behind each
            kernel.
        timesteps: the levels.
        steps: Lanczos steps: more resolve smaller tolerances.
        seed: of the noise and of the random directions.
        dtype, memory: as for :func:`genkernel.operator`.
        tick: called once per level and half.

    Raises:
        InputError: too few images, levels out of range.
        NonFiniteError, BatchCouplingError, RandomOutputError, CaptureError: from the engine.
    """
    fold = len(images) // FOLDS
    if fold < 2:
        raise InputError(f"residuals are looked at on two halves of the images: give at least 4, not {len(images)}")
    times = [float(t) for t in timesteps]
    levels = den.schedule.check(torch.tensor(times, dtype=torch.float64))
    learn = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n * ROOM <= fold] or [max(1, fold // ROOM)]
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[list[Array]]] = {}
    rows = 0
    for t in times:
        of_level: dict[str, list[Array]] = {}
        for half in range(FOLDS):
            part = images[half * fold : (half + 1) * fold]
            # noise is keyed by the image's place: the second half takes draws of its own
            pairs = grid(den, part, [t], seed, draw=half)
            batch = pairs.loss_batch(den)
            target = batch.pop("target").double().cpu().reshape(-1)
            batch.pop("weight")
            op = operator(den.tangent, batch, dtype=dtype, memory=memory, progress=False)
            output = den.tangent.forward(batch).double().cpu().reshape(-1)
            residual, rows = output - target, len(target)
            noise = torch.randn(rows, RANDOM, generator=draw, dtype=torch.float64)
            columns = torch.cat([torch.stack([residual, target, output], 1), noise], 1)
            if not bool(columns.square().sum(0).gt(0).all()):
                raise InputError(
                    f"the residual, the target or the output is exactly zero at level {t:g}: there is nothing to "
                    "spread over eigenvalues"
                )
            for name, value in _read(op.spectral_measures(columns, steps), rows, fold, learn).items():
                of_level.setdefault(name, []).append(value)
            of_level.setdefault("loss", []).append(np.array(float(residual.square().mean())))
            tick()
        for name, values in of_level.items():
            found.setdefault(name, []).append(values)
    mean = {name: np.array(values).mean(1) for name, values in found.items()}
    error = {name: np.array(values).std(1, ddof=1) / FOLDS**0.5 for name, values in found.items()}
    return ResidualSpectra(
        timesteps=np.array(times),
        log_snr=den.schedule.log_snr(levels).numpy(),
        tolerances=np.array(TOLERANCES),
        residual=mean["residual"],
        residual_stderr=error["residual"],
        random=mean["random"],
        rayleigh=mean["rayleigh"],
        rayleigh_stderr=error["rayleigh"],
        rayleigh_random=mean["rayleigh_random"],
        loss=mean["loss"],
        top=mean["top"],
        images=np.array(learn),
        target=mean["target"],
        target_stderr=error["target"],
        rest=mean["rest"],
        rest_stderr=error["rest"],
        output=mean["output"],
        chance=mean["chance"],
        evaluated=fold,
        rows=rows,
        steps=steps,
    )


def _read(measures: list[SpectralMeasure], rows: int, images: int, learn: list[int]) -> dict[str, Array]:
    """What is read off the measures of residual, target, output, and random vectors of one kernel."""
    residual, target, output, *random = measures
    top = max(float(one.nodes[0]) for one in measures)
    # each image gives rows/images equations: the eigenvalues of the operator are those of K over rows
    kappas = [rows * _kappa(random, rows, n * rows / images) for n in learn]

    def learned(one: SpectralMeasure) -> Array:
        nodes = one.nodes.clamp_min(0)
        return np.array([float((one.weights * nodes / (nodes + kappa)).sum()) for kappa in kappas])

    return {
        "residual": _null(residual, top, rows),
        "random": np.mean([_null(one, top, rows) for one in random], 0),
        "rayleigh": np.array(residual.mean(lambda nodes: nodes) / top),
        "rayleigh_random": np.mean([one.mean(lambda nodes: nodes) / top for one in random], 0),
        "top": np.array(top / rows),
        "target": learned(target),
        "rest": learned(residual),
        "output": learned(output),
        "chance": np.mean([learned(one) for one in random], 0),
    }


def _null(measure: SpectralMeasure, top: float, rows: int) -> Array:
    """E_null(τ) ``[T]``; NaN below the smallest node, unless there are as many as rows: energy may be further down."""
    least = float(measure.nodes[measure.weights > 0].min()) if len(measure.nodes) < rows else 0.0
    return np.array([measure.below(t**2 * top) if t**2 * top >= least else np.nan for t in TOLERANCES])


def _kappa(random: list[SpectralMeasure], rows: int, equations: float) -> float:
    """κ with Σ_i λ_i / (λ_i + κ) = equations, the sum over all eigenvalues λ of K/rows by random vectors."""
    from scipy.optimize import brentq

    nodes = torch.cat([one.nodes for one in random]).clamp_min(0) / rows
    weights = torch.cat([one.weights for one in random]) / len(random)

    def excess(log_kappa: float) -> float:
        return rows * float((weights * nodes / (nodes + np.exp(log_kappa))).sum()) - equations

    high = float(np.log(float((weights * nodes).sum()) * rows / equations))
    low = high
    while excess(low) < 0:
        low -= 3
        if low < high - 600:
            return 0.0
    return float(np.exp(brentq(excess, low, high + 1e-9, xtol=1e-12)))

"""What a denoiser's kernel can still learn at each noise level, and what it cannot.

At every level alone, over the outputs of m images, n·O rows (Theorem 3.8 of Guo, He, Morel; THEORY §5):

    r = f(x_t) - target                      the residual; its energy over the eigenvalues λ of K = J Jᵀ
    E_null(τ)                                the share of ‖r‖² in modes with λ ≤ τ² λ_1
    ρ_K = rᵀ K r / (λ_1 ‖r‖²)                1: all of it in the fastest mode; √ρ_K = ‖Jᵀr‖ / (σ_1 ‖r‖)
    R² = 1 - ‖v_B - K_BA (K_AA + δ I)⁻¹ v_A‖² / ‖v_B‖²      how much of a target v is learned from other images

Beside the energies stand those of vectors of random direction; their R² is 0 in the mean. No matrix is made: Lanczos
steps from a vector give its energy over the eigenvalues as a Gauss quadrature
(:meth:`~genkernel.tangent.TangentOperator.spectral_measures`), and conjugate gradients the regression. Give images that
the network was not trained on: on training images a small Jᵀr is what training means.

Learnability is measured from images to other images, not predicted from eigenvalues: eigenlearning takes every equation
for a sample of its own, and pixels of one image are not. Counted so, one image was to teach .76 of the shipped
denoiser's residual at timestep 182; regressions on one of four images taught .20 of it (docs/spectra.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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
RIDGE = 1e-3  # of the regressions, relative to λ_1: modes below it are as good as out of reach


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
    """The null-space energy of the residual, and what is learned of target and residual, level by level.

    Args:
        den: the denoiser.
        images: ``[m, C, H, W]`` in [0, 1], at least 4 that the network was not trained on; half of them are behind each
            kernel.
        timesteps: the levels.
        steps: Lanczos steps: more resolve smaller tolerances.
        seed: of the noise and of the random directions.
        dtype, memory: as for :func:`genkernel.operator`.
        tick: called twice per level and half.

    Raises:
        InputError: too few images, levels out of range.
        NonFiniteError, BatchCouplingError, RandomOutputError, CaptureError: from the engine.
    """
    fold = len(images) // FOLDS
    if fold < 2:
        raise InputError(f"residuals are looked at on two halves of the images: give at least 4, not {len(images)}")
    times = [float(t) for t in timesteps]
    levels = den.schedule.check(torch.tensor(times, dtype=torch.float64))
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[list[Array]]] = {}
    rows = 0
    for t in times:
        halves = [_Half(den, images[h * fold : (h + 1) * fold], t, seed, h, dtype, memory) for h in range(FOLDS)]
        rows = len(halves[0].vectors)
        read: list[dict[str, Array]] = []
        for half in halves:
            noise = torch.randn(rows, RANDOM, generator=draw, dtype=torch.float64)
            read.append(half.energies(noise, steps))
            tick()
        for half, other, own in zip(halves, reversed(halves), read, strict=True):
            own.update(half.explained_at(other, steps, RIDGE * rows * float(own["top"])))
            tick()
        for name in read[0]:
            found.setdefault(name, []).append([own[name] for own in read])
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
        target=mean["target"],
        target_stderr=error["target"],
        output=mean["output"],
        output_stderr=error["output"],
        rest=mean["rest"],
        rest_stderr=error["rest"],
        ridge=RIDGE,
        unsolved=np.array(found["unsolved"]).max(1),
        evaluated=fold,
        rows=rows,
        steps=steps,
    )


class _Half:
    """Half of the images at one noise level, with their kernel."""

    def __init__(self, den: Denoiser, images: Tensor, t: float, seed: int, number: int, dtype: Any, memory: str | int):
        # noise is keyed by the image's place: each half takes draws of its own
        self.batch = grid(den, images, [t], seed, draw=number).loss_batch(den)
        target = self.batch.pop("target").double().cpu().reshape(-1)
        self.batch.pop("weight")
        self.den, self.options = den, {"dtype": dtype, "memory": memory, "progress": False}
        self.operator = operator(den.tangent, self.batch, **self.options)
        output = den.tangent.forward(self.batch).double().cpu().reshape(-1)
        self.vectors = torch.stack([output - target, target, output], 1)
        if not bool(self.vectors.square().sum(0).gt(0).all()):
            raise InputError(
                f"the residual, the target or the output is exactly zero at level {t:g}: there is nothing to spread "
                "over eigenvalues"
            )

    def energies(self, random: Tensor, steps: int) -> dict[str, Array]:
        """The residual over the eigenvalues, beside random directions ``[rows, c]``."""
        rows = len(self.vectors)
        measures = self.operator.spectral_measures(torch.cat([self.vectors[:, :1], random], 1), steps)
        residual, *others = measures
        top = max(float(one.nodes[0]) for one in measures)
        return {
            "residual": _null(residual, top, rows),
            "random": np.mean([_null(one, top, rows) for one in others], 0),
            "rayleigh": np.array(residual.mean(lambda nodes: nodes) / top),
            "rayleigh_random": np.mean([one.mean(lambda nodes: nodes) / top for one in others], 0),
            "top": np.array(top / rows),
            "loss": np.array(float(self.vectors[:, 0].square().mean())),
        }

    def explained_at(self, other: _Half, steps: int, ridge: float) -> dict[str, Array]:
        """R² at the other half of regressions on this one."""
        solved = self.operator.solve(self.vectors, ridge, steps=steps)
        predicted = operator(self.den.tangent, other.batch, self.batch, **self.options) @ solved.values
        missed = (other.vectors - predicted).square().sum(0) / other.vectors.square().sum(0)
        rest, target, output = (np.array(1 - share) for share in missed.tolist())
        return {"rest": rest, "target": target, "output": output, "unsolved": np.array(float(solved.residuals.max()))}


def _null(measure: SpectralMeasure, top: float, rows: int) -> Array:
    """E_null(τ) ``[T]``; NaN below the smallest node, unless there are as many as rows: energy may be further down."""
    least = float(measure.nodes[measure.weights > 0].min()) if len(measure.nodes) < rows else 0.0
    return np.array([measure.below(t**2 * top) if t**2 * top >= least else np.nan for t in TOLERANCES])

"""What is said of a spectrum: numbers only, with the names of ``summary.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.runs import json_ready
from genkernel.spectra.spectrum import Spectrum

SCHEMA_VERSION = 1

UNSOLVED = 0.1  # relative residual up to which a regression counts as solved: at most 1 % of the square is unexplained

Array = NDArray[np.float64]


@dataclass
class ResidualSpectra:
    """What is left to learn, by noise level: means over two halves of the images.

    With two halves a standard error is half of their difference: the bar from one to the other, and no 95 % interval.

    Attributes:
        timesteps, log_snr: of the levels ``[L]``.
        tolerances: τ, relative to the largest singular value ``[T]``.
        residual, residual_stderr: E_null(τ) of the residual ``[L, T]``; NaN where the steps do not reach down to τ.
        random: E_null(τ) of vectors of random direction ``[L, T]``.
        rayleigh, rayleigh_stderr: ρ_K of the residual ``[L]``.
        rayleigh_random: of random directions ``[L]``.
        loss: mean squared residual per output ``[L]``.
        top: λ_1 over the number of rows ``[L]``.
        target, target_stderr: R² of kernel ridge regression of the target, from one half of the images to the other
            ``[L]``; negative where it is worse than zero.
        output, output_stderr: the same of the network's own output ``[L]``.
        rest, rest_stderr: the same of the residual: what other images would take away of it ``[L]``.
        ridge: of these regressions, relative to λ_1.
        unsolved: relative residual at which their iteration was stopped, the largest of a level ``[L]``.
        evaluated: images behind each kernel.
        rows: outputs behind each kernel.
        steps: of Lanczos for the energies, and of conjugate gradients for the regressions.
    """

    timesteps: Array
    log_snr: Array
    tolerances: Array
    residual: Array
    residual_stderr: Array
    random: Array
    rayleigh: Array
    rayleigh_stderr: Array
    rayleigh_random: Array
    loss: Array
    top: Array
    target: Array
    target_stderr: Array
    output: Array
    output_stderr: Array
    rest: Array
    rest_stderr: Array
    ridge: float
    unsolved: Array
    evaluated: int
    rows: int
    steps: int

    @property
    def converged(self) -> NDArray[np.bool_]:
        """At which levels the regressions were solved, to a relative residual of ``UNSOLVED`` ``[L]``."""
        found: NDArray[np.bool_] = self.unsolved <= UNSOLVED
        return found


@dataclass
class SpectrumResult:
    """What was read off one kernel.

    Attributes:
        spectrum: of the kernel.
        of: what groups are: ``"noise level"``, ``"latent cluster"``, ``"group"``.
        timesteps, log_snr: of the groups where they are noise levels ``[G]``; else None.
        discrete: timesteps are whole numbers.
        residual: where a denoiser was given.
        meta: model, seeds, dtype, probes, number of samples; ``reading``: what the numbers say, in sentences.
    """

    spectrum: Spectrum
    of: str = "group"
    timesteps: Array | None = None
    log_snr: Array | None = None
    discrete: bool = True
    residual: ResidualSpectra | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def to_summary(self) -> dict[str, Any]:
        """Everything machine-readable, JSON-ready."""
        one = self.spectrum
        summary: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": "spectrum",
            "reading": self.meta.get("reading", []),
            "samples": one.samples,
            "outputs": one.outputs,
            "normalized": one.normalized,
            "eigenvalues": one.eigenvalues,
            "stderr": one.stderr,
            "floor": one.floor,
            "trace": one.trace,
            "rank": one.rank,
            "effective_rank": one.effective_rank,
            "effective_rank_stderr": one.effective_rank_stderr,
            "groups": None if one.groups is None else {"of": self.of, **vars(one.groups)},
            "levels": None if self.timesteps is None else {"timesteps": self.timesteps, "log_snr": self.log_snr},
            "targets": None if one.targets is None else vars(one.targets),
            "residual": None
            if self.residual is None
            else {**vars(self.residual), "converged": self.residual.converged},
        }
        ready: dict[str, Any] = json_ready(summary)
        return ready

"""What one seed of the contrast gives."""

from __future__ import annotations

from dataclasses import dataclass

from genkernel.experiments.contrast.coupling import Coupled


@dataclass
class Found:
    """Everything of one seed.

    Attributes:
        seed: of initialisation, data and batches.
        by: (model, blocks) → when → contributions: ``"first"`` and ``"last"`` tenth, ``"whole"``, and single steps at
            the ``"start"`` and at the ``"end"``; of some also ``"start, Adam"`` and the like, with the names of
            :data:`genkernel.experiments.contrast.setting.STEPS`.
        coverage: of the two GANs, covered modes and share of good samples.
        losses: of the denoiser and of the regression on fresh samples, before and after.
        parameters: of the denoiser and of the generator.
    """

    seed: int
    by: dict[tuple[str, str], dict[str, Coupled]]
    coverage: dict[str, tuple[int, float]]
    losses: dict[str, tuple[float, float]]
    parameters: dict[str, int]

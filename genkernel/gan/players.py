"""What an analysis asks of both players together: the discriminator's own kernel, and the eigenvalues of the game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import BatchCouplingError, CaptureError, ConvergenceError
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.game import DiscriminatorKernel, GameJacobian, discriminator_kernel, game_spectrum
from genkernel.gan.generator import Generator
from genkernel.gan.losses import Loss
from genkernel.gan.results import GameReport
from genkernel.gan.stages import Real
from genkernel.tangent import batches

JUDGED = 128  # samples of each kind in the discriminator's kernel
PLAYED = 256  # latents, and real samples, in the game
# of both players in the game. Some hundred products with its Jacobian take 2 to 6 seconds for perceptrons of 17,000
MOST_PARAMETERS = 50_000


def judged_alike(
    discriminator: Discriminator,
    samples: Tensor,
    told: Tensor | None,
    real: Real,
    missing: list[str],
    *,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
) -> DiscriminatorKernel | None:
    """The discriminator's kernel between (at most 128) real samples and as many generated ones.

    Args:
        samples: generated ``[n, *out]``, as independent as their latents; the first of them are taken.
        told: their labels, for a conditional discriminator; real: with labels for such a one.
        missing: gets a sentence where the discriminator has no such kernel.
    """
    few = real.take(JUDGED, seed)
    try:
        return discriminator_kernel(
            discriminator, few.samples, samples[:JUDGED], labels=None if told is None else told[:JUDGED],
            real_labels=None if discriminator.classes is None else few.labels, seed=seed, dtype=dtype, memory=memory,
        )  # fmt: skip
    except BatchCouplingError as error:
        missing.append(f"the discriminator has no kernel of its own: {error}")
        return None


def play(
    generator: Generator,
    discriminator: Discriminator,
    batch: dict[str, Any],
    real: Real,
    loss: str | Loss,
    missing: list[str],
    options: Mapping[str, Any],
    seed: int = 0,
) -> GameReport | None:
    """Eigenvalues of the game on (at most 256) latents and as many real samples, for players of up to 50,000
    parameters together.

    Args:
        options: further ones of :class:`~genkernel.gan.game.GameJacobian`: ``r1``, ``rates``, ``discriminator_loss``.
        missing: gets a sentence where there are too many parameters, the loss is not known, a network cannot be
            differentiated twice, or the iterations do not converge.

    Raises:
        InputError: samples, labels or options do not fit.
        NonFiniteError: a loss or its gradient is NaN or infinite.
    """
    size = generator.parameters + sum(p.numel() for p in discriminator.tangent.parameters.values())
    if size > MOST_PARAMETERS:
        missing.append(
            f"the eigenvalues of the game are for players of up to {MOST_PARAMETERS:,} parameters together: these have "
            f"{size:,}"
        )
        return None
    if callable(loss) and "discriminator_loss" not in options:
        missing.append("the eigenvalues of the game need discriminator_loss where the generator's loss is a function")
        return None
    n = min(PLAYED, batches.size(batch))
    few = real.take(n, seed)
    try:
        jacobian = GameJacobian(
            generator, discriminator, batches.take(batch, slice(0, n)), few.samples, loss,
            real_labels=None if discriminator.classes is None else few.labels, **options,
        )  # fmt: skip
        found = game_spectrum(jacobian, seed=seed)
    except (CaptureError, ConvergenceError) as error:
        missing.append(f"the eigenvalues of the game were not found: {error}")
        return None
    return GameReport(
        eigenvalues=np.stack([found.eigenvalues.real, found.eigenvalues.imag], 1),
        exact=found.exact,
        abscissa=found.abscissa,
        oscillation=found.oscillation,
        stable_step=found.stable_step,
        generator_field=found.field_norms[0],
        discriminator_field=found.field_norms[1],
        generator_loss=jacobian.losses[0],
        discriminator_loss=jacobian.losses[1],
        parameters=size,
        latents=n,
        real=len(few.samples),
    )

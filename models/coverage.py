"""How many modes generated samples reach: the plain count beside which every other sign of collapse is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import InputError

FAIR = 0.1  # a mode is covered from this part of its fair share on, so that single strays do not count


@dataclass(frozen=True)
class Coverage:
    """Samples per mode.

    Attributes:
        modes: number of modes covered: those with at least a tenth of the samples (and at least one) that they would
            have if all samples were good and modes were equally likely.
        of: number of modes that there are.
        share: part of the samples that are good, 0 … 1.
        effective: e^H of the good samples' modes, the effective number of equally likely modes; 0 without any.
        counts: good samples of every mode.
        samples: number of samples that were looked at.
    """

    modes: int
    of: int
    share: float
    effective: float
    counts: list[int]
    samples: int

    def __str__(self) -> str:
        return f"{self.modes} of {self.of} modes, {self.share:.1%} good samples, {self.effective:.1f} effective modes"


def count_modes(nearest: Tensor, good: Tensor, of: int) -> Coverage:
    """Coverage from the mode that every sample belongs to.

    Args:
        nearest: the samples' modes, whole numbers 0 … ``of`` - 1, ``[n]``.
        good: whether a sample is good enough to count for it, bool ``[n]``.
        of: number of modes.

    Raises:
        InputError: no samples, or another number of marks than of samples.
    """
    if not len(nearest) or nearest.shape != good.shape:
        raise InputError(f"coverage takes one mode and one mark per sample, not {len(nearest)} and {len(good)}")
    counts = torch.bincount(nearest[good].cpu(), minlength=of)
    needed = max(1.0, FAIR * len(nearest) / of)
    total = int(counts.sum())
    p = counts[counts > 0].double() / max(1, total)
    return Coverage(
        modes=int((counts >= needed).sum()),
        of=of,
        share=total / len(nearest),
        effective=math.exp(float(-(p * p.log()).sum())) if total else 0.0,
        counts=counts.tolist(),
        samples=len(nearest),
    )

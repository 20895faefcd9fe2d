"""Gaussian mixtures in the plane on which mode collapse can be counted: a ring of 8 and a grid of 25.

Both are the usual ones: Metz et al., "Unrolled generative adversarial networks" (2017), and Srivastava et al.,
"VEEGAN" (2017), whose measure of a good sample (within three standard deviations of a mode) is used as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.models.coverage import Coverage, count_modes

GOOD = 3.0  # standard deviations from a mode; of the mixture itself 98.9 % of the samples are as near


@dataclass(frozen=True)
class Mixture:
    """Equally likely round Gaussians.

    Attributes:
        centres: of the M modes, M points (x, y).
        std: standard deviation along each axis, the same for all modes.
    """

    centres: tuple[tuple[float, float], ...]
    std: float

    @property
    def modes(self) -> Tensor:
        """The centres, float32 ``[M, 2]``."""
        return torch.tensor(self.centres)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Samples ``[n, 2]`` float32, with the random numbers of ``generator`` (on the CPU)."""
        chosen = torch.randint(len(self.centres), (n,), generator=generator)
        return self.modes[chosen] + self.std * torch.randn(n, 2, generator=generator)

    def coverage(self, samples: Tensor) -> Coverage:
        """Modes covered by samples ``[n, 2]``; good is a sample within 3 standard deviations of its nearest mode.

        Raises:
            InputError: the samples are no points of the plane.
        """
        if samples.dim() != 2 or samples.shape[1] != 2:
            raise InputError(f"samples of a planar mixture have shape [n, 2], not {tuple(samples.shape)}")
        distance, nearest = torch.cdist(samples.detach().double().cpu(), self.modes.double()).min(1)
        return count_modes(nearest, distance <= GOOD * self.std, len(self.centres))


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.05) -> Mixture:
    """Modes at equal distances on a circle around the origin."""
    angles = [2 * math.pi * k / modes for k in range(modes)]
    return Mixture(tuple((radius * math.cos(a), radius * math.sin(a)) for a in angles), std)


def grid(side: int = 5, spacing: float = 1.0, std: float = 0.05) -> Mixture:
    """``side`` × ``side`` modes around the origin."""
    ticks = [spacing * (k - (side - 1) / 2) for k in range(side)]
    return Mixture(tuple((x, y) for x in ticks for y in ticks), std)


MIXTURES = {"ring": ring, "grid": grid}

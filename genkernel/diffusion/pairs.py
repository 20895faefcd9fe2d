"""Noisy pairs: the grid of (noise level, image) samples that a kernel is evaluated on.

Sample ``a * images + i`` is image i at level a (level-major order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.noise import keyed_noise_batch

if TYPE_CHECKING:
    from genkernel.diffusion.denoiser import Denoiser


@dataclass
class Grid:
    """Noisy samples of every image at every level, N = levels × images.

    Attributes:
        x0: clean images in the model's data range ``[N, C, H, W]``.
        noise, x_t: the noise and the noisy images ``[N, C, H, W]``.
        t: the level of each x_t, float64 ``[N]``, on the CPU.
        level_of, image_of: index arrays ``[N]``.
    """

    x0: Tensor
    noise: Tensor
    x_t: Tensor
    t: Tensor
    level_of: NDArray[np.int64]
    image_of: NDArray[np.int64]

    @property
    def levels(self) -> int:
        return int(self.level_of[-1]) + 1

    @property
    def images(self) -> int:
        return int(self.image_of[-1]) + 1

    @property
    def rows(self) -> Tensor:
        """The image of each sample, for conditioning that comes per image."""
        return torch.from_numpy(self.image_of)

    def batch(self, den: Denoiser, t: Tensor | None = None) -> dict[str, Any]:
        """The samples as the denoiser's batch, told the times ``t`` ``[N]`` instead of their own if given."""
        return den.batch(self.x_t, self.t if t is None else t, scale_t=self.t, rows=self.rows)

    def loss_batch(self, den: Denoiser) -> dict[str, Any]:
        """The samples with their targets, for ``den.loss_cotangent()``."""
        return den.loss_batch(self.x0, self.noise, self.t, rows=self.rows)


def grid(
    den: Denoiser,
    images: Tensor,
    timesteps: Sequence[float] | NDArray[np.float64],
    seed: int,
    *,
    draw: int = 0,
    same_noise: bool = False,
) -> Grid:
    """Every image at every level with noise keyed by (seed, image, level).

    Args:
        den: the denoiser whose schedule and data range apply.
        images: ``[n, C, H, W]`` in [0, 1].
        timesteps: levels ``[L]``.
        draw: another independent noise for the same keys.
        same_noise: key the noise by (seed, image) alone, so that one image has one noise at all levels.
    """
    times = [float(t) for t in timesteps]
    count = images.shape[0]
    level_of = np.repeat(np.arange(len(times)), count)
    image_of = np.tile(np.arange(count), len(times))
    clean = den.prepare(images)
    x0 = clean.repeat((len(times),) + (1,) * (clean.dim() - 1))
    levels = None if same_noise else [times[a] for a in level_of]
    noise = keyed_noise_batch(tuple(clean.shape[1:]), seed, image_of.tolist(), levels, draw, dtype=x0.dtype).to(
        x0.device
    )
    t = torch.tensor(times, dtype=torch.float64)[torch.from_numpy(level_of)]
    return Grid(x0, noise, den.noisy(x0, t, noise), t, level_of, image_of)

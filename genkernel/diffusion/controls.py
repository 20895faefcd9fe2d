"""Controls of the locality of the kernel: each replaces one factor (THEORY §6).

| control | input x | time the network is told | pairs |
|---|---|---|---|
| (main kernel) | every level, own noise per (image, level) | its own level | different images |
| same image, same noise | every level, one noise per image | its own level | same image; with itself on the diagonal |
| same image, other noise | every level, two independent noises | its own level | same image, first noise × second |
| other image, same level | as the main kernel | as the main kernel | different images, equal levels |
| embedding only | one mid level | varies | different images |
| input only | every level | one mid level | different images |
| shuffled levels | every level | a level drawn by a permutation of its own for each image | different images |
| untrained | as the main kernel | its own level | different images; freshly initialised network |

Where pairs are of different images the ceilings are comparable with the main kernel's. Levels on
the matrix axes are those that vary: of the input, except for "embedding only". A permutation per
image (rather than one for all) makes equal levels share nothing but the input's level, so the profile
goes flat *including lag zero* if, and only if, the embedding carries the locality.

x_t itself reveals σ_t, so "input only" also tells the network's own sense of the level from its
sense of the image. All controls may use fewer images than the main kernel; comparisons with it are
then made over the images they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.locality import level_kernel
from genkernel.diffusion.noise import keyed_noise
from genkernel.diffusion.pairs import Grid, grid
from genkernel.diffusion.resampling import DIFFERENT, SAME, Estimate, bootstrap_stderr, jackknife_stderr, quadrature
from genkernel.diffusion.results import LevelKernel, Levels, SameLevel

if TYPE_CHECKING:
    from genkernel.diffusion.denoiser import Denoiser

Index = NDArray[np.int64]
Compute = Callable[..., Any]  # (batch, other batch or None) -> engine Kernel

_PERMUTATION_DRAW = 1_000_000  # keys the permutations apart from the noise


def mid_level(levels: Levels) -> int:
    """Index of the level whose log-SNR is closest to 0: as much signal as noise."""
    distance = np.abs(np.where(np.isfinite(levels.log_snr), levels.log_snr, np.inf))
    return int(distance.argmin())


class Controls:
    """Computes the controls of one denoiser on given images and levels.

    Args:
        den: the denoiser.
        images: ``[n, C, H, W]`` in [0, 1].
        levels: the levels.
        compute: ``(batch, other=None) -> Kernel`` with the cotangents, dtype and memory of the main kernel.
        seed, bootstrap: as for the main kernel.
    """

    def __init__(
        self, den: Denoiser, images: Tensor, levels: Levels, compute: Compute, *, seed: int, bootstrap: int = 200
    ):
        self.den, self.images, self.levels, self.compute = den, images, levels, compute
        self.seed, self.bootstrap = seed, bootstrap
        self.main = grid(den, images, levels.timesteps, seed)
        self.mid = mid_level(levels)

    def _read(self, kernel: Any, description: str, *, pairs: str = DIFFERENT) -> LevelKernel:
        return level_kernel(
            Estimate(kernel, normalize=True),
            self.main.level_of,
            self.main.image_of,
            self.levels,
            bootstrap=self.bootstrap,
            seed=self.seed,
            pairs=pairs,
            description=description,
        )

    def same_image_same_noise(self) -> LevelKernel:
        pairs = grid(self.den, self.images, self.levels.timesteps, self.seed, same_noise=True)
        kernel = self.compute(pairs.batch(self.den))
        return self._read(kernel, "the same image with the same noise; 1 on the diagonal", pairs=SAME)

    def same_image_other_noise(self) -> LevelKernel:
        other = grid(self.den, self.images, self.levels.timesteps, self.seed, draw=1)
        kernel = self.compute(self.main.batch(self.den), other.batch(self.den))
        return self._read(kernel, "the same image with independent noise", pairs=SAME)

    def embedding_only(self) -> LevelKernel:
        """x of the mid level for every conditioning time."""
        pairs = grid(self.den, self.images, self.levels.timesteps[[self.mid]], self.seed)
        size = len(self.levels.timesteps)

        def every_level(part: Tensor) -> Tensor:
            return part.repeat((size,) + (1,) * (part.dim() - 1))

        fixed = Grid(
            x0=every_level(pairs.x0),
            noise=every_level(pairs.noise),
            x_t=every_level(pairs.x_t),
            t=every_level(pairs.t),
            level_of=self.main.level_of,
            image_of=self.main.image_of,
        )
        kernel = self.compute(fixed.batch(self.den, self.main.t))
        t = self.levels.timesteps[self.mid]
        return self._read(kernel, f"different images, inputs held at t = {t:g}, the network told each level")

    def input_only(self) -> LevelKernel:
        t = float(self.levels.timesteps[self.mid])
        kernel = self.compute(self.main.batch(self.den, torch.full_like(self.main.t, t)))
        return self._read(kernel, f"different images, inputs of each level, the network always told t = {t:g}")

    def shuffled_levels(self) -> LevelKernel:
        order = permutations(len(self.levels.timesteps), self.images.shape[0], self.seed)
        told = self.levels.timesteps[order[self.main.image_of, self.main.level_of]]
        kernel = self.compute(self.main.batch(self.den, torch.tensor(told, dtype=torch.float64)))
        return self._read(kernel, "different images, each told its levels in an order of its own")

    def main_kernel(self, description: str) -> LevelKernel:
        """The main kernel on these images (for an untrained denoiser, say)."""
        return self._read(self.compute(self.main.batch(self.den)), description)


def permutations(count: int, images: int, seed: int) -> Index:
    """A random permutation of the levels for each image, ``[images, count]``, keyed by (seed, image)."""
    keys = [keyed_noise((count,), seed, image, draw=_PERMUTATION_DRAW).numpy() for image in range(images)]
    return np.argsort(np.array(keys).reshape(images, count), axis=1, kind="stable")


def other_image_same_level(kernel: LevelKernel, levels: Levels) -> SameLevel:
    """The diagonal of a kernel over different images, and its average over the levels."""
    matrix = kernel.matrix
    average_stderr = np.array(np.nan)
    if kernel.matrix_bootstrap is not None:
        boot = np.einsum("raa->ra", kernel.matrix_bootstrap).mean(1)
        jack = kernel.matrix_jackknife
        over_probes = None if jack is None else jackknife_stderr(np.einsum("raa->ra", jack).mean(1))
        average_stderr = quadrature(bootstrap_stderr(boot, kernel.images), over_probes)
    return SameLevel(
        timesteps=levels.timesteps,
        mean=np.diagonal(matrix).copy(),
        stderr=np.diagonal(kernel.stderr).copy(),
        average=float(np.diagonal(matrix).mean()),
        average_stderr=float(average_stderr),
    )

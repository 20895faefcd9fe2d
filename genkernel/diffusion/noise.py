"""Noise keyed by what it belongs to: (seed, image, level, draw).

The same key gives the same numbers whatever the batch looks like and whichever other images and
levels are asked for, so every comparison is paired. A level is keyed by its timestep *value*,
not by its position in a list: a subset of levels sees the same noise as the whole.

Counter-based bits (Philox, whose stream numpy keeps stable) become normal variates by the
Box–Muller transform, so the numbers do not depend on numpy's or torch's normal samplers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError

_TAG = 0x67656E6B  # separates these streams from other uses of the same seed


def keyed_noise(
    shape: Sequence[int],
    seed: int,
    image: int,
    level: float | None = None,
    draw: int = 0,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Standard normal noise for one image at one level.

    Args:
        shape: shape of one sample.
        seed: of the experiment, any integer ≥ 0.
        image: index of the image, ≥ 0.
        level: timestep; None keys the noise by (seed, image) alone: the same noise at every level.
        draw: 0, 1, … for several independent noises of one (image, level).
        dtype: the float64 variates are rounded to it, so all dtypes see the same noise.

    Returns:
        Tensor: ``[*shape]`` on the CPU.

    Raises:
        InputError: seed, image or draw is negative, or the level is not finite.
    """
    if min(seed, image, draw) < 0:
        raise InputError(f"noise is keyed by integers ≥ 0, not by seed {seed}, image {image}, draw {draw}")
    if level is not None and not math.isfinite(level):
        raise InputError(f"noise is keyed by a finite timestep, not {level}")
    # + 0.0 turns -0.0 into 0.0; 250 and 250.0 are one level
    level_key = (0, 0, 0) if level is None else (1, *struct.unpack("<II", struct.pack("<d", float(level) + 0.0)))
    bits = np.random.Philox(np.random.SeedSequence([_TAG, *_words(seed), *_words(image), *level_key, *_words(draw)]))
    count = math.prod(shape)
    half = (count + 1) // 2
    raw = bits.random_raw(2 * half)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    radius = np.sqrt(-2.0 * np.log(uniform[:half]))
    angle = 2.0 * np.pi * uniform[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal).reshape(tuple(shape)).to(dtype)


def keyed_noise_batch(
    shape: Sequence[int],
    seed: int,
    images: Sequence[int],
    levels: Sequence[float] | None = None,
    draw: int = 0,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """:func:`keyed_noise` of each (image, level) pair, stacked to ``[n, *shape]``.

    ``levels=None`` gives each image one noise for all levels.
    """
    if levels is not None and len(levels) != len(images):
        raise InputError(f"{len(images)} images need as many levels, not {len(levels)}")
    keys = [None] * len(images) if levels is None else [float(level) for level in levels]
    found: dict[tuple[int, float | None], Tensor] = {}
    for image, level in zip(images, keys, strict=True):
        if (image, level) not in found:
            found[image, level] = keyed_noise(shape, seed, int(image), level, draw, dtype=dtype)
    stacked = [found[image, level] for image, level in zip(images, keys, strict=True)]
    return torch.stack(stacked) if stacked else torch.empty((0, *shape), dtype=dtype)


def _words(value: int) -> tuple[int, ...]:
    """A non-negative integer as its number of 32-bit words and the words: no two keys run together."""
    words = [(value >> shift) & 0xFFFFFFFF for shift in range(0, max(value.bit_length(), 1), 32)]
    return (len(words), *words)

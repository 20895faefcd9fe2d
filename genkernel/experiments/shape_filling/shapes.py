"""Planar shapes and their boundaries: branched ones, and harder ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError

Mask = NDArray[np.bool_]
INSIDE = 0.375  # of a pixel's area: means over 2 × 2 pixels are multiples of a quarter, and none is on the threshold


def shapes(kind: str, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boundaries and filled shapes, drawn at twice the size and averaged over 2 × 2 pixels.

    Args:
        kind: one of :data:`KINDS`.
        count: how many.
        size: height and width.
        seed: of the draw.

    Returns:
        Boundaries and shapes ``[count, 1, size, size]`` in [0, 1], float32.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"a kind of shape is one of {', '.join(KINDS)}, not {kind!r}")
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    found = np.stack([KINDS[kind](2 * size, draw) for _ in range(count)])
    edges = np.stack([boundary(one) for one in found])
    return halved(edges), halved(found)


def boundary(mask: Mask) -> Mask:
    """Pixels of a shape with one of their eight neighbours outside of it."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, np.ones((3, 3), dtype=bool))


def halved(masks: Mask) -> Tensor:
    """Means over 2 × 2 pixels, ``[n, 2 s, 2 s]`` to ``[n, 1, s, s]``."""
    whole = torch.from_numpy(masks.astype(np.float32))[:, None]
    return torch.nn.functional.avg_pool2d(whole, 2)


def intersection_over_union(outputs: Tensor, truth: Tensor) -> Tensor:
    """Of pixels above :data:`INSIDE` ``[n]``, for images ``[n, 1, s, s]``."""
    one, other = (outputs > INSIDE).flatten(1), (truth > INSIDE).flatten(1)
    return (one & other).sum(1) / (one | other).sum(1).clamp_min(1)


def _strokes(size: int, paths: list[NDArray[np.float64]], radius: list[float]) -> Mask:
    """Pixels within a radius of points along paths ``[k, 2]``; none on the image's border."""
    y, x = np.mgrid[:size, :size] + 0.5
    found = np.zeros((size, size), dtype=bool)
    for path, r in zip(paths, radius, strict=True):
        for a, b in pairwise(path):
            along = b - a
            t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(float(along @ along), 1e-9), 0, 1)
            found |= np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1]) <= r
    found[:2] = found[-2:] = False
    found[:, :2] = found[:, -2:] = False
    return found


def _solid(mask: Mask) -> Mask:
    """The largest connected part, with its holes filled."""
    from scipy.ndimage import binary_fill_holes, label

    parts, _ = label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    filled: Mask = binary_fill_holes(parts == sizes.argmax())
    return filled


def _tree(size: int, draw: np.random.Generator, branches: int, radius: tuple[float, float], reach: float) -> Mask:
    """A tree of straight thick branches, each from a random point of those before it."""
    low, high = 0.16 * size, 0.84 * size
    start = draw.uniform(0.35, 0.65, 2) * size
    paths: list[NDArray[np.float64]] = []
    widths: list[float] = []
    for _ in range(branches):
        if paths:
            trunk = paths[draw.integers(len(paths))]
            start = trunk[0] + draw.uniform(0.2, 1.0) * (trunk[1] - trunk[0])
        angle, length = draw.uniform(0, 2 * math.pi), draw.uniform(0.5, 1.0) * reach * size
        end = np.clip(start + length * np.array([math.cos(angle), math.sin(angle)]), low, high)
        paths.append(np.stack([start, end]))
        widths.append(size * draw.uniform(*radius))
    return _strokes(size, paths, widths)


def _branched(size: int, draw: np.random.Generator) -> Mask:
    return _solid(_tree(size, draw, int(draw.integers(2, 6)), (0.05, 0.1), 0.4))


def _more_branches(size: int, draw: np.random.Generator) -> Mask:
    return _solid(_tree(size, draw, int(draw.integers(14, 20)), (0.035, 0.06), 0.4))


def _several(size: int, draw: np.random.Generator) -> Mask:
    """Three or four small shapes of the training kind, which do not touch."""
    from scipy.ndimage import binary_dilation

    found = np.zeros((size, size), dtype=bool)
    half = size // 2
    for corner in draw.permutation(4)[: draw.integers(3, 5)]:
        part = np.zeros_like(found)
        row, column = divmod(int(corner), 2)
        part[row * half : (row + 1) * half, column * half : (column + 1) * half] = _solid(
            _tree(half, draw, int(draw.integers(2, 4)), (0.09, 0.14), 0.4)
        )
        if not (binary_dilation(part, iterations=2) & found).any():
            found |= part
    return found


def _large(size: int, draw: np.random.Generator) -> Mask:
    """One thick shape: a wide inside, far from its boundary."""
    return _solid(_tree(size, draw, int(draw.integers(2, 4)), (0.2, 0.28), 0.3))


def _spiral(size: int, draw: np.random.Generator) -> Mask:
    """An arm of constant width around the centre."""
    turns = draw.uniform(1.6, 2.2)
    angle = np.linspace(0.4, 2 * math.pi * turns, 80)
    r = 0.03 * size + angle * (0.4 * size - 0.03 * size) / (2 * math.pi * turns)
    angle = angle * (1 if draw.random() < 0.5 else -1) + draw.uniform(0, 2 * math.pi)
    path = np.stack([r * np.cos(angle), r * np.sin(angle)], 1) + size / 2
    return _strokes(size, [path], [0.052 * size])


def _nested(size: int, draw: np.random.Generator) -> Mask:
    """Rings in one another: between two contours the inside, then the outside, then again the inside."""
    y, x = np.mgrid[:size, :size] + 0.5
    centre = size / 2 + draw.uniform(-0.03, 0.03, 2) * size
    stretch = draw.uniform(0.85, 1.18)
    r = np.hypot((x - centre[0]) * stretch, (y - centre[1]) / stretch) / size
    thick, space = draw.uniform(0.09, 0.11), draw.uniform(0.06, 0.08)
    outer = draw.uniform(0.36, 0.4)
    found: Mask = ((r <= outer) & (r > outer - thick)) | (r <= outer - thick - space)
    return found


KINDS: dict[str, Callable[[int, np.random.Generator], Mask]] = {
    "branched": _branched,
    "more branches": _more_branches,
    "several": _several,
    "large": _large,
    "spiral": _spiral,
    "nested": _nested,
}

"""Where the samples are in a tensor: found by a probe, never assumed.

Most tensors carry the samples on axis 0. Others have them second ((T, N, C) attention), or
merged with something else (windows, ``x.reshape(B * T, C)``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Sample ``i`` occupies ``inner`` slots of ``axis``: consecutive ones when ``major``, else every n-th."""

    axis: int
    inner: int = 1
    major: bool = True

    def split(self, x: Tensor, n: int) -> Tensor:
        """``[n, ...]``: the sample axis in front; what it was merged with stays in place."""
        if self.inner == 1:
            return x.movedim(self.axis, 0)
        if self.major:
            return x.unflatten(self.axis, (n, self.inner)).movedim(self.axis, 0)
        return x.unflatten(self.axis, (self.inner, n)).movedim(self.axis + 1, 0)

    def sample(self, x: Tensor, i: int, n: int) -> Tensor:
        """The part of ``x`` that belongs to sample ``i``, with the axis kept."""
        if self.major:
            return x.narrow(self.axis, i * self.inner, self.inner)
        return x.narrow(self.axis, 0, x.shape[self.axis]).index_select(
            self.axis, torch.arange(i, x.shape[self.axis], n, device=x.device)
        )

    def fits(self, shape: Sequence[int], n: int) -> bool:
        return self.axis < len(shape) and shape[self.axis] == n * self.inner


def growing_axis(shape: Sequence[int], n: int, other: Sequence[int], m: int) -> Layout | None:
    """The axis whose length follows the number of samples, from shapes at ``n`` and ``m`` samples."""
    if len(shape) != len(other):
        return None
    grown = [d for d in range(len(shape)) if shape[d] != other[d]]
    if len(grown) != 1:
        return None
    d = grown[0]
    if shape[d] % n or other[d] % m or shape[d] // n != other[d] // m:
        return None
    return Layout(d, shape[d] // n)


def from_support(found: Layout, supports: Sequence[Tensor], n: int) -> Layout | None:
    """Fix the order along a merged axis from where each sample's output-gradient is nonzero.

    ``supports[i]`` is the output-gradient of the use under a cotangent on sample ``i`` alone.
    Returns None when the gradients do not keep to one slice of one axis.
    """
    candidates = [found] if found.inner == 1 else [found, Layout(found.axis, found.inner, major=False)]
    length = n * found.inner
    for layout in candidates:
        fits = True
        for i, gradient in enumerate(supports):
            others = [d for d in range(gradient.dim()) if d != layout.axis]
            touched = (gradient != 0).sum(others) > 0 if others else gradient != 0
            slot = torch.arange(length, device=gradient.device)
            mine = (slot // layout.inner if layout.major else slot % n) == i
            fits = fits and not bool((touched & ~mine).any())
        if fits:
            return layout
    return None

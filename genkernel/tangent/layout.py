"""Where the samples are in a tensor: found by a probe, never assumed.

Most tensors carry the samples on axis 0. Others have them second ((T, N, C) attention), or
merged with something else (windows, ``x.reshape(B * T, C)``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A sample has ``inner`` slots of ``axis``, in ``before`` runs of consecutive ones.

    The axis reads ``(before, n, inner / before)``: with ``before = 1`` all slots of a sample lie
    together (``x.reshape(n * T, C)``), with ``before = inner`` they are n apart (time first), and in
    between are windows or frames merged with the samples, then taken tokens first.
    """

    axis: int
    inner: int = 1
    before: int = 1

    def split(self, x: Tensor, n: int) -> Tensor:
        """``[n, ...]``: the sample axis in front; what it was merged with stays in place."""
        if self.inner == 1:
            return x.movedim(self.axis, 0)
        apart = x.unflatten(self.axis, (self.before, n, self.inner // self.before)).movedim(self.axis + 1, 0)
        return apart.flatten(self.axis + 1, self.axis + 2)

    def spread(self, values: Tensor, dims: int) -> Tensor:
        """One value per sample, ``[n]``, where its slots are in a tensor of so many axes."""
        along = values.repeat_interleave(self.inner // self.before).repeat(self.before)
        return along.view(-1, *[1] * (dims - 1 - self.axis))

    def slots(self, i: int, n: int, device: torch.device | None = None) -> Tensor:
        """Indices along the axis that belong to sample ``i``."""
        index = torch.arange(n * self.inner, device=device)
        return index.view(self.before, n, self.inner // self.before)[:, i].reshape(-1)

    def sample(self, x: Tensor, i: int, n: int) -> Tensor:
        """The part of ``x`` that belongs to sample ``i``, with the axis kept."""
        if self.before == 1:
            return x.narrow(self.axis, i * self.inner, self.inner)
        return x.index_select(self.axis, self.slots(i, n, x.device))

    def like(self, other: Layout) -> Layout:
        """``other`` with its samples merged in the order of this one."""
        if other.inner == self.inner:
            return Layout(other.axis, other.inner, self.before)
        return Layout(other.axis, other.inner, 1 if self.before == 1 else other.inner)

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
    length = n * found.inner
    touched = []
    for gradient in supports:
        others = [d for d in range(gradient.dim()) if d != found.axis]
        touched.append((gradient != 0).sum(others) > 0 if others else gradient != 0)
    between = (b for b in range(2, found.inner // 2 + 1) if found.inner % b == 0)
    for before in itertools.chain(dict.fromkeys((1, found.inner)), between):  # the usual orders first
        layout = Layout(found.axis, found.inner, before)
        slot = torch.arange(length, device=touched[0].device) if touched else torch.empty(0)
        owner = slot // (found.inner // before) % n
        if not any(bool((seen & (owner != i)).any()) for i, seen in enumerate(touched)):
            return layout
    return None

"""Two classes of points in the plane: inside and around, on either side of a curve, on either side of a line."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkernel.errors import InputError


def disk_and_circle(n: int, radius: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points ``[n, 2]`` of a disk (class 0) and of the unit circle (class 1) in turn, uniform on each."""
    draw = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=draw, dtype=torch.float64)
    outside = torch.arange(n) % 2 == 1
    r = torch.where(outside, 1.0, radius * torch.rand(n, generator=draw, dtype=torch.float64).sqrt())
    return r[:, None] * torch.stack([angle.cos(), angle.sin()], 1), outside.long()


def around_an_ellipse(n: int, axes: tuple[float, float], seed: int, gap: float = 0.0) -> tuple[Tensor, Tensor]:
    """Points ``[n, 2]``, uniform in the square [-1, 1]², and whether they are outside of an ellipse ``[n]``.

    Args:
        n: how many, half of them inside.
        axes: half-axes of the ellipse; equal ones make it a circle.
        seed: of the draw.
        gap: no point has a (x/a)² + (y/b)² within this of 1.

    Raises:
        InputError: the ellipse is not in the square.
    """
    if not all(0 < axis < 1 for axis in axes):
        raise InputError(f"half-axes are between 0 and 1, not {axes}")
    draw = torch.Generator().manual_seed(seed)
    kept: dict[bool, list[Tensor]] = {False: [], True: []}
    wanted = {False: n - n // 2, True: n // 2}
    while any(sum(len(part) for part in kept[out]) < wanted[out] for out in kept):
        points = 2 * torch.rand(4 * n, 2, generator=draw, dtype=torch.float64) - 1
        level = (points / torch.tensor(axes, dtype=torch.float64)).square().sum(1)
        kept[False].append(points[level < 1 - gap])
        kept[True].append(points[level > 1 + gap])
    inside, outside = (torch.cat(kept[out])[: wanted[out]] for out in (False, True))
    order = torch.randperm(n, generator=draw)
    labels = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))]).long()
    return torch.cat([inside, outside])[order], labels[order]


def beside_a_line(n: int, gap: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points uniform in the unit disk, further than ``gap`` from a line through 0 of random direction.

    Returns:
        Points ``[n, 2]``, the side that each is on ``[n]``, and the unit normal of the line ``[2]``.
    """
    if not 0 <= gap < 1:
        raise InputError(f"the gap beside the line is at least 0 and below 1, not {gap}")
    draw = torch.Generator().manual_seed(seed)
    turn = 2 * math.pi * torch.rand((), generator=draw, dtype=torch.float64)
    normal = torch.stack([turn.cos(), turn.sin()])
    points = torch.zeros(0, 2, dtype=torch.float64)
    while len(points) < n:
        more = 2 * torch.rand(4 * n, 2, generator=draw, dtype=torch.float64) - 1
        points = torch.cat([points, more[(more.norm(dim=1) <= 1) & ((more @ normal).abs() > gap)]])
    return points[:n], (points[:n] @ normal > 0).long(), normal

"""Squares of points in the plane, and what networks say on them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def square(half: float, side: int) -> Tensor:
    """The middles of ``side`` × ``side`` cells of [-half, half]², ``[side², 2]``, row by row from below.

    Every point stands for the same area, so a share of the points is a share of the square.
    """
    at = half * ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1)
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@torch.no_grad()
def outputs_on(network: nn.Module, points: Tensor) -> NDArray[np.float64]:
    """The only output at points ``[n, 2]``, ``[n]``."""
    return network(points)[:, 0].numpy().astype(np.float64)

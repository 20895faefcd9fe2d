"""Networks trained by full-batch gradient descent on ball against sphere, and on two sides of a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.ball_sphere.setting import Setting
from genkernel.experiments.domingos import network
from genkernel.experiments.fitting import fit
from genkernel.experiments.plane_networks import tangent_kernel
from genkernel.experiments.side_by_side import SideBySide, squared, summed

Array = NDArray[np.float64]


@dataclass
class Descent:
    """R networks.

    Attributes:
        points: of every network ``[n, 2]``; labels: 0 or 1 ``[n]``.
        start, end: the networks before and after training.
        moments: steps ``[T]``.
        accuracy: on the training points ``[R, T]``; loss: at the end ``[R]``.
    """

    points: list[Tensor]
    labels: list[Tensor]
    start: list[nn.Module]
    end: list[nn.Module]
    moments: tuple[int, ...]
    accuracy: Array
    loss: Array


def descended(drawn: Sequence[tuple[Tensor, Tensor]], setting: Setting, seed: int) -> Descent:
    """Full-batch gradient descent on the mean squared error, constant rate, one network for every draw."""
    start: list[nn.Module] = [network(setting.width, nn.GELU, seed + r) for r in range(len(drawn))]
    stack = SideBySide(start)
    x = torch.stack([points for points, _ in drawn], 1)
    y = torch.stack([2.0 * labels.double() - 1 for _, labels in drawn], 1)
    right: list[Array] = []

    @torch.no_grad()
    def look(_: int, net: nn.Module) -> None:
        right.append((net(x) * y > 0).double().mean(0).numpy())

    optimizer = torch.optim.SGD(stack.parameters(), lr=setting.rate)
    fit(stack, x, y, summed(squared), optimizer, setting.steps, look=look, at=setting.moments)
    with torch.no_grad():
        loss = squared(stack(x), y).mean(0).numpy()
    return Descent(
        [points for points, _ in drawn], [labels for _, labels in drawn], start, stack.networks(), setting.moments,
        np.array(right).T, loss,
    )  # fmt: skip


def nearest(net: nn.Module, x: Tensor, asked: Tensor, k: int) -> Tensor:
    """Indices of the k points of ``[n, 2]`` that the normalised kernel finds nearest to ``[q, 2]``: ``[q, k]``."""
    return torch.as_tensor(tangent_kernel(net, asked, x).normalized().values.topk(k, dim=1).indices)


def nearest_euclidean(x: Tensor, asked: Tensor, k: int) -> Tensor:
    """The same in Euclidean distance."""
    return torch.cdist(asked, x).topk(k, dim=1, largest=False).indices


def overlap(one: Tensor, other: Tensor) -> Array:
    """Part of the k indices ``[q, k]`` that both sets have ``[q]``."""
    return (one[:, :, None] == other[:, None, :]).any(2).double().mean(1).numpy()

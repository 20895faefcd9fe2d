"""Small classifiers, and points that they tell apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def blobs(n: int = 90, classes: int = 3, seed: int = 0, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    """Points in the plane around corners of a regular polygon."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    angle = labels * 2 * torch.pi / classes
    centres = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return centres + spread * torch.randn(n, 2, generator=draw), labels


def mlp(classes: int = 3, width: int = 16, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes)
        )


def trained(net: nn.Module, x: Tensor, y: Tensor, steps: int = 150) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        logits = net(x)
        one = logits.shape[-1] == 1
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], y.float()) if one else F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()

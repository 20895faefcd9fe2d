"""A small U-Net that fills shapes, trained with Ranger: RAdam inside of Lookahead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.experiments.shape_filling.setting import Setting

FLOAT32 = 1e-5  # eigenvalues of a kernel from float32 gradients that are no rounding, relative to the largest


class UNet(nn.Module):
    """Three levels with skip connections, GELU and group normalisation; one channel in, one out.

    Args:
        channels: of the first level; c, 2c, 4c.
    """

    def __init__(self, channels: int):
        super().__init__()
        c = channels
        self.down = nn.ModuleList([_block(1, c), _block(c, 2 * c), _block(2 * c, 4 * c)])
        self.deep = _block(4 * c, 4 * c)
        self.up = nn.ModuleList([_block(8 * c, 2 * c), _block(4 * c, c), _block(2 * c, c)])
        self.last = nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, s, s]`` to the same; s is a multiple of 8."""
        kept: list[Tensor] = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        x = self.deep(x)
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, kept.pop()], 1))
        out: Tensor = self.last(x)
        return out


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(min(4, outputs), outputs), nn.GELU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GELU(),
    )  # fmt: skip


def unet(channels: int, seed: int) -> UNet:
    """From the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(channels)


class Lookahead:
    """Slow weights that follow an optimizer's: every k steps, slow += α (fast - slow), fast = slow (Zhang et al. 2019).

    Args:
        parameters: those that the optimizer changes.
        optimizer: its ``step`` is called here.
        every: k.
        share: α.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, every: int = 6, share: float = 0.5
    ):
        self.fast = list(parameters)
        self.slow = [p.detach().clone() for p in self.fast]
        self.optimizer, self.every, self.share, self.steps = optimizer, every, share, 0

    def zero_grad(self) -> None:
        """As the optimizer's."""
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """One step of the optimizer, and every k of them one of the slow weights."""
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.every == 0:
            for slow, fast in zip(self.slow, self.fast, strict=True):
                slow.lerp_(fast, self.share)
                fast.copy_(slow)


def flipped(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each pair of images ``[n, 1, s, s]`` mirrored or not, along both axes."""
    for axis in (2, 3):
        turn = torch.rand(len(x), generator=draw)[:, None, None, None] < 0.5
        x, y = torch.where(turn, x.flip(axis), x), torch.where(turn, y.flip(axis), y)
    return x, y


def train(net: nn.Module, x: Tensor, y: Tensor, setting: Setting, seed: int) -> list[float]:
    """Mean squared error, random flips, the step size a tenth at plateaus.

    Returns:
        The mean loss of each epoch.
    """
    draw = torch.Generator().manual_seed(seed)
    inner = torch.optim.RAdam(net.parameters(), lr=setting.rate)
    optimizer = Lookahead(net.parameters(), inner)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(inner, factor=0.1, patience=setting.patience)
    course: list[float] = []
    for _ in range(setting.epochs):
        total = 0.0
        for chosen in torch.randperm(len(x), generator=draw).split(setting.batch):
            seen, truth = flipped(x[chosen], y[chosen], draw)
            loss = (net(seen) - truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        course.append(total / len(x))
        schedule.step(course[-1])
    return course


@torch.no_grad()
def filled(net: nn.Module, x: Tensor, chunk: int = 100) -> Tensor:
    """Outputs ``[n, 1, s, s]``."""
    return torch.cat([net(part) for part in x.split(chunk)])


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Of images ``[n, ...]`` with images ``[m, ...]``, pixel by pixel ``[n, m]``."""
    one, other = (nn.functional.normalize(images.flatten(1), dim=1) for images in (x, y))
    return one @ other.T


def kernel(net: nn.Module, x: Tensor, probes: int, seed: int) -> Any:
    """The trace over pixels of the tangent kernel of images with one another, by random cotangents."""
    import genkernel as gk

    return gk.kernel(
        net, x, cotangents=gk.probes(probes, seed=seed), dtype="float32", progress=False, distributed=False
    )

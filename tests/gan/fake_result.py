"""GAN results for tests of plots, reports and the command line: small untrained networks, analysed once per session."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.gan import Discriminator, Generator
from genkernel.gan.analysis import analyze
from genkernel.gan.results import GanResult

ANGLES = torch.arange(8) * math.tau / 8
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
LATENTS = 48
STD = 0.3


def planar_networks(spread: float = 8.0) -> tuple[Generator, Discriminator]:
    """MLPs in float64; the samples lie around the origin, ``spread`` times as far from it as the network begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        g = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        d = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        g[2].bias.zero_()
        g[2].weight.mul_(spread)
    return Generator(g.double(), (2,), name="ring MLP"), Discriminator(d.double(), (2,))


@functools.cache
def planar_result() -> GanResult:
    """Every field filled, on a ring of 8 modes."""
    draw = torch.Generator().manual_seed(1)
    real = (RING[torch.arange(40) % 8] + 0.02 * torch.randn(40, 2, generator=draw)).double()
    generator, discriminator = planar_networks()
    found, _ = analyze(
        generator,
        discriminator,
        latents=LATENTS,
        jacobians=16,
        fresh=12,
        modes=RING,
        mode_std=STD,
        real=real,
        game=True,
    )
    return found


@functools.cache
def collapsed_result() -> GanResult:
    """All samples beside each other, so that most modes are empty."""
    generator, discriminator = planar_networks(0.1)
    with torch.no_grad():
        generator.module[2].bias.copy_(RING[2])
    found, _ = analyze(generator, discriminator, latents=LATENTS, jacobians=16, fresh=12, modes=RING, mode_std=STD)
    return found


@functools.cache
def alone_result() -> GanResult:
    """Without a discriminator, and in k-means clusters."""
    found, _ = analyze(planar_networks()[0], latents=LATENTS, jacobians=16, clusters=3)
    return found


@functools.cache
def many_result() -> GanResult:
    """A hundred clusters, most of them empty."""
    modes = 2 * torch.randn(100, 2, generator=torch.Generator().manual_seed(2))
    generator, discriminator = planar_networks()
    found, _ = analyze(generator, discriminator, latents=200, jacobians=100, fresh=12, modes=modes, check=False)
    return found


class Images(nn.Module):
    """Class-conditional 8×8 images, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 6)
        self.net = nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh()
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.net((z * self.embed(y))[:, :, None, None])


class Critic(nn.Module):
    """A projection discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 4))
        self.head, self.project = nn.Linear(4, 1), nn.Embedding(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.net(x)
        return self.head(h) + (h * self.project(y)).sum(1, keepdim=True)


@functools.cache
def image_result() -> GanResult:
    """Small images with labels, random probes, and running statistics that move them in every step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(Images(), (6,), classes=4, name="tiny DCGAN")
        discriminator = Discriminator(Critic(), generator.output_shape, classes=4)
    found, _ = analyze(generator, discriminator, loss="hinge", latents=24, jacobians=12, probes=3, fresh=8)
    assert np.isfinite(found.one_step[0].buffers)
    return found

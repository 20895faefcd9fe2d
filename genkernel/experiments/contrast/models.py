"""The three ways of training a planar model that are compared: denoising, against a discriminator, on fixed targets.

All see the same ring of Gaussians and use the same optimizer; a generator trained on fixed targets learns, from the
same initial weights, the very map from latents to points that the GAN ended with, so that nothing but what drives the
learning is different.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.experiments.contrast.setting import COLLAPSING, GAN, Setting
from genkernel.experiments.noise_locality.networks import PlaneDenoiser, embedding
from genkernel.experiments.noise_locality.training import losses as denoising_losses
from genkernel.models.gan_losses import LOSSES
from genkernel.models.gan_training import GANTraining, gan_training
from genkernel.models.gans import RECIPES
from genkernel.models.mixtures import Mixture, ring

_STEPS, _POOL = 1_000_003, 4096
BETAS, DECAY = (0.0, 0.99), 0.5  # of the healthy recipe for the ring


@dataclass
class Model:
    """A network in training.

    Attributes:
        module, optimizer: what trains.
        losses: ``(module, batch)`` to losses of the samples ``[b]``, as recordings take them.
        advance: one step, by its number; ``announce`` is called with its batch before the forward pass.
        draw: a batch ``[n]`` of the training distribution, from a seed.
        others: networks that ``losses`` runs beside.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Callable[[nn.Module, Any], Tensor]
    advance: Callable[[int, Callable[[Any], None]], None]
    draw: Callable[[int, int], Any]
    others: list[nn.Module]


class Points:
    """A mixture as the source of a GAN's training."""

    sha256 = ""

    def __init__(self, mixture: Mixture):
        self.draw, self.coverage = mixture.draw, mixture.coverage


def mixture(setting: Setting) -> Mixture:
    """The ring that all models learn."""
    return ring(setting.blocks, 2.0, setting.std)


def gan(setting: Setting, seed: int, kind: str = GAN, *, frozen: bool = False) -> tuple[Model, GANTraining]:
    """A GAN; with ``frozen`` its generator does not move while the discriminator learns."""
    collapsing = kind == COLLAPSING
    recipe = replace(
        RECIPES["ring"]["collapsing" if collapsing else "healthy"],
        generator={"width": setting.width, "depth": setting.depth, "activation": "tanh"},
        batch=setting.batch,
        steps=setting.judged if frozen else setting.steps,
        g_lr=1e-12 if frozen else setting.lr,
        seed=seed,
    )
    if not collapsing:
        recipe = replace(recipe, d_lr=setting.lr)
    fresh = gan_training(recipe)
    training = GANTraining(recipe, Points(mixture(setting)), fresh.generator, fresh.discriminator)
    drive = LOSSES[recipe.loss].generator

    def losses(generator: nn.Module, z: Tensor) -> Tensor:
        return drive(training.discriminator(generator(z))).flatten(1).mean(1)

    def advance(step: int, announce: Callable[[Any], None]) -> None:
        training.before_generator_step = announce
        training.step(step)

    model = Model(
        training.generator, training.generator_optimizer, losses, advance, latents, [training.discriminator]
    )  # fmt: skip
    return model, training


def judged(setting: Setting, seed: int, kind: str = GAN) -> Model:
    """An untrained GAN generator whose discriminator was trained against it, as Cor. 4.2 has it."""
    model, training = gan(setting, seed, kind, frozen=True)
    for step in range(setting.judged):
        training.step(step)
    return model


def regression(setting: Setting, seed: int, target: nn.Module) -> Model:
    """The GAN's generator from the same initial weights, learning a fixed map by squared loss."""
    module, _ = gan(setting, seed)
    generator = module.module

    def losses(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return (network(batch["z"]) - batch["y"]).square().mean(1)

    def draw(n: int, key: int) -> dict[str, Tensor]:
        z = latents(n, key)
        with torch.no_grad():
            return {"z": z, "y": target(z)}

    return _supervised(generator, losses, draw, setting, seed)


def diffusion(setting: Setting, seed: int) -> tuple[Model, Denoiser]:
    """A denoiser of the ring with a linear schedule and a sinusoidal embedding."""
    schedule = NoiseSchedule.vp(timesteps=setting.timesteps)
    told = embedding("sinusoidal", schedule, setting.dim, setting.blocks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = PlaneDenoiser(told, setting.told_width, setting.depth, torch.tanh)
    den = Denoiser(
        module, schedule, (2,), data_range=(0.0, 1.0), embedding="embedding", time_mlp="time_mlp"
    )  # fmt: skip
    source = mixture(setting)

    def draw(n: int, key: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(key)
        clean, noise = source.draw(n, generator), torch.randn(n, 2, generator=generator)
        t = torch.randint(setting.timesteps, (n,), generator=generator)
        return {**den.loss_batch(clean, noise, t), "clean": clean}

    return _supervised(module, denoising_losses, draw, setting, seed), den


def latents(n: int, key: int) -> Tensor:
    """Normal latents ``[n, 2]``."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(key))


def _supervised(
    module: nn.Module,
    losses: Callable[[nn.Module, Any], Tensor],
    draw: Callable[[int, int], Any],
    setting: Setting,
    seed: int,
) -> Model:
    optimizer = torch.optim.Adam(module.parameters(), lr=setting.lr, betas=BETAS)

    def advance(step: int, announce: Callable[[Any], None]) -> None:
        left = (setting.steps - step) / setting.steps
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * min(1.0, left / DECAY)
        batch = draw(setting.batch, seed * _STEPS + step)
        announce(batch)
        optimizer.zero_grad()
        losses(module, batch).mean().backward()
        optimizer.step()

    return Model(module, optimizer, losses, advance, draw, [])


# --------------------------------------------------------------------------------- blocks


def sector(z: Tensor, blocks: int) -> Tensor:
    """Which of ``blocks`` equal sectors around the origin latents ``[n, 2]`` are in: equally likely ones."""
    turn = torch.atan2(z[:, 1].double(), z[:, 0].double()) / (2 * math.pi) % 1.0
    return (turn * blocks).floor().long().clamp(max=blocks - 1)


def nearest(points: Tensor, modes: Tensor) -> Tensor:
    """The nearest mode of points ``[n, 2]``; modes of a ring are numbered around it."""
    return torch.cdist(points.detach().double(), modes.double()).argmin(1)


def chosen(labels: Tensor, blocks: int, each: int) -> tuple[Tensor, list[int]]:
    """Numbers of the first ``each`` samples of every block, block by block, and the blocks that have as many."""
    found, present = [], []
    for block in range(blocks):
        own = (labels == block).nonzero()[:, 0][:each]
        if len(own) == each:
            found.append(own)
            present.append(block)
    return (torch.cat(found) if found else torch.zeros(0, dtype=torch.long)), present


def pool(seed: int) -> Tensor:
    """Latents that queries are chosen from, away from those of the trainings."""
    return latents(_POOL, 77_777_777 + seed)

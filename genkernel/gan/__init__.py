"""Generators and discriminators: kernels over latents, latent Jacobians, kernel transport, mode collapse."""

from genkernel.gan.discriminator import Discriminator
from genkernel.gan.generator import Generator
from genkernel.gan.losses import LOSSES

__all__ = ["LOSSES", "Discriminator", "Generator"]

"""Losses of discriminators and generators in the raw logit l, or a critic's value.

The generator's are those whose drive :mod:`genkernel.gan.losses` follows, under the same names; each comes with the
discriminator's loss that it is trained against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AdversarialLoss:
    """What both sides minimise.

    Attributes:
        discriminator: of the logits of real and of generated samples.
        generator: of the logits of generated samples.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """−log D(x) − log(1 − D(G(z)))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


LOSSES: dict[str, AdversarialLoss] = {
    "non-saturating": AdversarialLoss(_cross_entropy, lambda fake: F.softplus(-fake).mean()),
    "minimax": AdversarialLoss(_cross_entropy, lambda fake: -F.softplus(fake).mean()),
    "kl": AdversarialLoss(_cross_entropy, lambda fake: -fake.mean()),
    "hinge": AdversarialLoss(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda fake: -fake.mean()
    ),
    "wgan": AdversarialLoss(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    "lsgan": AdversarialLoss(
        lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        lambda fake: 0.5 * (fake - 1).square().mean(),
    ),
}


def r1(logits: Tensor, samples: Tensor) -> Tensor:
    """½ E‖∇_x l‖² at real samples (Mescheder et al. 2018), to be multiplied by γ.

    Args:
        logits: of ``samples`` ``[n, ...]``, which require a gradient.
    """
    (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return 0.5 * slope.flatten(1).square().sum(1).mean()

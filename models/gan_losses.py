"""Losses of discriminators and generators in the raw logit l, or a critic's value (THEORY §7).

The one table of the package: the drive on generated samples, the game of both players, and the training of the
reference GANs follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Entrywise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialLoss:
    """What both sides minimise, entry by entry of the logits.

    Attributes:
        real, fake: the discriminator's, at real and at generated samples.
        generator: the generator's, at generated samples.
    """

    real: Entrywise
    fake: Entrywise
    generator: Entrywise

    def of_discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The sum of both means."""
        return self.real(real).mean() + self.fake(fake).mean()

    def of_generator(self, fake: Tensor) -> Tensor:
        """The mean."""
        return self.generator(fake).mean()


def _surprise(logit: Tensor) -> Tensor:
    """−log D; unlike softplus, logsigmoid is exact for large logits as well."""
    return -F.logsigmoid(logit)


def _doubt(logit: Tensor) -> Tensor:
    """−log(1 − D)."""
    return -F.logsigmoid(-logit)


# the discriminator's cross-entropy is −log D(x) − log(1 − D(G(z))); the generator's of "kl" has the gradient of
# KL(p_g ‖ p_d) at the optimal discriminator
LOSSES: dict[str, AdversarialLoss] = {
    "non-saturating": AdversarialLoss(_surprise, _doubt, _surprise),
    "minimax": AdversarialLoss(_surprise, _doubt, lambda logit: -_doubt(logit)),
    "kl": AdversarialLoss(_surprise, _doubt, torch.neg),
    "hinge": AdversarialLoss(lambda logit: F.relu(1 - logit), lambda logit: F.relu(1 + logit), torch.neg),
    "wgan": AdversarialLoss(torch.neg, lambda logit: 1 * logit, torch.neg),
    "lsgan": AdversarialLoss(
        lambda logit: 0.5 * (logit - 1).square(), lambda logit: 0.5 * logit.square(),
        lambda logit: 0.5 * (logit - 1).square(),
    ),
}  # fmt: skip


def r1(logits: Tensor, samples: Tensor) -> Tensor:
    """½ E‖∇_x l‖² at real samples (Mescheder et al. 2018), to be multiplied by γ.

    Args:
        logits: of ``samples`` ``[n, ...]``, which require a gradient.
    """
    (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return 0.5 * slope.flatten(1).square().sum(1).mean()

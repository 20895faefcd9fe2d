"""Generator losses and their gradients in the discriminator's logit (THEORY §7).

With l the raw logit (or the critic's value) and D = σ(l), the drive on a generated sample is
δ = ∇_x ℓ = ℓ′(l) ∇_x l.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.models import gan_losses

Loss = Callable[[Tensor], Tensor]

# of the raw logit, entry by entry
LOSSES: dict[str, Loss] = {name: loss.generator for name, loss in gan_losses.LOSSES.items()}


def loss_of(loss: str | Loss) -> Loss:
    """The loss by its name, or a function of the logit as it is.

    Raises:
        InputError: there is no loss of that name.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        known = ", ".join(LOSSES)
        raise InputError(f"the generator's loss is one of {known}, or a function of the logit, not {loss!r}")
    return LOSSES[loss]


def generator_losses(loss: str | Loss, logits: Tensor) -> Tensor:
    """Per-sample losses ``[n]`` from logits ``[n, ...]``; a map of logits (PatchGAN) is averaged.

    Raises:
        InputError: there is no loss of that name, or it does not act entry by entry.
    """
    found = loss_of(loss)(logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape:
        gave = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"a loss is a function of the logit, entry by entry: it gave {gave} for shape {tuple(logits.shape)}"
        )
    return found.flatten(1).mean(1) if found.dim() > 1 else found


def logit_gradient(loss: str | Loss, logits: Tensor) -> Tensor:
    """dℓ/dl, shaped like the logits ``[n, ...]``: −D for minimax, −(1 − D) for the non-saturating loss, and so on.

    Raises:
        InputError: as for :func:`generator_losses`, or the loss does not depend on the logit.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_(True)
        losses = generator_losses(loss, leaf)
        if not losses.requires_grad:
            raise InputError("the loss does not depend on the logit, so there is nothing to differentiate")
        (found,) = torch.autograd.grad(losses.sum(), leaf)
    return found.detach()

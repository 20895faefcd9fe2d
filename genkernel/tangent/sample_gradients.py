"""Gradients of the losses of single samples, several at a time where the network allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from genkernel.tangent import batches
from genkernel.tangent.jvp import UNSUPPORTED
from genkernel.tangent.model import TangentModel


def sample_gradients(
    losses: TangentModel,
    tensors: dict[str, Tensor],
    batch: Any,
    alone: Callable[[Any], Tensor],
    vectorised: bool | None = None,
) -> tuple[Tensor, bool]:
    """∇ℓ_i of samples that do not see each other.

    Args:
        losses: a model whose outputs are the losses ``[b]``.
        tensors: what ``losses.tensors()`` returned.
        batch: b samples, whose gradients are held together.
        alone: a batch of one sample → its gradient ``[P]``, in the order of ``losses.parameter_names``.
        vectorised: whether ``vmap`` gives what ``alone`` gives; None compares them on two samples.

    Returns:
        The gradients ``[b, P]``, and ``vectorised``.
    """
    names = losses.parameter_names
    held = {name: t.detach() for name, t in tensors.items()}

    def loss(own: dict[str, Tensor], one: Any) -> Tensor:
        whole = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, one)
        return losses.run({**held, **own}, whole)[0]

    def together(part: Any) -> Tensor:
        axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, part)
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, axes))({name: held[name] for name in names}, part)
        return torch.cat([found[name].flatten(1) for name in names], 1).detach()

    def one_by_one(part: Any) -> Tensor:
        return torch.stack([alone(batches.take(part, slice(i, i + 1))) for i in range(batches.size(part))])

    if vectorised is None:
        vectorised = agree(together, one_by_one, batches.take(batch, slice(0, 2)))
    return (together if vectorised else one_by_one)(batch), vectorised


def agree(together: Callable[[Any], Tensor], one_by_one: Callable[[Any], Tensor], part: Any) -> bool:
    """Whether a vectorised route runs, and gives what one sample at a time gives."""
    expected = one_by_one(part).double()
    try:
        found = together(part)
    except UNSUPPORTED:
        return False
    near = 1e-9 if found.dtype == torch.float64 else 1e-4
    return float((found.double() - expected).norm()) <= near * float(expected.norm())

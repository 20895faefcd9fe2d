"""A training loss, sample by sample, as a model whose outputs are the losses."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import TangentModel, batches

LossFunction = Callable[[nn.Module, Any], Tensor]


def loss_model(module: nn.Module, loss_fn: LossFunction, names: Collection[str]) -> TangentModel:
    """The losses ``[n]`` of a batch as a function of the parameters of these names.

    Running it raises :class:`InputError` where ``loss_fn`` does not return one loss per sample.
    """

    def call(module: nn.Module, batch: Any) -> Tensor:
        found, n = loss_fn(module, batch), batches.size(batch)
        if not isinstance(found, Tensor) or found.shape != (n,):
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"loss_fn returned {given} for {n} samples: it returns one loss per sample, shape ({n},), before any "
                "mean or sum over the batch"
            )
        return found

    return TangentModel(module, call, params=set(names).__contains__)

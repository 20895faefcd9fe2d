"""The module that trains, out of whatever is wrapped around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.tangent import TangentModel
from genkernel.tangent.model import Call


def plain_module(model: Any) -> tuple[nn.Module, Call | None]:
    """The module that trains, without what compiles or distributes it, and how to call it where that is known.

    Raises:
        InputError: there is none, or several processes train it.
    """
    if not isinstance(model, nn.Module):
        tangent = model if isinstance(model, TangentModel) else getattr(model, "tangent", None)
        if not isinstance(tangent, TangentModel):
            raise InputError(f"a recording needs a torch.nn.Module, not {type(model).__name__}")
        return tangent.module, tangent.call
    if isinstance(model, nn.parallel.DistributedDataParallel):
        if torch.distributed.get_world_size(model.process_group) > 1:
            raise InputError(
                "several processes train this model, and each sees the samples of its own batches only: record a run "
                "of one process"
            )
        model = model.module
    return getattr(model, "_orig_mod", model), None

"""The user's module behind what wraps it for training, and the rank that reads it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genkernel.errors import InputError


def unwrapped(module: Any) -> nn.Module:
    """The module within ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and the like, nested or not.

    They share its parameters, so that what is read is what is trained.

    Raises:
        InputError: it is no module, or is sharded by the older FullyShardedDataParallel.
    """
    while True:
        if not isinstance(module, nn.Module):
            raise InputError(f"a monitor watches a torch.nn.Module, not {type(module).__name__}")
        inner = getattr(module, "_orig_mod", None)  # torch.compile
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if inner is None and type(module).__name__ == "FullyShardedDataParallel":
            raise InputError("FullyShardedDataParallel holds flattened parameters: shard with torch's fully_shard")
        if inner is None:
            return module
        module = inner


def is_sharded(module: nn.Module) -> bool:
    """Whether its parameters are spread over ranks (``fully_shard``, tensor parallelism)."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def rank() -> int:
    """Of this process; 0 without ``torch.distributed``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return 0

"""The user's module behind what wraps it for training, and the rank that reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from genkernel.errors import InputError


def unwrapped(module: Any) -> nn.Module:
    """The module within ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and the like, nested or not.

    What Lightning Fabric and Accelerate prepared is unwrapped too. Inside and outside share the parameters, so that
    what is read is what is trained.

    Raises:
        InputError: it is no module, or its parameters are spread over ranks.
    """
    module = innermost(module)
    if is_sharded(module):
        raise InputError(
            f"the parameters of this {type(module).__name__} are spread over ranks: watch it with "
            "genkernel.monitor.sharded.ShardedMonitor"
        )
    return module


def innermost(module: Any) -> nn.Module:
    """The same, whether sharded or not.

    Raises:
        InputError: it is no module, or is sharded by the older FullyShardedDataParallel.
    """
    while True:
        if not isinstance(module, nn.Module):
            raise InputError(f"a monitor watches a torch.nn.Module, not {type(module).__name__}")
        if type(module).__name__ == "FullyShardedDataParallel":
            raise InputError("FullyShardedDataParallel holds flattened parameters: shard with torch's fully_shard")
        inner = getattr(module, "_orig_mod", None)  # torch.compile
        wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
        if inner is None and (isinstance(module, wrappers) or type(module).__name__ == "_FabricModule"):
            inner = module.module
        if inner is None:
            return module
        module = inner


def run_plainly(modules: Iterable[nn.Module]) -> None:
    """Modules run the functions they were written with, without the autocast that Accelerate adds.

    Under mixed precision ``Accelerator.prepare`` puts a ``forward`` on the module that casts, and keeps the one it
    replaced. Readings are differences between weights, so that they are taken in the precision of the weights. What is
    put on the modules here is taken off by whoever restores them.
    """
    for part in {id(part): part for module in modules for part in module.modules()}.values():
        own = vars(part)
        if "_original_forward" in own:
            own["forward"] = own["_original_forward"]


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

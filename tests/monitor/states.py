"""All of what a monitor must not touch, as one comparable value."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def state_of(*modules: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> dict[str, Any]:
    """Weights, buffers, gradients, flags, modes and hooks of modules, states of optimizers, and all random states."""
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }
    for m, module in enumerate(modules):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            found[f"{m} {name}"] = tensor.detach().clone()
            found[f"{m} {name} at"] = (id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad)
            found[f"{m} {name} grad"] = None if tensor.grad is None else tensor.grad.clone()
        for name, part in module.named_modules():
            hooks = [len(v) for k, v in sorted(vars(part).items()) if "hooks" in k and hasattr(v, "__len__")]
            found[f"{m} {name} mode"] = (part.training, hooks, sorted(vars(part)))
    for o, optimizer in enumerate(optimizers):
        for p, values in enumerate(optimizer.state.values()):
            for name, value in values.items():
                found[f"optimizer {o} {p} {name}"] = value.clone() if isinstance(value, Tensor) else value
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is not bit-equal."""
    names = before.keys() | after.keys()
    return sorted(n for n in names if n not in before or n not in after or not _same(before[n], after[n]))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):  # NaN is the same as itself
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7e30), b.nan_to_num(7e30))
    return type(a) is type(b) and a == b

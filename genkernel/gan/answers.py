"""Ask a user's classifier, or features, about samples, and leave it as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent.restore import random_state_kept, restored

Features = Callable[[Tensor], Tensor]


def answers(function: Features, samples: Tensor, batch_size: int = 256, fewest: int = 1) -> Tensor:
    """``[n, f]`` on the CPU: what a classifier, or features, say of samples ``[n, *out]``.

    A module is run in evaluation mode, on samples of its own dtype and device; it, its buffers and all random number
    generators are as they were afterwards.

    Raises:
        InputError: there is not one row of at least ``fewest`` numbers per sample.
    """
    given = samples.detach()
    with ExitStack() as stack:
        devices = [samples.device] if samples.device.type == "cuda" else []
        for scope in (torch.no_grad(), torch.random.fork_rng(devices=devices), random_state_kept()):
            stack.enter_context(scope)
        if isinstance(function, nn.Module):
            buffers = {name: b.detach().clone() for name, b in function.named_buffers()}
            stack.callback(_put_back, function, buffers)
            stack.enter_context(restored(function))
            for module in function.modules():
                module.training = False
            weight = next((p for p in function.parameters() if p.is_floating_point()), None)
            given = given if weight is None else given.to(weight.device, weight.dtype)
        parts = [function(part.clone()) for part in given.split(batch_size)]
    kind, least = ("a classifier", ", of at least two classes") if fewest > 1 else ("features", "")
    if any(not isinstance(p, Tensor) or p.dim() < 2 for p in parts):
        raise InputError(f"{kind} answers samples [n, ...] with a tensor [n, f]{least}")
    found = torch.cat(parts).detach().flatten(1).cpu()
    if found.shape[0] != len(samples) or found.shape[1] < fewest:
        raise InputError(
            f"{kind} answers {len(samples)} samples with [{len(samples)}, f]{least}, not {tuple(found.shape)}"
        )
    return found


def _put_back(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                buffer.copy_(buffers[name])

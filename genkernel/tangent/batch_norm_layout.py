"""Right gradients through batch norm and instance norm where an axis has one entry.

On the CPU torch (seen with 2.15) takes some arrays whose channels come last in memory for plain ones, such as one of
shape (1, 5, 3, 4) and strides (5, 1, 20, 5). Where inputs and output-gradients of a norm lie differently, its backward
pass then gives values to the wrong places: gradients to inputs, weights and biases are wrong without a word. Such
strides come from tokens that were an image before, in LeViT and XCiT, one sample at a time. Instance norm runs as the
batch norm of one sample. Calls from scripted modules are not reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def plain_gradients() -> Iterator[None]:
    """Inputs and output-gradients of these norms are contiguous where their strides could be misread.

    Not thread-safe: functions of torch are others while the context is open.
    """
    batch_norm, instance_norm = torch.batch_norm, torch.instance_norm

    def batch(given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if given.dim() < 4 or 1 not in given.shape:
            return batch_norm(given, *args, **kwargs)
        return _contiguous_behind(batch_norm(_plain(given), *args, **kwargs))

    def instance(given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if given.dim() < 4:
            return instance_norm(given, *args, **kwargs)
        return _contiguous_behind(instance_norm(_plain(given), *args, **kwargs))

    torch.batch_norm, torch.instance_norm = batch, instance  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.batch_norm, torch.instance_norm = batch_norm, instance_norm


def _plain(given: Tensor) -> Tensor:
    """Contiguous, with the strides of axes of one entry as a new array has them: ``contiguous()`` leaves those."""
    return given.flatten().view(given.shape)


def _contiguous_behind(out: Tensor) -> Tensor:
    if out.requires_grad:
        out.register_hook(lambda gradient: None if gradient is None else _plain(gradient))
    return out

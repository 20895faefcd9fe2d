"""Right gradients through batch norm and instance norm where an axis has one entry.

On the CPU torch (seen with 2.15) takes some gradients whose channels come last in memory for plain arrays, such as
one of shape (1, 5, 3, 4) and strides (5, 1, 20, 5), and gives values to the wrong places: gradients to inputs, weights
and biases are wrong without a word. Such strides come from tokens that were an image before, in LeViT and XCiT, one
sample at a time. Instance norm runs as the batch norm of one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def plain_gradients() -> Iterator[None]:
    """Gradients reach these norms contiguously where their strides could be misread."""
    before = torch.batch_norm, torch.instance_norm
    torch.batch_norm = _with_plain_gradient(torch.batch_norm, lambda out: 1 in out.shape)
    torch.instance_norm = _with_plain_gradient(torch.instance_norm, lambda _: True)
    try:
        yield
    finally:
        torch.batch_norm, torch.instance_norm = before


def _with_plain_gradient(norm: Callable[..., Tensor], misread: Callable[[Tensor], bool]) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        out = norm(*args, **kwargs)
        if out.requires_grad and out.dim() > 3 and misread(out):
            out.register_hook(torch.Tensor.contiguous)
        return out

    return run

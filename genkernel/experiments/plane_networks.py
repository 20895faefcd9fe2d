"""The tangent kernel of networks on the plane, with and without their last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

LAST = "4"  # the last layer of genkernel.experiments.domingos.network


def tangent_kernel(net: nn.Module, x: Tensor, y: Tensor | None = None) -> Any:
    """Of the output, not normalised, in float64, between points ``[n, 2]`` and ``[m, 2]`` (None: x again)."""
    import genkernel as gk

    return gk.kernel(net, x, y, cotangents=gk.total(), dtype="float64", progress=False, distributed=False)


def of_layers(kernel: Any, last: bool) -> Tensor:
    """Values ``[n, m]`` with the last layer's block or without it."""
    return sum((part for name, part in kernel.layers.items() if last or name != LAST), start=0 * kernel.values)

"""Tiny configurations of diffusers' networks, written as data: a class, its arguments, its inputs.

Inputs are makers ``n -> tensor`` in any nesting; ``fixed`` holds what has no sample axis (sizes,
position ids shared by all samples). The output is the first field of what the network returns;
a network that returns several tensors (a ControlNet) is flattened and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from genkernel.bench.architectures import Architecture, Built, Double

Maker = Callable[[int], Tensor]


def floats(*shape: int, scale: float = 1.0) -> Maker:
    """Normal entries ``[n, *shape]``."""
    return lambda n: scale * torch.randn(n, *shape, generator=_generator(shape), dtype=torch.float64)


def integers(high: int, *shape: int) -> Maker:
    """Integers below ``high``, ``[n, *shape]``."""
    return lambda n: torch.randint(0, high, (n, *shape), generator=_generator((high, *shape)))


def times(high: float = 1000.0, *shape: int) -> Maker:
    """Timesteps ``[n, *shape]`` between 0 and ``high``."""
    return lambda n: high * torch.rand(n, *shape, generator=_generator((7,)), dtype=torch.float64)


def ones(*shape: int, dtype: torch.dtype = torch.float64) -> Maker:
    """A mask that masks nothing, ``[n, *shape]``."""
    return lambda n: torch.ones(n, *shape, dtype=dtype)


def mask(length: int, dtype: torch.dtype = torch.float64) -> Maker:
    """A mask ``[n, length]`` whose last entry is masked in every second sample."""

    def make(n: int) -> Tensor:
        entries = torch.ones(n, length)
        entries[::2, -1] = 0
        return entries.to(dtype)

    return make


def grid(*sizes: int) -> Tensor:
    """Position ids ``[prod(sizes), len(sizes)]`` of a grid."""
    axes = torch.meshgrid(*(torch.arange(s) for s in sizes), indexing="ij")
    return torch.stack(axes, -1).reshape(-1, len(sizes)).to(torch.float64)


def _generator(key: Sequence[int]) -> torch.Generator:
    return torch.Generator().manual_seed(sum((i + 1) * k for i, k in enumerate(key)))


def tiny(
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    fixed: Mapping[str, Any] | None = None,
    call: Callable[..., Any] | None = None,
    note: str = "",
) -> Architecture:
    """A diffusers network in a tiny configuration.

    Args:
        name: class in ``diffusers``; what follows a space tells configurations of one class apart.
        config: its arguments.
        inputs: its inputs by name: makers in any nesting.
        fixed: further arguments that are the same for every sample.
        call: ``call(module, **inputs, **fixed)`` where the network is not simply called.
    """

    def build() -> Built:
        import diffusers

        found = getattr(diffusers, name.split()[0], None)
        if found is None:
            raise ImportError(f"this version of diffusers ({diffusers.__version__}) has no such class")
        module = found(**config)

        def batch(n: int) -> Any:
            return tree_map(lambda make: make(n), dict(inputs))

        return Built(module, batch, partial(_call, call, dict(fixed or {})), note)

    return Architecture(name, "diffusers", build)


def missing(name: str, reason: str) -> Architecture:
    """A class of diffusers that is not in the table, and why."""
    return Architecture(name, "diffusers", None, reason=reason)


def _call(call: Callable[..., Any] | None, fixed: dict[str, Any], module: nn.Module, batch: dict[str, Any]) -> Tensor:
    with Double():
        return joined(call(module, **batch, **fixed) if call is not None else module(**batch, **fixed))


def joined(out: Any) -> Tensor:
    """The output tensor, or several side by side as ``[n, entries]``."""
    tensors = [leaf for leaf in tree_flatten(_plain(out))[0] if isinstance(leaf, Tensor)]
    return tensors[0] if len(tensors) == 1 else torch.cat([t.flatten(1) for t in tensors], 1)


def _plain(out: Any) -> Any:
    """Output classes as tuples: they are no pytrees in every version."""
    if hasattr(out, "to_tuple"):
        out = out.to_tuple()
    return [_plain(part) for part in out] if isinstance(out, (tuple, list)) else out

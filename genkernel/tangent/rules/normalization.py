"""Affine parameters of group, layer, RMS, instance and (evaluation mode) batch normalisation.

y = w ∘ x̂ + b, so that G_w = Σ_positions B ∘ x̂ and G_b = Σ_positions B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


class _ChannelNorm(Rule):
    """Parameters over axis 1, samples on axis 0."""

    def normalised(self, arguments: Arguments) -> Tensor | None:
        raise NotImplementedError

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        if layout.axis != 0 or name not in ("weight", "bias"):
            return None
        if name == "weight":
            x = self.normalised(arguments)
            if x is None:
                return None
            B = B * x
        per_channel = B.flatten(2).sum(2) if B.dim() > 2 else B
        per_sample = layout.split(per_channel, n)
        return Dense(per_sample.sum(1) if layout.inner > 1 else per_sample)


class GroupNorm(_ChannelNorm):
    names = ("input", "num_groups", "weight", "bias", "eps")
    keeps = frozenset({"input"})

    def normalised(self, arguments: Arguments) -> Tensor | None:
        # the kernel wants contiguous input: attention blocks hand over transposed views
        x = arguments.get("input").contiguous()
        return F.group_norm(x, arguments.get("num_groups"), None, None, arguments.get("eps", 1e-5))


class BatchNorm(_ChannelNorm):
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    keeps = frozenset({"input", "running_mean", "running_var"})

    def normalised(self, arguments: Arguments) -> Tensor | None:
        mean, var = arguments.get("running_mean"), arguments.get("running_var")
        if arguments.get("training", False) or mean is None or var is None:
            return None
        x = arguments.get("input")
        return F.batch_norm(x, mean, var, None, None, False, 0.0, arguments.get("eps", 1e-5))


class InstanceNorm(_ChannelNorm):
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    keeps = frozenset({"input", "running_mean", "running_var"})

    def normalised(self, arguments: Arguments) -> Tensor | None:
        x, eps = arguments.get("input"), arguments.get("eps", 1e-5)
        if arguments.get("use_input_stats", True):
            return F.instance_norm(x, None, None, None, None, True, 0.0, eps)
        mean, var = arguments.get("running_mean"), arguments.get("running_var")
        return F.batch_norm(x, mean, var, None, None, False, 0.0, eps)


class _TrailingNorm(Rule):
    """Parameters over the trailing axes, samples on any leading one."""

    def normalised(self, arguments: Arguments) -> Tensor:
        raise NotImplementedError

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name, shape = arguments.name_of(position), use.slots[position].shape
        if name not in ("weight", "bias") or layout.axis >= B.dim() - len(shape):
            return None
        if name == "weight":
            B = B * self.normalised(arguments)
        per_sample = layout.split(B, n)
        between = tuple(range(1, per_sample.dim() - len(shape)))
        return Dense(per_sample.sum(between) if between else per_sample)


class LayerNorm(_TrailingNorm):
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    keeps = frozenset({"input"})

    def normalised(self, arguments: Arguments) -> Tensor:
        x = arguments.get("input")
        return F.layer_norm(x, tuple(arguments.get("normalized_shape")), None, None, arguments.get("eps", 1e-5))


class RMSNorm(_TrailingNorm):
    names = ("input", "normalized_shape", "weight", "eps")
    keeps = frozenset({"input"})

    def normalised(self, arguments: Arguments) -> Tensor:
        return F.rms_norm(arguments.get("input"), tuple(arguments.get("normalized_shape")), None, arguments.get("eps"))


RULES: dict[Any, Rule] = {
    F.group_norm: GroupNorm(),
    torch.group_norm: GroupNorm(),
    F.batch_norm: BatchNorm(),
    F.instance_norm: InstanceNorm(),
    F.layer_norm: LayerNorm(),
    torch.layer_norm: LayerNorm(),
    F.rms_norm: RMSNorm(),
    torch.rms_norm: RMSNorm(),
}

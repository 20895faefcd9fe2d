"""Affine parameters of group, layer, RMS, instance and (evaluation mode) batch normalisation.

y = w ∘ x̂ + b, so that G_w = Σ_positions B ∘ x̂ and G_b = Σ_positions B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genkernel.tangent.factors import Dense, Factor, is_channels_last
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Arguments, Rule

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


#: entries of a copy that stays in the cache
CACHED = 1 << 19


class _ChannelNorm(Rule):
    """Parameters over axis 1, samples on axis 0."""

    def scale_gradient(self, arguments: Arguments, B: Tensor) -> Tensor | None:
        """Σ_positions B ∘ x̂, ``[n, C]``; None where the call is outside the rule."""
        raise NotImplementedError

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        if layout.axis != 0 or name not in ("weight", "bias"):
            return None
        per_channel = self.scale_gradient(arguments, B) if name == "weight" else _over_positions(B)
        if per_channel is None:
            return None
        per_sample = layout.split(per_channel, n)
        return Dense(per_sample.sum(1) if layout.inner > 1 else per_sample)


class GroupNorm(_ChannelNorm):
    names = ("input", "num_groups", "weight", "bias", "eps")
    keeps = frozenset({"input"})

    def scale_gradient(self, arguments: Arguments, B: Tensor) -> Tensor | None:
        return _with_group_statistics(
            arguments.get("input"), B, arguments.get("num_groups"), arguments.get("eps", 1e-5)
        )


class BatchNorm(_ChannelNorm):
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    keeps = frozenset({"input", "running_mean", "running_var"})

    def scale_gradient(self, arguments: Arguments, B: Tensor) -> Tensor | None:
        mean, var = arguments.get("running_mean"), arguments.get("running_var")
        if arguments.get("training", False) or mean is None or var is None:
            return None
        return _with_running_statistics(arguments.get("input"), B, mean, var, arguments.get("eps", 1e-5))


class InstanceNorm(_ChannelNorm):
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    keeps = frozenset({"input", "running_mean", "running_var"})

    def scale_gradient(self, arguments: Arguments, B: Tensor) -> Tensor | None:
        x, eps = arguments.get("input"), arguments.get("eps", 1e-5)
        if arguments.get("use_input_stats", True):
            return _with_group_statistics(x, B, x.shape[1], eps)
        return _with_running_statistics(x, B, arguments.get("running_mean"), arguments.get("running_var"), eps)


# On a CPU the library's own backward passes take one look at B and x, where a normalised copy takes ten times as
# long: each channel of each sample is a channel of its own to them. Where channels come last, one look takes no
# longer than they do as long as its copy stays in the cache.


def _with_running_statistics(x: Tensor, B: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    if not _alike(x, B, mean, var):
        return _over_positions(_times(F.batch_norm(x, mean, var, None, None, False, 0.0, eps), B))
    n, C = x.shape[:2]
    if is_channels_last(x):
        return _few_at_a_time(x, B, mean.expand(n, C), (var + eps).rsqrt().expand(n, C))
    image, gradient = x.reshape(1, n * C, -1), B.reshape(1, n * C, -1)
    found: Tensor = torch.ops.aten.native_batch_norm_backward(
        gradient, image, None, mean.repeat(n), var.repeat(n), None, None, False, eps, [False, True, False]
    )[1]
    return found.view(n, C)


def _with_group_statistics(x: Tensor, B: Tensor, groups: int, eps: float) -> Tensor:
    # as the library wants it: attention blocks hand over transposed views, and where channels come last it loses
    # variances beside large means
    x = x.contiguous()
    if not _alike(x, B):
        return _over_positions(_times(F.group_norm(x, groups, None, None, eps), B))
    n, C = x.shape[:2]
    size = x[0, 0].numel()
    _, mean, rstd = torch.ops.aten.native_group_norm(x, None, None, n, C, size, groups, eps)
    found: Tensor = torch.ops.aten.native_group_norm_backward(
        B.reshape(1, n * C, -1), x.view(1, n * C, -1), mean.view(1, -1), rstd.view(1, -1), None,
        1, n * C, size, n * groups, [False, True, False],
    )[1]  # fmt: skip
    return found.view(n, C)


def _few_at_a_time(x: Tensor, B: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """For images whose channels come last; ``mean`` and ``rstd`` are ``[n, C]``."""
    step = max(1, CACHED // x[0].numel())
    sums = [
        (x[i : i + step] - mean[i : i + step, :, None, None]).mul_(B[i : i + step]).sum((2, 3))
        for i in range(0, len(x), step)
    ]
    return torch.cat(sums) * rstd


def _alike(x: Tensor, *others: Tensor) -> bool:
    # statistics of coarser dtypes are rounded to them there
    exact = x.dtype in (torch.float32, torch.float64)
    return x.device.type == "cpu" and exact and x.numel() > 0 and all(other.dtype == x.dtype for other in others)


def _times(fresh: Tensor, B: Tensor) -> Tensor:
    """The product; ``fresh`` may be overwritten."""
    return fresh.mul_(B) if fresh.dtype == B.dtype else fresh * B


def _over_positions(B: Tensor) -> Tensor:
    """``[n, C, *spatial]`` → ``[n, C]``."""
    return B.flatten(2).sum(2) if B.dim() > 2 else B


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
            B = _times(self.normalised(arguments), B)
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

"""Weights of two-dimensional convolutions in the memory format that a CPU computes fastest in.

oneDNN's convolutions take images whose channels lie next to each other. With weights in that order torch keeps
all images between them so, where it otherwise rearranges every image for every convolution (measured on two
cores: a quarter of a ResNet's forward and backward).

A model may not run on such images (``x.view(n, -1)`` needs the channels first), or compute something else
(``as_strided``). So the proof runs two samples this way, and compares inputs of uses, outputs and output-gradients
with those of the ordinary run; and in every batch a call that may depend on how images lie in memory, or any
failure, sends that batch through the ordinary run instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from genkernel.tangent import products
from genkernel.tangent.judgement import LARGE
from genkernel.tangent.model import TangentModel

#: what scripts do is not seen; with the others the run would be an ordinary one (:mod:`genkernel.tangent.capture`)
UNSUITED = (torch.jit.ScriptModule, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def suits(model: TangentModel, dtype: torch.dtype) -> bool:
    """The format is worth trying: a CPU with oneDNN, and copies of the weights that are no burden."""
    if model.device.type != "cpu" or dtype != torch.float32:
        return False
    if not (torch.backends.mkldnn.enabled and products.available()):
        return False
    if any(isinstance(module, UNSUITED) for module in model.module.modules()):
        return False
    if any(convolution.groups > 1 for _, convolution in _convolutions(model)):
        return False  # gradients of groups are made with the channels first: no gain, or a loss
    return bool(_weights(model)) and sum(p.numel() for p in model.parameters.values()) <= LARGE


def channels_last(model: TangentModel, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Copies of the weights of convolutions, channels last, by the ``id`` of the tensor that each stands in for.

    Args:
        tensors: what ``model.tensors()`` returned.
    """
    return {
        id(tensors[name]): tensors[name].detach().contiguous(memory_format=torch.channels_last)
        for name in _weights(model)
    }


def copied_bytes(model: TangentModel) -> int:
    """What the copies take."""
    return sum(model.parameters[name].numel() for name in _weights(model)) * torch.float32.itemsize


def _weights(model: TangentModel) -> list[str]:
    """Names of the selected weights of convolutions."""
    names = (f"{name}.weight".lstrip(".") for name, _ in _convolutions(model))
    return [name for name in names if name in model.parameters]


def _convolutions(model: TangentModel) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d]]:
    for name, module in model.module.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            yield name, module

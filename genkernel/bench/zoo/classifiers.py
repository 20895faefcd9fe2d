"""Every classification network of torchvision up to 100 M parameters, untrained, on the smallest input that runs.

Of a family that is larger throughout (VGG) the smallest one is taken.
"""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from genkernel.bench.architectures import Architecture, Built

LIMIT = 100_000_000
SIDES = (32, 64, 96, 128, 160, 192, 224, 256)
_QUIET: dict[str, dict[str, Any]] = {
    # their default initialisation draws from scipy; the inception networks also have heads for training only
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


def make(name: str, **options: Any) -> nn.Module:
    """An untrained network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torchvision.models.get_model(name, weights=None, **_QUIET.get(name, {}), **options)


def build(name: str) -> Built:
    """The network and the smallest square input that it runs on."""
    fixed = name.startswith("vit_")  # its positional embedding has the size of the image
    module = None if fixed else make(name).eval()
    for side in SIDES:
        try:
            candidate = make(name, image_size=side).eval() if module is None else module
            with torch.no_grad():
                candidate(torch.zeros(1, 3, side, side))
        except (RuntimeError, ValueError, AssertionError, ZeroDivisionError):
            continue
        return Built(candidate, partial(_images, side), note=f"{side}×{side}")
    raise ValueError(f"{name} runs on no square image of {SIDES[0]} to {SIDES[-1]} pixels")


def _images(side: int, n: int) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def family(name: str) -> str:
    """``"vgg"`` of ``"vgg11_bn"``, ``"regnet_y"`` of ``"regnet_y_16gf"``, …"""
    return re.match(r"(regnet_[xy]|swin_v2|wide_resnet|[a-z]+)", name).group(0)  # type: ignore[union-attr]


def architectures() -> list[Architecture]:
    """One per classification network; those left out say why."""
    names = torchvision.models.list_models(module=torchvision.models)
    # the size of a network is in the description of its published weights: nothing is downloaded
    sizes = {name: torchvision.models.get_model_weights(name)["DEFAULT"].meta["num_params"] for name in names}
    smallest: dict[str, str] = {}
    for name in names:
        best = smallest.setdefault(family(name), name)
        if sizes[name] < sizes[best]:
            smallest[family(name)] = name
    found = []
    for name in names:
        if sizes[name] <= LIMIT or smallest[family(name)] == name:
            found.append(Architecture(name, "torchvision", partial(build, name), sizes[name]))
        else:
            reason = f"{sizes[name] / 1e6:.0f} M parameters, and {smallest[family(name)]} of the same family is here"
            found.append(Architecture(name, "torchvision", None, sizes[name], reason=reason))
    return found

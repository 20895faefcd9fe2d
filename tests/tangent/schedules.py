"""Plans that tests ask for, and a model to try them on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from genkernel.tangent import call, plan
from genkernel.tangent.plan import Plan, Sizes


def only_passes(monkeypatch: pytest.MonkeyPatch, parts: int = 3, batch: int = 4, home: str = "device") -> None:
    """Small batches; the largest parameter in ``parts`` slices of coordinates, small ones together."""

    def make(sizes: Sizes, budget: int) -> Plan:
        rows = sizes.samples * sizes.outputs * sizes.itemsize
        monkeypatch.setattr(plan, "LEAST", max(map(min, sizes.entries.values())) * rows // parts)
        return replace(plan._passes(sizes, 1), batch=batch, home=home)

    monkeypatch.setattr(call, "make_plan", make)


def small() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2), nn.Flatten(),
        nn.Linear(36, 3),
    ).double()  # fmt: skip
    return net, torch.randn(5, 2, 8, 8, dtype=torch.float64), torch.randn(3, 2, 8, 8, dtype=torch.float64)

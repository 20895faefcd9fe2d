"""Architectures of which one takes its process down."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from genkernel.bench.architectures import LARGE, Architecture, Built


class Deadly(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        os._exit(9)


def architectures() -> list[Architecture]:
    def build(kind: type[nn.Linear]) -> Built:
        return Built(kind(3, 2), lambda n: torch.randn(n, 3, dtype=torch.float64))

    return [
        Architecture("first", "test", lambda: build(nn.Linear), size=LARGE),
        Architecture("deadly", "test", lambda: build(Deadly)),
        Architecture("last", "test", lambda: build(nn.Linear)),
    ]

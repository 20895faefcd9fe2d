"""A linear regression that the tests of stochastic paths share."""

from __future__ import annotations

import torch
from torch import Tensor

from genkernel.paths.stochastic.problems import LinearRegression


def regression(n: int = 6, parameters: int = 3, seed: int = 0) -> tuple[LinearRegression, Tensor, Tensor]:
    """The problem with largest Hessian eigenvalue 1, θ_0 and a query."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(n, parameters)
    x = x / torch.linalg.eigvalsh(x.T @ x / n)[-1].sqrt()
    y = x @ normal(parameters) + 0.5 * normal(n)
    return LinearRegression(x, y), normal(parameters), normal(parameters)

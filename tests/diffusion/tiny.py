"""A denoiser small enough for exact comparisons: 1×4×4 samples, sinusoidal embedding, time MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.schedule import NoiseSchedule


class Sinusoid(nn.Module):
    """Raw timestep embedding ``[n, dim]``."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000.0) * torch.arange(self.dim // 2) / (self.dim // 2))
        phase = t[:, None].float() * rates.to(t.device)
        return torch.cat([phase.cos(), phase.sin()], -1)


class TinyDenoiser(nn.Module):
    """Two hidden layers; the embedding multiplies and shifts the features when ``timed``."""

    def __init__(self, width: int = 12, dim: int = 8, timed: bool = True):
        super().__init__()
        self.timed = timed
        self.embedding = Sinusoid(dim)
        self.time_mlp = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.inner = nn.Linear(16, width)
        self.middle = nn.Linear(width, width)
        self.outer = nn.Linear(width, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.time_mlp(self.embedding(t).to(x.dtype)).chunk(2, -1)
        if not self.timed:
            scale, shift = 0 * scale, 0 * shift
        h = torch.tanh(self.inner(x.flatten(1)) * (1 + scale) + shift)
        h = torch.tanh(self.middle(h))
        return self.outer(h).view_as(x)


def tiny_denoiser(
    prediction_type: str = "epsilon", timed: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TinyDenoiser(timed=timed).to(dtype)
    schedule = NoiseSchedule.vp(timesteps=1000, prediction_type=prediction_type)
    return Denoiser(net, schedule, (1, 4, 4), embedding="embedding", time_mlp="time_mlp")


def tiny_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))

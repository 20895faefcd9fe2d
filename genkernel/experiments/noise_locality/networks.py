"""Small denoisers whose way of being told the time can be exchanged: a perceptron in the plane, a convolutional one.

Both add a linear image of the time features to every hidden layer, as the network of Ho et al. (2020) does, and differ
from it in size alone. Activations are smooth, so that recordings close.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError

EMBEDDINGS = ("sinusoidal", "log-SNR Fourier", "constant", "permuted")
_TOLD = 0.5  # of the schedule: the time that a network with a constant embedding is always told


class Embedding(nn.Module):
    """Timesteps ``[n]`` to vectors ``[n, d]``, from a table: nothing in it is trained.

    Args:
        table: one row per timestep ``[T, d]``.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, t: Tensor) -> Tensor:
        return self.table[t.long()]


def sinusoid(times: Tensor, dim: int, longest: float = 10000.0) -> Tensor:
    """Cosines and sines of the times ``[n]`` at ``dim / 2`` rates from 1 down to 1/longest ``[n, dim]`` (DDPM)."""
    half = dim // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, dtype=torch.float64) / half)
    phase = times.double()[:, None] * rates
    return torch.cat([phase.cos(), phase.sin()], 1).float()


def embedding(kind: str, schedule: NoiseSchedule, dim: int, blocks: int) -> Embedding:
    """One of :data:`EMBEDDINGS`.

    * ``"sinusoidal"``: Ho et al. (2020), of the timestep.
    * ``"log-SNR Fourier"``: cosines and sines of log-SNR at rates 2π·(1/2 … 8)/40 per nat (after Song et al. 2021,
      whose rates are random), so that differences of log-SNR decide.
    * ``"constant"``: that of one timestep, always: the network sees its noise level in the input alone.
    * ``"permuted"``: sinusoidal, with blocks of neighbouring timesteps in another order (:func:`block_order`).

    Args:
        schedule: discrete.
        dim: even.
        blocks: of the permutation.

    Raises:
        InputError: another name.
    """
    steps = int(schedule.span)
    t = torch.arange(steps)
    if kind == "sinusoidal":
        return Embedding(sinusoid(t, dim))
    if kind == "log-SNR Fourier":
        rates = 2 * math.pi * torch.logspace(-1, 3, dim // 2, base=2.0, dtype=torch.float64) / 40
        phase = schedule.log_snr(t)[:, None] * rates
        return Embedding(torch.cat([phase.cos(), phase.sin()], 1).float())
    if kind == "constant":
        return Embedding(sinusoid(torch.full((steps,), _TOLD * (steps - 1)), dim))
    if kind == "permuted":
        return Embedding(sinusoid(permuted(t, steps, blocks), dim))
    raise InputError(f"an embedding is one of {', '.join(EMBEDDINGS)}, not {kind!r}")


def block_order(blocks: int) -> list[int]:
    """The place that every block of timesteps is told as, so that no neighbours stay neighbours (4 blocks or more).

    Odd places in order, then even ones: eight blocks 0 1 2 3 4 5 6 7 are told as 1 3 5 7 0 2 4 6.
    """
    return [*range(1, blocks, 2), *range(0, blocks, 2)]


def permuted(t: Tensor, steps: int, blocks: int) -> Tensor:
    """Times ``[n]`` with their blocks exchanged; within a block they keep their order."""
    order = torch.tensor(block_order(blocks))
    edges = torch.round(torch.arange(blocks + 1) * steps / blocks).long()
    block = torch.bucketize(t, edges[1:-1], right=True)
    return edges[order[block]] + (t - edges[block])


class PlaneDenoiser(nn.Module):
    """Points ``[n, 2]`` and timesteps ``[n]`` to noise ``[n, 2]``.

    Args:
        embedding: of the timesteps.
        width, depth: of the hidden layers, and their number.
        activation: of the hidden layers.
    """

    def __init__(
        self,
        embedding: Embedding,
        width: int = 64,
        depth: int = 3,
        activation: Callable[[Tensor], Tensor] = nn.functional.silu,
    ) -> None:
        super().__init__()
        self.embedding, self._activation = embedding, activation
        self.time_mlp = _time_mlp(embedding, width)
        self.hidden = nn.ModuleList(nn.Linear(2 if k == 0 else width, width) for k in range(depth))
        self.told = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        tau = nn.functional.silu(self.time_mlp(self.embedding(t)))
        for layer, told in zip(self.hidden, self.told, strict=True):
            x = self._activation(layer(x) + told(tau))
        return self.out(x)


class ImageDenoiser(nn.Module):
    """Grey images ``[n, 1, h, w]`` and timesteps ``[n]`` to noise of that shape: residual blocks at full resolution.

    Args:
        embedding: of the timesteps.
        channels: of the hidden maps, a multiple of 4.
        blocks: residual blocks of two convolutions.
    """

    def __init__(self, embedding: Embedding, channels: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = embedding
        self.time_mlp = _time_mlp(embedding, 2 * channels)
        self.inner = nn.Conv2d(1, channels, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.told = nn.ModuleList(nn.Linear(2 * channels, channels, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(4, channels) for _ in range(2 * blocks))
        self.second = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        tau = nn.functional.silu(self.time_mlp(self.embedding(t)))
        h = self.inner(x)
        for k, (first, told, second) in enumerate(zip(self.first, self.told, self.second, strict=True)):
            inside = first(nn.functional.silu(self.norms[2 * k](h))) + told(tau)[:, :, None, None]
            h = h + second(nn.functional.silu(self.norms[2 * k + 1](inside)))
        return self.out(nn.functional.silu(h))


def _time_mlp(embedding: Embedding, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(embedding.table.shape[1], width), nn.SiLU(), nn.Linear(width, width))


def rescaled(schedule: NoiseSchedule, variance: float) -> NoiseSchedule:
    """The same schedule with inputs divided by their standard deviation at their level, √(α² v + σ²).

    Args:
        variance: v of the entries of clean samples.
    """

    def scale(t: Tensor) -> Tensor:
        return 1 / torch.sqrt(schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2)

    return replace(schedule, scale_input=scale)


def denoiser(
    sample_shape: tuple[int, ...],
    kind: str,
    schedule: NoiseSchedule,
    *,
    width: int,
    depth: int,
    dim: int,
    blocks: int,
    seed: int,
) -> Denoiser:
    """A denoiser of points (``sample_shape`` of one size) or grey images, freshly initialised from the seed.

    Args:
        kind: of the embedding.
        width, depth: hidden units or channels, and hidden layers or residual blocks.
        dim, blocks: of the embedding.
    """
    told = embedding(kind, schedule, dim, blocks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plane = len(sample_shape) == 1
        module = PlaneDenoiser(told, width, depth) if plane else ImageDenoiser(told, width, depth)
    return Denoiser(module, schedule, sample_shape, data_range=(0.0, 1.0), embedding="embedding", time_mlp="time_mlp")

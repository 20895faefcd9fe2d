"""Filling segments of a line, and networks whose structure can do it exactly (Courtois et al., section 6.1).

The sum of two bits modulo 2 is |a - b| = relu(a - b) + relu(b - a): a convolution of two places into two channels, a
non-linearity, and a convolution of one place into one channel. Halving a sequence with it log₂ n times leaves the sum
modulo 2 of all of it, and the filling at place j is that of the first j places, padded with zeros on the left:

    fill(x)_j = g(g(… g(0 … 0 x_1 … x_j))),      g(z)_i = v · φ(W (z_2i, z_2i+1) + b) + c

with the same nine weights at every halving. All networks here hold a leading axis of replicates, which do not see each
other: sums of their losses and Adam, which works by coordinates, train each as if alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genkernel.errors import InputError

EXACT = {"W": [[1.0, -1.0], [-1.0, 1.0]], "v": [1.0, 1.0]}


def filled(x: Tensor) -> Tensor:
    """The cumulative sum modulo 2 along the last axis (eq. 10)."""
    return x.cumsum(-1).round() % 2


def lines(length: int, ones: int, count: int, draw: torch.Generator) -> Tensor:
    """Random sequences with so many ones ``[count, length]``, float32."""
    places = torch.rand(count, length, generator=draw).argsort(1)[:, :ones]
    return torch.zeros(count, length).scatter_(1, places, 1.0)


def shifted(x: Tensor) -> Tensor:
    """The first j coordinates of each sequence with zeros on their left, for all j: ``[..., n]`` to ``[..., n, n]``."""
    n = x.shape[-1]
    places = torch.arange(n)[None, :] - (n - 1 - torch.arange(n))[:, None]  # [j, i]
    return torch.where(places >= 0, x[..., places.clamp_min(0)], 0.0)


@dataclass(frozen=True)
class Structure:
    """How a halving is built.

    Attributes:
        reach: places that its first convolution sees, 2 or more; those beyond the pair are on the left, zeros outside.
        between: channels of two further convolutions, each of three places, between the two; 0 for none.
    """

    reach: int = 2
    between: int = 0


class Absolute(nn.Module):
    """|x| / 2: two channels of it sum to |a - b|."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs() / 2


class Filler(nn.Module):
    """Replicates of the network, each with its own weights.

    Args:
        replicates: R.
        structure: of a halving.
        seed: of the weights: normal, with variance two over the inputs of a unit; biases 0.
        activation: φ.
    """

    def __init__(
        self,
        replicates: int,
        structure: Structure,
        seed: int,
        activation: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.structure, self.activation = structure, activation or nn.ReLU()
        wide = structure.between or 2

        def weight(*shape: int) -> nn.Parameter:
            scale = math.sqrt(2 / math.prod(shape[1:]))
            return nn.Parameter((scale * torch.randn(replicates, *shape, generator=draw)).to(dtype))

        def bias(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(replicates, *shape, dtype=dtype))

        self.first, self.first_bias = weight(wide, structure.reach), bias(wide)
        self.between = nn.ParameterList([weight(wide, wide, 3) for _ in range(2 if structure.between else 0)])
        self.between_bias = nn.ParameterList([bias(wide) for _ in self.between])
        self.last, self.last_bias = weight(1, wide), bias(1)

    def forward(self, x: Tensor) -> Tensor:
        """Fillings ``[R, b, n]`` of every replicate's own sequences ``[R, b, n]``, or of shared ones ``[b, n]``.

        Raises:
            InputError: n is no power of two.
        """
        n, replicates = x.shape[-1], len(self.first)
        if n & (n - 1):
            raise InputError(f"the structure halves: it takes sequences of 2, 4, 8, … places, not of {n}")
        z = shifted(x.expand(replicates, *x.shape[-2:])).flatten(1, 2)  # [R, b n, n]
        while z.shape[-1] > 1:
            z = self.halved(z)
        return z.reshape(replicates, *x.shape[-2:])

    def halved(self, z: Tensor) -> Tensor:
        """One halving, ``[R, k, n]`` to ``[R, k, n / 2]``."""
        left = self.structure.reach - 2
        windows = nn.functional.pad(z, (left, 0)).unfold(2, self.structure.reach, 2)  # [R, k, n/2, reach]
        h = self.activation(torch.einsum("rcw,rkiw->rkic", self.first, windows) + self.first_bias[:, None, None])
        for weight, bias in zip(self.between, self.between_bias, strict=True):
            spread = nn.functional.pad(h, (0, 0, 1, 1)).unfold(2, 3, 1)  # [R, k, n/2, c, 3]
            h = self.activation(torch.einsum("rdcw,rkicw->rkid", weight, spread) + bias[:, None, None])
        return torch.einsum("rc,rkic->rki", self.last[:, 0], h) + self.last_bias[:, :, None]


def exact(replicates: int = 1, noise: float = 0.0, seed: int = 0, activation: nn.Module | None = None) -> Filler:
    """The network that fills exactly, with normal noise on all nine weights; float64 for one, float32 for more.

    With GELU, d · Φ(d) + (-d) · Φ(-d) = d · erf(d / √2): the last weights make up for erf(1 / √2).
    """
    net = Filler(replicates, Structure(), seed, activation, torch.float64 if replicates == 1 else torch.float32)
    draw = torch.Generator().manual_seed(seed)
    height = 1 / math.erf(1 / math.sqrt(2)) if isinstance(activation, nn.GELU) else 1.0
    with torch.no_grad():
        net.first.copy_(torch.tensor(EXACT["W"], dtype=torch.float64))
        net.last.copy_(height * torch.tensor(EXACT["v"], dtype=torch.float64)[None])
        for p in net.parameters():
            p.add_(noise * torch.randn(p.shape, generator=draw).to(p.dtype))
    return net


def all_lines(length: int) -> Tensor:
    """All sequences of zeros and ones ``[2^length, length]``, float64."""
    return ((torch.arange(2**length)[:, None] >> torch.arange(length)) & 1).double()


@torch.no_grad()
def largest_error(net: Filler, length: int, chunk: int = 2048) -> float:
    """Of the first replicate, over all sequences of a length."""
    return max(float((net(part)[0] - filled(part)).abs().max()) for part in all_lines(length).split(chunk))


def train(net: Filler, length: int, ones: int, steps: int, batch: int, rate: float, seed: int) -> None:
    """Adam on the mean squared error, new sequences in every step, of every replicate its own."""
    draw, replicates = torch.Generator().manual_seed(seed), len(net.first)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = lines(length, ones, replicates * batch, draw).reshape(replicates, batch, length)
        loss = (net(x) - filled(x)).square().mean((1, 2)).sum()  # of each replicate its own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def errors(net: Filler, length: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean squared error, and share of wrong places after rounding, by numbers of ones 0 … n: ``[n + 1, R]`` each."""
    draw = torch.Generator().manual_seed(seed)
    squares, wrong = [], []
    for ones in range(length + 1):
        x = lines(length, ones, count, draw)
        out, y = net(x), filled(x)
        squares.append((out - y).square().mean((1, 2)))
        wrong.append(((out > 0.5) != (y > 0.5)).double().mean((1, 2)))
    return torch.stack(squares).double(), torch.stack(wrong)

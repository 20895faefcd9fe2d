"""Small classifiers of small grey images, of as many kinds as there are: fully connected, convolutional, attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from genkernel.models.paper_classifiers import CLASSES, perceptron

SIDE = 14  # pixels of the images
PATCH = 2  # pixels of a token

Make = Callable[[], nn.Module]


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """Self-attention of tokens ``[n, t, d]`` with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.inward(x).chunk(3, dim=-1)
        weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
        return self.outward(weights @ value)


class Transposed(nn.Module):
    """A layer over tokens in the place of one over their entries."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.transpose(1, 2)).transpose(1, 2)


class Tokens(nn.Module):
    """Patches of images as tokens with learned positions, blocks over them, and a linear layer on their mean."""

    def __init__(self, width: int, *blocks: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.1 * torch.randn((SIDE // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.last = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.positions).mean(1))


def normed_perceptron(width: int, depth: int) -> nn.Sequential:
    """Fully connected, with layer norm before every ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before in [SIDE * SIDE] + [width] * (depth - 1):
        layers += [nn.Linear(before, width), nn.LayerNorm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def residual_perceptron(width: int, depth: int) -> nn.Sequential:
    """Fully connected blocks around which the input goes."""
    blocks = [Residual(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, width), *blocks, nn.ReLU(), nn.Linear(width, CLASSES))


def convolutional(
    widths: tuple[int, ...],
    activation: Make = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    pool: Callable[[int], nn.Module] = nn.MaxPool2d,
    *,
    averaged: bool = False,
) -> nn.Sequential:
    """Convolutions with pooling by 2, then a linear layer on all pixels or on their mean."""
    layers: list[nn.Module] = []
    for before, after in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), *([norm(after)] if norm else []), activation(), pool(2)]
    side = 1 if averaged else SIDE // 2 ** len(widths)
    layers += [nn.AdaptiveAvgPool2d(1)] if averaged else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, CLASSES))


def residual_convolutional(width: int, blocks: int) -> nn.Sequential:
    """Residual blocks with batch norm on images of half the side, averaged over pixels."""

    def block() -> nn.Module:
        convolution = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        return Residual(convolution[0], nn.BatchNorm2d(width), nn.ReLU(), convolution[1], nn.BatchNorm2d(width))

    layers = [layer for _ in range(blocks) for layer in (block(), nn.ReLU())]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ReLU(), *layers, *head)


def transformer(width: int, depth: int) -> Tokens:
    """Pre-norm blocks of attention and of two linear layers."""
    blocks = [
        nn.Sequential(
            Residual(nn.LayerNorm(width), Attention(width)),
            Residual(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
        )
        for _ in range(depth)
    ]
    return Tokens(width, *blocks)


def mixer(width: int, depth: int) -> Tokens:
    """Linear layers over tokens and over their entries in turn."""
    tokens = (SIDE // PATCH) ** 2

    def two(size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    blocks = [
        nn.Sequential(Residual(nn.LayerNorm(width), Transposed(two(tokens))), Residual(nn.LayerNorm(width), two(width)))
        for _ in range(depth)
    ]
    return Tokens(width, *blocks)


PIXELS = SIDE * SIDE
ARCHITECTURES: dict[str, Make] = {
    "MLP 16": lambda: perceptron(PIXELS, (16,)),
    "MLP 256": lambda: perceptron(PIXELS, (256,)),
    "MLP 64 × 3, tanh": lambda: perceptron(PIXELS, (64,) * 3, activation=nn.Tanh),
    "MLP 64 × 6": lambda: perceptron(PIXELS, (64,) * 6),
    "MLP 64 × 3, layer norm": lambda: normed_perceptron(64, 3),
    "residual MLP 64 × 3": lambda: residual_perceptron(64, 3),
    "CNN 8-16": lambda: convolutional((8, 16)),
    "CNN 8-16, tanh, mean pooling": lambda: convolutional((8, 16), nn.Tanh, pool=nn.AvgPool2d),
    "CNN 8-16, batch norm": lambda: convolutional((8, 16), norm=nn.BatchNorm2d),
    "CNN 16-32, group norm, GELU": lambda: convolutional((16, 32), nn.GELU, lambda c: nn.GroupNorm(4, c)),
    "CNN 16-32, averaged": lambda: convolutional((16, 32), averaged=True),
    "residual CNN 16 × 2": lambda: residual_convolutional(16, 2),
    "transformer 24 × 1": lambda: transformer(24, 1),
    "mixer 24 × 1": lambda: mixer(24, 1),
}


def build(name: str, seed: int) -> nn.Module:
    """A network with weights from the seed; the random state of the process stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name]()

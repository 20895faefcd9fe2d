"""Small networks with and without symmetries, the transformations, and tasks on which symmetries matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

SIDE, TOKENS, ENTRIES, CLASSES = 8, 10, 4, 4
CHANNELS, WIDTH = 6, 16
SHIFTS, PERMUTATIONS, REFLECTION = "cyclic shifts", "permutations", "reflection"

Map = Callable[[Tensor], Tensor]


class MeanOver(nn.Module):
    """The mean over some axes: of pixels, or of tokens."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


class Averaged(nn.Module):
    """The mean of a network's outputs over transformed inputs: invariant if these are a group."""

    def __init__(self, body: nn.Module, group: Sequence[Map]) -> None:
        super().__init__()
        self.body = body
        self.group = list(group)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.body(move(x)) for move in self.group]).mean(0)


class Attention(nn.Module):
    """One block of self-attention on tokens ``[n, t, e]``, averaged over tokens.

    Args:
        positions: add a learned vector to every token.
        causal: tokens attend to earlier ones and themselves.
    """

    def __init__(self, *, positions: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.inward = nn.Linear(ENTRIES, WIDTH)
        self.positions = nn.Parameter(0.5 * torch.randn(TOKENS, WIDTH)) if positions else None
        self.all_three = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x)
        if self.positions is not None:
            h = h + self.positions
        query, key, value = self.all_three(h).chunk(3, dim=-1)
        scores = query @ key.transpose(-2, -1) / WIDTH**0.5
        if self.causal:
            later = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.last(self.norm(h + scores.softmax(-1) @ value).tanh().mean(1))


def convolutions(
    padding: Literal["circular", "zeros"] = "circular",
    *,
    stride: int = 1,
    pool: bool = False,
    head: str = "mean",
    norm: bool = False,
) -> nn.Sequential:
    """Two convolutions, then the mean over pixels, all of them, or one more convolution in the place of a head.

    Args:
        padding: ``"circular"`` or ``"zeros"``.
        stride: of the first one.
        pool: take the largest of 2 × 2 pixels after it.
        head: ``"mean"``, ``"flatten"`` or ``"pixels"`` (an output for every pixel).
        norm: group norm after the first one.
    """
    side = SIDE // stride // (2 if pool else 1)
    one = nn.Conv2d(1, CHANNELS, 3, stride=stride, padding=1, padding_mode=padding)
    two = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode=padding)
    layers: list[nn.Module] = [one, *([nn.GroupNorm(2, CHANNELS)] if norm else []), nn.Tanh()]
    layers += [*([nn.MaxPool2d(2)] if pool else []), two, nn.Tanh()]
    if head == "mean":
        layers += [MeanOver(2, 3), nn.Linear(CHANNELS, CLASSES)]
    elif head == "flatten":
        layers += [nn.Flatten(), nn.Linear(CHANNELS * side * side, CLASSES)]
    else:
        layers += [nn.Conv2d(CHANNELS, CLASSES, 1)]
    return nn.Sequential(*layers)


def fully_connected(features: int) -> nn.Sequential:
    """One hidden layer on all entries."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def deep_set() -> nn.Sequential:
    """A network of every token, the mean over tokens, and a network of that."""
    each = (nn.Linear(ENTRIES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
    return nn.Sequential(*each, MeanOver(1), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def shifted(rows: int, columns: int) -> Map:
    """Cyclic shift of images ``[n, C, h, w]``."""
    return lambda x: x.roll((rows, columns), (2, 3))


def permuted(order: Tensor) -> Map:
    """Another order of tokens ``[n, t, e]``."""
    return lambda x: x[:, order]


def reflected(x: Tensor) -> Tensor:
    """Left and right of images exchanged."""
    return x.flip(3)


def every_shift(step: int = 1) -> list[Map]:
    """All cyclic shifts by multiples of ``step``, the identity first."""
    return [shifted(a, b) for a in range(0, SIDE, step) for b in range(0, SIDE, step)]


def transformations(symmetry: str, count: int, seed: int, step: int = 1) -> list[Map]:
    """Random ones, none of which is the identity; the reflection is one.

    Args:
        symmetry: which.
        count: how many.
        seed: of the draw.
        step: of shifts.
    """
    draw = torch.Generator().manual_seed(seed)
    if symmetry == REFLECTION:
        return [reflected]
    if symmetry == PERMUTATIONS:
        orders = [torch.randperm(TOKENS, generator=draw) for _ in range(2 * count)]
        return [permuted(order) for order in orders if not torch.equal(order, torch.arange(TOKENS))][:count]
    moves = every_shift(step)[1:]
    return [moves[i] for i in torch.randperm(len(moves), generator=draw)[:count].tolist()]


@dataclass(frozen=True)
class Case:
    """A network and a symmetry it may have.

    Attributes:
        symmetry: which transformations.
        make: the network.
        exact: K(Tx, x') = K(x, x') for every T, by construction.
        both: K(Tx, Tx') = K(x, x') for every T, by construction.
        step: of shifts.
        augmented: trained on transformed samples as well.
    """

    symmetry: str
    make: Callable[[], nn.Module]
    exact: bool = False
    both: bool = False
    step: int = 1
    augmented: bool = False


PIXELS = SIDE * SIDE
CIRCULAR, NORMED, PER_PIXEL = "circular, mean", "circular, group norm, mean", "circular, output per pixel"
ZEROS, STRIDED, EVEN = "zero padding, mean", "circular, stride 2, mean", "circular, stride 2, even shifts"
POOLED, FLAT, DENSE = "circular, max pooling, mean", "circular, flatten", "fully connected"
DENSE_AVERAGED, DENSE_AUGMENTED = "fully connected, averaged over shifts", "fully connected, augmented"
DEEP_SET, ATTENTION = "deep set", "attention, mean"
POSITIONS, CAUSAL, DENSE_SET = "attention, positions", "attention, causal", "fully connected on tokens"
ONE_WAY, BOTH_WAYS, AUGMENTED = "circular, mean; mirrored", "averaged over both; mirrored", "augmented; mirrored"

CASES: dict[str, Case] = {
    CIRCULAR: Case(SHIFTS, convolutions, True, True),
    NORMED: Case(SHIFTS, lambda: convolutions(norm=True), True, True),
    PER_PIXEL: Case(SHIFTS, lambda: convolutions(head="pixels"), False, True),
    EVEN: Case(SHIFTS, lambda: convolutions(stride=2), True, True, step=2),
    STRIDED: Case(SHIFTS, lambda: convolutions(stride=2)),
    POOLED: Case(SHIFTS, lambda: convolutions(pool=True)),
    ZEROS: Case(SHIFTS, lambda: convolutions("zeros")),
    FLAT: Case(SHIFTS, lambda: convolutions(head="flatten")),
    DENSE: Case(SHIFTS, lambda: fully_connected(PIXELS)),
    DENSE_AUGMENTED: Case(SHIFTS, lambda: fully_connected(PIXELS), augmented=True),
    DENSE_AVERAGED: Case(SHIFTS, lambda: Averaged(fully_connected(PIXELS), every_shift()), True, True),
    DEEP_SET: Case(PERMUTATIONS, deep_set, True, True),
    ATTENTION: Case(PERMUTATIONS, Attention, True, True),
    POSITIONS: Case(PERMUTATIONS, lambda: Attention(positions=True)),
    CAUSAL: Case(PERMUTATIONS, lambda: Attention(causal=True)),
    DENSE_SET: Case(PERMUTATIONS, lambda: fully_connected(TOKENS * ENTRIES)),
    BOTH_WAYS: Case(REFLECTION, lambda: Averaged(convolutions(), (lambda x: x, reflected)), True, True),
    ONE_WAY: Case(REFLECTION, convolutions),
    AUGMENTED: Case(REFLECTION, convolutions, augmented=True),
}


def build(case: Case, seed: int) -> nn.Module:
    """A network in float64 with weights from the seed; the random state of the process stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return case.make().double()


def patterns(count: int, seed: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Noisy images ``[n, 1, s, s]`` with one of four patterns of 3 × 3 pixels at one place, and which ``[n]``.

    Args:
        count: images.
        seed: of the patterns.
        numbers: of the images' noise and classes.
    """
    shapes = torch.randn(CLASSES, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draw = torch.Generator().manual_seed(numbers)
    y = torch.arange(count) % CLASSES
    x = 0.2 * torch.randn(count, 1, SIDE, SIDE, generator=draw, dtype=torch.float64)
    x[:, 0, 2:5, 2:5] += shapes[y]
    return x, y


def sets(count: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Tokens ``[n, t, e]`` in the order of their first entry, and the entry with the largest mean square ``[n]``."""
    draw = torch.Generator().manual_seed(numbers)
    x = torch.randn(count, TOKENS, ENTRIES, generator=draw, dtype=torch.float64)
    y = torch.arange(count) % CLASSES
    x[torch.arange(count), :, y] *= 2.0  # of one entry, so that classes can be told apart
    order = x[:, :, 0].argsort(1)
    return x.gather(1, order[..., None].expand_as(x)), x.square().mean(1).argmax(1)

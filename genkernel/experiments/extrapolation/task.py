"""Digits to learn, the networks that learn them, and images that are further and further from them."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.data.printed import LETTERS as ALPHABET
from genkernel.data.printed import printed_characters
from genkernel.experiments.extrapolation.setting import Setting
from genkernel.experiments.fitting import Look, fit
from genkernel.experiments.out_of_distribution.task import balanced
from genkernel.models.paper_classifiers import CLASSES, ThreeStageCNN

CAPITALS = "".join(letter for letter in ALPHABET if letter.isupper())  # 24: I and O are printed as 1 and 0
TURNED, TURNED_PRINTED, SHRUNK, MIXED = (
    "handwritten digits, turned",
    "printed digits, turned",
    "printed digits, shrunk",
    "handwritten turning into printed",
)
FAMILIES = (TURNED, TURNED_PRINTED, SHRUNK, MIXED)


@dataclass(frozen=True)
class Pool:
    """MNIST to draw from: images ``[N, 1, s, s]`` in [0, 1] and classes ``[N]``, for training and held out."""

    images: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor


def read(folder: str | Path) -> Pool:
    """All of ``mnist.npz``.

    Raises:
        MissingError: the folder does not hold it.
    """
    from genkernel.data import load_images
    from genkernel.experiments.shrunk_images import require

    require(folder, "mnist")
    found = [load_images(Path(folder).expanduser() / "mnist.npz", channels=1, split=s) for s in ("train", "test")]
    assert found[0].labels is not None and found[1].labels is not None
    return Pool(found[0].images, found[0].labels.long(), found[1].images, found[1].labels.long())


def trained(
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float,
    dropout: float,
    seed: int,
    look: Look | None = None,
    at: tuple[int, ...] = (),
) -> tuple[nn.Module, nn.Module]:
    """The network of section 5.1 of Guo, He & Morel, before and after Adam on the cross-entropy of its ten logits.

    Args:
        x, y: images ``[n, 1, s, s]`` and classes ``[n]``.
        steps, batch, rate: of Adam.
        dropout: in training; kernels are of the network without.
        seed: of the weights, the batches and the dropout.
        look, at: as for :func:`~genkernel.experiments.fitting.fit`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ThreeStageCNN(size=x.shape[-1], dropout=dropout)
    start = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    fit(network, x, y, F.cross_entropy, optimizer, steps, batch=batch, seed=seed, look=look, at=at)
    return start, network


@dataclass(frozen=True)
class Images:
    """What one network learns and is shown; classes are in turn in all sets.

    Attributes:
        x, y: training images and classes.
        seen, seen_labels: those of them in the kernel.
        held, held_labels: handwritten digits that it has not seen.
        printed, printed_labels: of DejaVu fonts.
        letters, letter_labels: capitals; labels are places in :data:`CAPITALS`.
        families: name → level → (images, classes).
    """

    x: Tensor
    y: Tensor
    seen: Tensor
    seen_labels: Tensor
    held: Tensor
    held_labels: Tensor
    printed: Tensor
    printed_labels: Tensor
    letters: Tensor
    letter_labels: Tensor
    families: dict[str, dict[float, tuple[Tensor, Tensor]]]


def draw(pool: Pool, setting: Setting, seed: int) -> Images:
    """Images of one network."""
    digits = range(CLASSES)
    rows = balanced(pool.labels, digits, CLASSES * setting.per_class, seed)
    held = balanced(pool.held_labels, digits, CLASSES * setting.printed, seed)
    size = pool.images.shape[-1]
    printed = printed_characters(count=setting.printed, size=size, seed=seed)
    letters = printed_characters(CAPITALS, count=setting.letters, size=size, seed=seed)
    assert printed.labels is not None and letters.labels is not None
    kept = rows[: CLASSES * setting.seen]
    return Images(
        pool.images[rows], pool.labels[rows], pool.images[kept], pool.labels[kept],
        pool.held[held], pool.held_labels[held], printed.images, printed.labels, letters.images, letters.labels,
        families(pool.held[held], pool.held_labels[held], setting, seed),
    )  # fmt: skip


def families(
    handwritten: Tensor, labels: Tensor, setting: Setting, seed: int
) -> dict[str, dict[float, tuple[Tensor, Tensor]]]:
    """Images that go away from handwritten digits step by step; the same digits, fonts and draws at every level.

    Args:
        handwritten, labels: classes in turn, as printed digits are.
    """
    count, size = setting.further, handwritten.shape[-1]
    x, y = handwritten[: CLASSES * count], labels[: CLASSES * count]

    def printed(height: tuple[float, float], rotation: float) -> Tensor:
        return printed_characters(count=count, size=size, height=height, rotation=rotation, shift=0, seed=seed).images

    upright = printed((setting.height, setting.height), 0)
    heights = {h: printed((h, h), 0) for h in setting.heights}
    turns = {a: printed((setting.height, setting.height), a) for a in setting.turns}
    return {
        TURNED: {a: (turned(x, a, seed), y) for a in setting.turns},
        TURNED_PRINTED: {a: (images, y) for a, images in turns.items()},
        SHRUNK: {h: (images, y) for h, images in heights.items()},
        MIXED: {m: ((1 - m) * x + m * upright, y) for m in setting.mixtures},
    }


def turned(images: Tensor, most: float, seed: int) -> Tensor:
    """Images ``[n, 1, s, s]`` turned about their centres by angles uniform within ``most`` degrees either way.

    One seed draws the same share of ``most`` for an image whatever ``most`` is.
    """
    share = 2 * torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) - 1
    angle = share * most * math.pi / 180
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(images))
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)

"""Digits, and colour images of ten kinds, with the convolutional networks that learn them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import InputError

DIGITS, EMOJI = "MNIST", "colour emoji"
FILES = {DIGITS: "mnist", EMOJI: "emoji32"}
HEADS = {DIGITS: (128,), EMOJI: (256, 128)}  # fully connected layers, as the paper has them for MNIST and CIFAR-10
CLASSES = 10
RATE, MOMENTUM, BATCH = 0.015, 0.9, 20

# first code points of emoji, by the blocks of Unicode's charts that show things of one kind
KINDS: dict[str, tuple[tuple[int, int], ...]] = {
    "flags": ((0x1F1E6, 0x1F1FF),),
    "faces": (
        (0x1F600, 0x1F637), (0x1F641, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F925), (0x1F927, 0x1F92F),
        (0x1F970, 0x1F976),
    ),
    "hands": (
        (0x1F446, 0x1F450), (0x1F590, 0x1F596), (0x1F90C, 0x1F90C), (0x1F90F, 0x1F90F), (0x1F918, 0x1F91F),
        (0x1FAF0, 0x1FAF8), (0x261D, 0x261D), (0x270A, 0x270D),
    ),
    "people": ((0x1F468, 0x1F469), (0x1F9D1, 0x1F9D1)),
    "animals": ((0x1F400, 0x1F43E), (0x1F980, 0x1F9AE)),
    "food": ((0x1F32D, 0x1F32F), (0x1F345, 0x1F37F), (0x1F950, 0x1F96F)),
    "vehicles": ((0x1F680, 0x1F6A2), (0x1F6E9, 0x1F6FC)),
    "sky": ((0x1F300, 0x1F32C),),
    "office": ((0x1F4BA, 0x1F4F0),),
    "buttons": ((0x1F191, 0x1F19A), (0x1F201, 0x1F251), (0x1F500, 0x1F53D)),
}  # fmt: skip
TONES = (0x1F3FB, 0x1F3FF)  # skin tones: the same picture once more in another colour


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        seeds: networks for each set, each on its own draw of images.
        per_class: training images of each class.
        shown: images of each class in a kernel, of training images and of held-out ones.
        epochs: of SGD, at most.
        permuted_epochs: the same on permuted labels, which take longer.
        until: mean loss of an epoch, with dropout, at which a training ends.
    """

    seeds: int = 3
    per_class: int = 28
    shown: int = 10
    epochs: int = 80
    permuted_epochs: int = 120
    until: float = 0.1


QUICK = Setting(seeds=2, per_class=10, shown=5, epochs=25, permuted_epochs=15)


@dataclass(frozen=True)
class Images:
    """Images of ten classes, with the classes in turn.

    Attributes:
        x, y: training images ``[n, C, s, s]`` and classes ``[n]``; pixels minus their mean over their spread, of each
            channel of the training images.
        held, held_y: other images of the same kind.
        names: of the classes.
    """

    x: Tensor
    y: Tensor
    held: Tensor
    held_y: Tensor
    names: tuple[str, ...]


def kind_of(name: str) -> int | None:
    """Which of the kinds an emoji is, from the code points in its name (``"1f600"``); None for others.

    Emoji with a skin tone are left out: they are copies of pictures without.
    """
    points = [int(part, 16) for part in name.split("-")]
    if any(TONES[0] <= point <= TONES[1] for point in points):
        return None
    for i, ranges in enumerate(KINDS.values()):
        if any(low <= points[0] <= high for low, high in ranges):
            return i
    return None


def emoji(path: str | Path) -> tuple[Tensor, Tensor]:
    """Pictures ``[n, 3, s, s]`` in [0, 1] of the ten kinds and their kinds ``[n]``, each picture once.

    Raises:
        InputError: the file has no arrays ``x`` and ``name``.
    """
    with np.load(path, allow_pickle=False) as held:
        if not {"x", "name"} <= set(held.files):
            raise InputError(f"{path} has no arrays x and name")
        pictures, names = held["x"], held["name"].tolist()
    seen: set[bytes] = set()
    rows, kinds = [], []
    for row, name in enumerate(names):
        kind, picture = kind_of(name), pictures[row].tobytes()
        if kind is not None and picture not in seen:  # some territories have one flag
            seen.add(picture)
            rows.append(row)
            kinds.append(kind)
    x = torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2).float() / 255
    return x, torch.tensor(kinds)


def draw(data: str | Path, name: str, setting: Setting, seed: int) -> Images:
    """Training and held-out images of a set, as many of each class, drawn with the seed.

    Raises:
        MissingError: the folder does not hold the set.
    """
    from genkernel.data import load_images
    from genkernel.experiments.out_of_distribution.task import balanced
    from genkernel.experiments.shrunk_images import require

    require(data, FILES[name])
    path = Path(data).expanduser() / f"{FILES[name]}.npz"
    if name == EMOJI:
        x, y = emoji(path)
        names = tuple(KINDS)
    else:
        many = 40 * CLASSES * (setting.per_class + setting.shown)  # for a random sample to have enough of each class
        found = load_images(path, split="train", limit=many, seed=seed)
        assert found.labels is not None
        x, y, names = found.images, found.labels.long(), tuple(str(c) for c in range(CLASSES))
    rows = balanced(y, range(CLASSES), CLASSES * (setting.per_class + setting.shown), seed)
    train, held = rows.split([CLASSES * setting.per_class, CLASSES * setting.shown])
    mean, spread = x[train].mean((0, 2, 3), keepdim=True), x[train].std((0, 2, 3), keepdim=True)
    x = (x - mean) / spread
    return Images(x[train], y[train], x[held], y[held], names)


def network(images: Images, name: str, seed: int) -> nn.Sequential:
    """The paper's network for a set, with weights from the seed."""
    from genkernel.models.paper_classifiers import ThreeStageCNN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ThreeStageCNN(images.x.shape[1], images.x.shape[-1], head=HEADS[name], classes=CLASSES)


def learn(net: nn.Module, x: Tensor, y: Tensor, epochs: int, until: float, seed: int) -> float:
    """Train by SGD with momentum on cross-entropy; the mean loss of the last epoch."""
    from genkernel.experiments.fitting import fit

    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    steps = epochs * -(-len(x) // BATCH)
    return fit(net, x, y, nn.functional.cross_entropy, optimizer, steps, batch=BATCH, seed=seed, until=until)

"""What the networks of the experiment on novelty learn, and the sets of images that they are shown then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.errors import InputError, MissingError

SEEN, OTHER = "test digits", "other test digits"
PRINTED, LETTERS, FASHION, NOISE, UNSEEN = "printed digits", "printed letters", "Fashion-MNIST", "noise", "digits 8, 9"
FOREIGN = (PRINTED, LETTERS, FASHION, NOISE, UNSEEN)
LEFT_OUT = (8, 9)
CLASSES = 10
ARCHITECTURES = ("MLP", "CNN")


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        per_class: training images of every class; all of them are in the kernel.
        count: images of every set.
        seeds: networks of every kind; the seed decides weights, training images and batches.
        steps, batch, lr: of Adam.
        ranked: training images of the rank gap, and new ones of every set.
        resamples: of the bootstrap over networks and images.
    """

    per_class: int = 200
    count: int = 300
    seeds: int = 5
    steps: int = 800
    batch: int = 64
    lr: float = 1e-3
    ranked: tuple[int, int] = (200, 30)
    resamples: int = 500


QUICK = Setting(per_class=20, count=60, seeds=2, steps=250, ranked=(60, 15), resamples=200)


class Classifier(nn.Module):
    """Images ``[n, 1, s, s]`` in [0, 1] to ten logits; two hidden layers or two convolutions, GELU."""

    def __init__(self, kind: str, size: int = 28) -> None:
        super().__init__()
        if kind == "MLP":
            body = [nn.Flatten(), nn.Linear(size * size, 100), nn.GELU(), nn.Linear(100, 50), nn.GELU()]
        elif kind == "CNN":
            side = (size + 3) // 4
            body = [
                nn.Conv2d(1, 8, 5, 2, 2), nn.GELU(), nn.Conv2d(8, 16, 5, 2, 2), nn.GELU(), nn.Flatten(),
                nn.Linear(16 * side * side, 50), nn.GELU(),
            ]  # fmt: skip
        else:
            raise InputError(f"networks are {' or '.join(ARCHITECTURES)}, not {kind!r}")
        self.body = nn.Sequential(*body)
        self.last = nn.Linear(50, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images))


@dataclass
class Images:
    """Training images to draw from, and sets to score.

    Attributes:
        pool, pool_labels: ``[N, 1, s, s]`` in [0, 1], and classes.
        sets: name → images ``[m, 1, s, s]``; test digits of all classes are among them.
        labels: name → classes, of sets that have them.
    """

    pool: Tensor
    pool_labels: Tensor
    sets: dict[str, Tensor]
    labels: dict[str, Tensor]


def read(data: str | Path | None, setting: Setting, seed: int) -> Images:
    """Images of all sets.

    Raises:
        MissingError: no data, or a file is not there.
    """
    from genkernel.data import load_images, printed_characters
    from genkernel.data.printed import LETTERS as ALPHABET

    names = ("mnist.npz", "fashion-mnist.npz")
    if data is None:
        raise MissingError(f"this experiment is of real images: give data=, a folder with {' and '.join(names)}")
    missing = [name for name in names if not (Path(data) / name).is_file()]
    if missing:
        raise MissingError(f"{data} holds no {missing[0]}: it has to be a folder with {' and '.join(names)}")
    digits, fashion = (Path(data) / name for name in names)
    count = setting.count
    pool = load_images(digits, split="train", limit=20 * CLASSES * setting.per_class, seed=seed)
    test = load_images(digits, split="test", limit=8 * count, seed=seed)
    assert pool.labels is not None and test.labels is not None
    seen, other = balanced(test.labels, range(CLASSES), 2 * count, seed).reshape(2, count)
    size = pool.images.shape[-1]
    numbers = printed_characters(count=-(-count // CLASSES), size=size, seed=seed)
    letters = printed_characters(ALPHABET, count=-(-count // len(ALPHABET)), size=size, seed=seed + 1)
    assert numbers.labels is not None
    draw = torch.Generator().manual_seed(seed)
    sets = {
        SEEN: test.images[seen],
        OTHER: test.images[other],
        PRINTED: numbers.images[:count],
        LETTERS: letters.images[torch.randperm(len(letters), generator=draw)[:count]],
        FASHION: load_images(fashion, split="test", limit=count, seed=seed, size=size).images,
        NOISE: noise(count, size, seed),
    }
    labels = {SEEN: test.labels[seen].long(), OTHER: test.labels[other].long(), PRINTED: numbers.labels[:count]}
    return Images(pool.images, pool.labels.long(), sets, labels)


def noise(count: int, size: int, seed: int) -> Tensor:
    """Independent uniform pixels, a random share of which is black, as most pixels of digits are."""
    draw = torch.Generator().manual_seed(seed)
    shape = (count, 1, size, size)
    lit = torch.rand(shape, generator=draw) < torch.rand(count, 1, 1, 1, generator=draw)
    return torch.rand(shape, generator=draw) * lit


def balanced(labels: Tensor, classes: Sequence[int] | range, count: int, seed: int) -> Tensor:
    """Rows of a random subset with the classes in turn ``[count]``.

    Raises:
        InputError: a class has too few.
    """
    draw = torch.Generator().manual_seed(seed)
    each = -(-count // len(classes))
    rows = []
    for c in classes:
        own = (labels == c).nonzero()[:, 0]
        if len(own) < each:
            raise InputError(f"{each} images of the class {c} are needed, and there are {len(own)}")
        rows.append(own[torch.randperm(len(own), generator=draw)[:each]])
    return torch.stack(rows, 1).flatten()[:count]


def train(images: Tensor, labels: Tensor, kind: str, setting: Setting, seed: int) -> Classifier:
    """A network after Adam with a cosine schedule, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(kind, images.shape[-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=setting.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(setting.steps):
        batch = torch.randint(len(images), (setting.batch,), generator=draw)
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()

"""What the comparison of predictions with trainings is made on: data, groups, a small network, two optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.experiments.retraining.groups import Optimisation

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the data."""

    samples: int = 960
    queries: int = 24
    groups: int = 24
    subsets: int = 96
    orders: int = 4
    steps: tuple[int, ...] = (60, 300)
    batch: int = 48
    width: int = 32
    checkpoints: int = 10
    resamples: int = 200

    def __post_init__(self) -> None:
        if self.orders < 2 or self.groups < 4 or self.samples < 10 * self.groups // 4:
            raise InputError("a comparison needs two or more batch orders, four or more groups, and samples for them")


QUICK = Setting(samples=240, queries=6, groups=16, subsets=32, orders=2, steps=(60,), batch=24, width=16, resamples=100)
OPTIMISATIONS = {"momentum": Optimisation("momentum", 0.03), "Adam": Optimisation("adam", 1e-2)}


@dataclass(frozen=True)
class Task:
    """Data of one comparison, float64.

    Attributes:
        data, queries: inputs and labels.
        classes: how many.
        group: the random group of every sample ``[n]``.
        source: in words.
    """

    data: Pair
    queries: Pair
    classes: int
    group: Tensor
    source: str

    @property
    def label(self) -> Tensor:
        return self.data[1]


def synthetic_task(setting: Setting, seed: int) -> Task:
    """Ten overlapping normal distributions in twenty dimensions, one label in twenty wrong."""
    draw = torch.Generator().manual_seed(seed)
    n = setting.samples + setting.queries
    label = torch.randint(10, (n,), generator=draw)
    centres = 0.75 * torch.randn(10, 20, generator=draw, dtype=torch.float64)
    x = centres[label] + torch.randn(n, 20, generator=draw, dtype=torch.float64)
    wrong = torch.rand(n, generator=draw) < 0.05
    wrong[setting.samples :] = False
    label = torch.where(wrong, torch.randint(10, (n,), generator=draw), label)
    return _task(x, label, setting, draw, "ten normal distributions in 20 dimensions, 5 % of the labels random")


def image_task(images: Any, setting: Setting, seed: int) -> Task:
    """Images with labels, shrunk to 7×7 and standardised.

    Raises:
        InputError: there are no labels, or too few images.
    """
    from genkernel.data import load_images

    n = setting.samples + setting.queries
    found = load_images(images, channels=1, size=28, limit=n, split="train", seed=seed)
    if found.labels is None or len(found) < n:
        raise InputError(f"retraining needs {n} labelled images, {found.describe()} does not have them")
    x = torch.nn.functional.avg_pool2d(found.images, 4).flatten(1).double()
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(n, generator=draw)
    x, label = x[mixed], found.labels[mixed].long()
    x = (x - x.mean(0)) / (x.std(0) + 0.1)
    return _task(x, label, setting, draw, f"{found.source}, 7×7 pixels")


def _task(x: Tensor, label: Tensor, setting: Setting, draw: torch.Generator, source: str) -> Task:
    n = setting.samples
    group = torch.randperm(n, generator=draw) % setting.groups
    return Task((x[:n], label[:n]), (x[n:], label[n:]), int(label.max()) + 1, group, source)


def network(task: Task, width: int, seed: int) -> nn.Module:
    """A tanh network with one hidden layer, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(task.data[0].shape[1], width), nn.Tanh(), nn.Linear(width, task.classes)]
        return nn.Sequential(*layers).double()

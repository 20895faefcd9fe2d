"""Small classifiers trained with a monitor, in health and with planted faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genkernel.errors import InputError
from genkernel.experiments.monitors.run import begin, finish, two_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

FAULTS = ("none", "label noise", "rare class", "group rate")
CLASSES = 10


@dataclass(frozen=True)
class ClassifierRun:
    """A training of a convolutional network on 16 × 16 images.

    Attributes:
        samples: that it is trained on, over and over.
        fault: one of :data:`FAULTS`; label noise and rare classes are there from the beginning.
        noise: share of wrong labels; rarity: how often the class ``rare`` is drawn, relative to the others.
        onset, factor, group: of a learning rate that is raised for parameters whose names begin so.
    """

    data: str = "mnist"
    samples: int = 1000
    width: int = 16
    lr: float = 2e-3
    batch: int = 32
    steps: int = 600
    every: int = 20
    seed: int = 0
    fault: str = "none"
    noise: float = 0.3
    rare: int = 0
    rarity: float = 0.02
    onset: int = 300
    factor: float = 30.0
    group: str = "4"

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise InputError(f"a fault is one of {', '.join(FAULTS)}, not {self.fault!r}")


def network(run: ClassifierRun) -> nn.Module:
    """The network, initialised from the seed."""
    import torch
    from torch import nn

    w = run.width
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        return nn.Sequential(
            nn.Conv2d(1, w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2 * w * 16, 64), nn.ReLU(), nn.Linear(64, CLASSES),
        )  # fmt: skip


def train(run: ClassifierRun, images: Tensor, labels: Tensor, log: str | Path, *, progress: bool = False) -> Path:
    """Train with a monitor on training samples and others that are held out; losses go beside the log.

    Args:
        images: ``[n, 1, 16, 16]`` in [0, 1]; labels ``[n]``. The last 120 are held out.

    Returns:
        Path: the log. One that is finished is left as it is.
    """
    import torch
    from tqdm import tqdm

    from genkernel.monitor import Monitor

    log, todo = begin(log)
    if not todo:
        return log
    draw = torch.Generator().manual_seed(run.seed)
    x, y = images[: run.samples], labels[: run.samples].clone()
    if run.fault == "label noise":
        wrong = torch.rand(len(y), generator=draw) < run.noise
        y = torch.where(wrong, (y + torch.randint(1, CLASSES, y.shape, generator=draw)) % CLASSES, y)
    weights = torch.ones(len(y), dtype=torch.float64)
    if run.fault == "rare class":
        weights[y == run.rare] = run.rarity
    net = network(run).train()
    optimizer = two_groups(net, run.group, run.lr)
    monitor = Monitor(
        net,
        data=x[:120],
        targets=y[:120],
        holdout=(images[-120:], labels[-120:]),
        every=run.every,
        max_overhead=None,
        memory="512MiB",
        sink=log,
        rules=[],
        seed=run.seed,
    )
    course: list[float] = []
    for step in tqdm(range(run.steps + 1), desc=log.stem, disable=not progress, leave=False):
        faster = run.factor if run.fault == "group rate" and step >= run.onset else 1.0
        optimizer.param_groups[1]["lr"] = run.lr * faster
        chosen = torch.multinomial(weights, run.batch, replacement=True, generator=draw)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        course.append(float(loss.detach()))
        monitor.step(step, loss=course[-1])
    return finish(log, run, course)


def cases(seed: int) -> Iterator[ClassifierRun]:
    """One healthy training and one of each fault, with recipes drawn from the seed."""
    import numpy as np

    draw = np.random.default_rng([seed, 2])
    for fault in FAULTS:
        yield ClassifierRun(
            data=str(draw.choice(["mnist", "fashion-mnist"])),
            width=int(draw.choice([8, 16])),
            lr=float(draw.choice([5e-4, 1e-3, 2e-3])),
            batch=int(draw.choice([32, 64])),
            seed=int(draw.integers(2**31)),
            fault=fault,
            noise=float(draw.choice([0.2, 0.4])),
            rare=int(draw.integers(CLASSES)),
            group=str(draw.choice(["3", "7", "9"])),
        )

"""Small diffusion models trained with a monitor, in health and with planted faults."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError
from genkernel.experiments.monitors.run import begin, finish, two_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

#: what can be planted, and where a message should point to
FAULTS = ("none", "group rate", "missing range", "time scale", "average forgotten", "starved class")
CLASSES = 10


@dataclass(frozen=True)
class DenoiserRun:
    """A training of a class-conditional denoiser of 16 × 16 images.

    Attributes:
        width: channels of the first resolution; the second has twice as many.
        fault: one of :data:`FAULTS`.
        onset: step from which the fault is there.
        low, high: timesteps that are not drawn any more with a missing range.
        factor: of the group's learning rate, or of the time that the network is told.
        group: prefix of the parameters whose learning rate is raised.
        starved: class that is drawn ``rarity`` times as often as the others.
    """

    data: str = "mnist"
    width: int = 16
    lr: float = 2e-3
    batch: int = 32
    steps: int = 400
    every: int = 16
    warmup: int = 50
    ema: float = 0.99
    seed: int = 0
    fault: str = "none"
    onset: int = 0
    low: float = 300.0
    high: float = 600.0
    factor: float = 30.0
    group: str = "mid_block"
    starved: int = 0
    rarity: float = 0.02

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise InputError(f"a fault is one of {', '.join(FAULTS)}, not {self.fault!r}")


def network(run: DenoiserRun) -> nn.Module:
    """The network, initialised from the seed."""
    import torch
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        net: nn.Module = UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(run.width, 2 * run.width),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=CLASSES,
        )
    return net


def train(run: DenoiserRun, images: Tensor, labels: Tensor, log: str | Path, *, progress: bool = False) -> Path:
    """Train with a monitor that writes a log; mean training losses between readings go beside it (``.losses.json``).

    Args:
        images: ``[n, 1, 16, 16]`` in [0, 1]; the last two of each class are the probes and
            are not trained on.
        labels: ``[n]``.

    Returns:
        Path: the log. One that is finished is left as it is.
    """
    import torch
    from diffusers import DDPMScheduler
    from tqdm import tqdm

    from genkernel.monitor import Monitor

    log, todo = begin(log)
    if not todo:
        return log
    net = network(run).train()
    average = copy.deepcopy(net).eval().requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    probes = probe_images(labels)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[probes] = False
    pool, pool_labels = images[kept], labels[kept]
    weights = torch.ones(len(pool_labels), dtype=torch.float64)
    starving = run.fault == "starved class"
    optimizer = two_groups(net, run.group, run.lr)
    monitor = Monitor(
        net,
        scheduler=scheduler,
        data=images[probes],
        conditioning={"class_labels": labels[probes]},
        groups=labels[probes],
        ema=average,
        images_per_level=4,
        probes=1,
        every=run.every,
        max_overhead=None,
        sink=log,
        memory="512MiB",
        rules=[],
        seed=run.seed,
    )
    draw = torch.Generator().manual_seed(run.seed)
    course: list[float] = []
    for step in tqdm(range(run.steps + 1), desc=log.stem, disable=not progress, leave=False):
        faulty = run.fault != "none" and step >= run.onset
        if starving and faulty:
            weights[pool_labels == run.starved] = run.rarity
        chosen = torch.multinomial(weights, run.batch, replacement=True, generator=draw)
        x = 2 * pool[chosen] - 1
        t = torch.randint(0, 1000, (run.batch,), generator=draw)
        if run.fault == "missing range" and faulty:
            t = _outside(t, run.low, run.high, draw)
        noise = torch.randn(x.shape, generator=draw)
        told = (t * run.factor).long() if run.fault == "time scale" and faulty else t
        rate = run.lr * min(1.0, (step + 1) / run.warmup)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"] = rate * (run.factor if run.fault == "group rate" and faulty else 1.0)
        optimizer.zero_grad()
        out = net(scheduler.add_noise(x, noise, t), told, class_labels=pool_labels[chosen]).sample
        loss = (out - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if not (run.fault == "average forgotten" and faulty):
            with torch.no_grad():
                for mean, now in zip(average.parameters(), net.parameters(), strict=True):
                    mean.lerp_(now, 1 - run.ema)
        course.append(float(loss.detach()))
        monitor.step(step, loss=course[-1], timesteps=t, classes=pool_labels[chosen])
    return finish(log, run, course)


def probe_images(labels: Tensor) -> Tensor:
    """Positions of the last two images of every class, those of different classes in turn ``[20]``."""
    import torch

    found = [torch.nonzero(labels == c).flatten()[-2:] for c in range(CLASSES)]
    if any(len(mine) < 2 for mine in found):
        raise InputError("two images of every one of ten classes are needed for probes")
    return torch.stack(found, dim=1).flatten()


def _outside(t: Tensor, low: float, high: float, draw: Any) -> Tensor:
    """Timesteps inside of a range are drawn again, until none is."""
    import torch

    while (inside := (t >= low) & (t <= high)).any():
        t = torch.where(inside, torch.randint(0, 1000, t.shape, generator=draw), t)
    return t


def cases(seed: int, steps: int = 400) -> Iterator[DenoiserRun]:
    """One healthy training and one of each fault, with recipes drawn from the seed."""
    import numpy as np

    draw = np.random.default_rng(seed)

    def recipe() -> dict[str, Any]:
        return {
            "data": str(draw.choice(["mnist", "fashion-mnist"])),
            "width": int(draw.choice([16, 24])),
            "lr": float(draw.choice([1e-3, 2e-3, 4e-3])),
            "batch": int(draw.choice([32, 48])),
            "seed": int(draw.integers(2**31)),
            "steps": steps,
        }

    yield DenoiserRun(**recipe())
    middle = steps // 2
    groups = ("mid_block", "up_blocks.0", "conv_out", "time_embedding", "down_blocks.0")
    yield DenoiserRun(**recipe(), fault="group rate", onset=middle, factor=30.0, group=str(draw.choice(groups)))
    low = float(draw.choice([100.0, 300.0, 500.0]))
    yield DenoiserRun(**recipe(), fault="missing range", low=low, high=low + 300.0)
    yield DenoiserRun(**recipe(), fault="time scale", factor=float(draw.choice([0.001, 0.1, 0.5])))
    yield DenoiserRun(**recipe(), fault="average forgotten", onset=int(draw.choice([0, middle])))
    yield DenoiserRun(**recipe(), fault="starved class", starved=int(draw.integers(CLASSES)))

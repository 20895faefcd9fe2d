"""Small GANs trained with a monitor, in health and with planted faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genkernel.errors import InputError, NonFiniteError
from genkernel.experiments.monitors.run import begin, finish

if TYPE_CHECKING:
    from torch import Tensor

    from genkernel.models.gans import GANRecipe

FAULTS = ("none", "strong discriminator", "fast generator")


@dataclass(frozen=True)
class GanRun:
    """A training of a GAN.

    Attributes:
        data: ``"ring"``, ``"grid"`` or ``"mnist"``, as recipes name them.
        rate: both learning rates over those of the healthy recipe.
        fault: one of :data:`FAULTS`, from the step ``onset`` on.
    """

    data: str = "ring"
    steps: int = 1500
    every: int = 50
    rate: float = 1.0
    batch: int = 128
    seed: int = 0
    fault: str = "none"
    onset: int = 750

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise InputError(f"a fault is one of {', '.join(FAULTS)}, not {self.fault!r}")

    def recipe(self) -> GANRecipe:
        """The healthy recipe, with the fault planted."""
        from dataclasses import replace

        from genkernel.models.gans import RECIPES

        healthy = RECIPES[self.data]["healthy"]
        rates = {"g_lr": healthy.g_lr * self.rate, "d_lr": healthy.d_lr * self.rate}
        later = {
            "none": {},
            # the discriminator learns five times as often and without a penalty, the generator slower
            "strong discriminator": {"d_steps": 5, "r1": 0.0, "d_lr": rates["d_lr"] * 2, "g_lr": rates["g_lr"] / 5},
            # the generator outruns its judge, which is how the collapse study makes modes collapse
            "fast generator": {"d_steps": 1, "r1": 0.0, "d_lr": rates["d_lr"] / 20, "g_lr": rates["g_lr"] * 2},
        }[self.fault]
        return replace(
            healthy,
            **rates,
            decay=0.0,
            batch=self.batch,
            steps=self.steps,
            seed=self.seed,
            later=later,
            later_from=self.onset / self.steps,
        )


def train(run: GanRun, images: Tensor | None, log: str | Path, *, progress: bool = False) -> Path:
    """Train with a monitor that writes a log; both losses of every step, and the quality of samples, go beside it.

    Args:
        images: for ``"mnist"``, ``[n, 1, H, W]`` in [0, 1].

    Returns:
        Path: the log. One that is finished is left as it is.
    """
    import torch
    from tqdm import tqdm

    from genkernel.models.gan_training import gan_training
    from genkernel.monitor import Monitor

    log, todo = begin(log)
    if not todo:
        return log
    recipe = run.recipe()
    training = gan_training(recipe, images)
    real = training.source.draw(1024, torch.Generator().manual_seed(run.seed))
    monitor = Monitor(
        training.generator,
        training.discriminator,
        real=real,
        loss=recipe.loss,
        every=run.every,
        max_overhead=None,
        memory="512MiB",
        sink=log,
        rules=[],
        seed=run.seed,
    )
    course: list[tuple[float, float]] = []
    ended = "finished"
    for step in tqdm(range(run.steps), desc=log.stem, disable=not progress, leave=False):
        try:
            course.append(training.step(step))
        except NonFiniteError:
            ended = f"diverged in step {step}"
            break
        monitor.step(step, loss=dict(zip(("discriminator", "generator"), course[-1], strict=True)))
    return finish(log, run, course, ended=ended)


def cases(seed: int) -> Iterator[GanRun]:
    """One healthy training and one of each fault, with recipes drawn from the seed."""
    import numpy as np

    draw = np.random.default_rng([seed, 1])
    for fault in FAULTS:
        yield GanRun(
            data=str(draw.choice(["ring", "grid"])),
            rate=float(draw.choice([0.5, 1.0])),
            batch=int(draw.choice([128, 256])),
            seed=int(draw.integers(2**31)),
            fault=fault,
        )

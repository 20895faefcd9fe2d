"""What a monitor costs: a training with it and the same training without, step by step in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from genkernel.bench.memory import peak_memory, resident
from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.monitor import Monitor
from genkernel.tangent.heap import give_back

WARMED = 5  # steps before anything is measured
MEMORY_STEPS = 12  # of each training in the comparison of memory


@dataclass
class _Loop:
    """A training, the seconds that its steps took, and the monitor on it."""

    step: Callable[[int], Any]
    networks: list[nn.Module]
    watch: Callable[..., Monitor]
    monitor: Monitor | None = None
    each: list[float] = field(default_factory=list)
    at: int = 0
    _began: float | None = None

    @property
    def seconds(self) -> float:
        return math.fsum(self.each)

    def clock(self) -> float:
        """Seconds of this training alone, while it is running too."""
        return self.seconds + (0.0 if self._began is None else time.perf_counter() - self._began)

    def advance(self) -> None:
        self._began = time.perf_counter()
        self.step(self.at)
        if self.monitor is not None:
            self.monitor.step(self.at)
        self.each.append(time.perf_counter() - self._began)
        self._began = None
        self.at += 1


def measure_overhead(
    kind: str,
    images: Tensor,
    *,
    steps: int,
    every: int,
    caps: list[float],
    batch: int,
    seed: int = 0,
    widths: Sequence[int] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Time of trainings with monitors, one for each cap, over that of the same training without one.

    All trainings take their steps in turn, so that whatever slows the machine slows them alike. Each monitor's clock
    counts the seconds of its own training.

    Args:
        kind: ``"ddpm"`` or ``"gan"``.
        images: ``[n, 1, H, W]`` in [0, 1].
        steps, every: of the training, and between two readings.
        caps: values of ``max_overhead``.
        batch: images per step.
        widths: of the UNet's blocks; those of the recipe by default.

    Returns:
        Everything that JSON can hold: seconds, ratios, readings, and whether all ended with the same weights.
    """
    make = _maker(kind, widths)
    bare = make(images, steps, batch, seed)
    watched = []
    for cap in caps:
        loop = make(images, steps, batch, seed)
        loop.monitor = loop.watch(every=every, max_overhead=cap, clock=loop.clock)
        watched.append(loop)
    loops = [bare, *watched]
    for step in tqdm(range(steps), desc=kind, disable=not progress, leave=False):
        order = loops if step % 2 else loops[::-1]
        for loop in order:
            loop.advance()
    rows = []
    for cap, loop in zip(caps, watched, strict=True):
        assert loop.monitor is not None
        readings = loop.monitor.trace.readings
        rows.append(
            {
                "cap": cap,
                "readings": len(readings),
                "every": every,
                "longest_wait": loop.monitor.cadence.longest_wait,
                "seconds_first_reading": readings[0].seconds,
                "seconds_reading": sorted(r.seconds for r in readings)[len(readings) // 2],
                "seconds": loop.seconds,
                "overhead_measured": loop.seconds / bare.seconds - 1,
                "overhead_reported": loop.monitor.overhead,
                **_beside(loop, bare),
                "problems": sum(len(r.problems) for r in readings),
                "same_weights": _equal(bare.networks, loop.networks),
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(torch.device("cpu")),
        "kind": kind,
        "steps": steps,
        "batch": batch,
        "parameters": [sum(p.numel() for p in net.parameters()) for net in bare.networks],
        "seconds_per_step": bare.seconds / steps,
        "runs": rows,
        "memory": measure_memory(kind, images, batch=batch, seed=seed, widths=widths),
    }


def _beside(loop: _Loop, bare: _Loop) -> dict[str, float]:
    """Medians of a step's time over that of the same step without a monitor: without a reading, and right after one."""
    assert loop.monitor is not None
    ratio = np.array(loop.each) / np.array(bare.each)
    read = loop.monitor.trace.steps
    after = read[read + 1 < len(ratio)] + 1
    without = np.delete(ratio, np.union1d(read, after))
    found = {"step_without_reading": without, "step_after_reading": ratio[after]}
    return {name: float(np.median(values)) if len(values) else math.nan for name, values in found.items()}


def measure_memory(
    kind: str, images: Tensor, *, batch: int, seed: int = 0, widths: Sequence[int] | None = None
) -> dict[str, Any]:
    """Bytes that the process holds at most: before there is a monitor, with a reading after every step, and after.

    What stays when the monitor is gone are libraries and the code that oneDNN compiles for shapes that training does
    not have; its size does not depend on that of the training.

    Returns:
        ``peak_before``, ``peak_with``, ``peak_after`` in bytes; ``more``, the second over the first, less 1;
        ``more_by_readings``, the second over the third, less 1. Empty where the platform does not say.
    """
    loop = _maker(kind, widths)(images, 3 * MEMORY_STEPS, batch, seed)
    for _ in range(WARMED):
        loop.advance()
    peaks = []
    for watched in (False, True, False):
        loop.monitor = loop.watch(every=1, max_overhead=None, clock=loop.clock) if watched else None
        give_back()
        held = resident()
        with peak_memory(torch.device("cpu")) as above:
            for _ in range(MEMORY_STEPS):
                loop.advance()
        if held is None or above.host is None:
            return {}
        peaks.append(held + above.host)
    before, beside, after = peaks
    return {
        "peak_before": before,
        "peak_with": beside,
        "peak_after": after,
        "more": beside / before - 1,
        "more_by_readings": beside / after - 1,
    }


def _maker(kind: str, widths: Sequence[int] | None) -> Callable[[Tensor, int, int, int], _Loop]:
    return partial(_ddpm, widths=widths) if kind == "ddpm" else _gan


def _ddpm(images: Tensor, steps: int, batch: int, seed: int, widths: Sequence[int] | None = None) -> _Loop:
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining

    given = {} if widths is None else {"widths": tuple(widths)}
    recipe = DDPMRecipe(size=images.shape[-1], steps=steps, batch=batch, seed=seed, **given)
    training = DDPMTraining(images, recipe)

    def watch(**options: Any) -> Monitor:
        return Monitor(
            training.unet, scheduler=training.scheduler, data=images[:16], ema=training.average, seed=seed, **options
        )

    return _Loop(lambda step: training.descend(training.batch(step)), [training.unet], watch)


def _gan(images: Tensor, steps: int, batch: int, seed: int) -> _Loop:
    from dataclasses import replace

    from genkernel.models.gan_training import gan_training
    from genkernel.models.gans import RECIPES

    recipe = replace(RECIPES["mnist"]["healthy"], steps=steps, batch=batch, seed=seed)
    training = gan_training(recipe, images)

    def watch(**options: Any) -> Monitor:
        real = training.source.draw(256, torch.Generator().manual_seed(seed))
        return Monitor(training.generator, training.discriminator, real=real, seed=seed, **options)

    return _Loop(training.step, [training.generator, training.discriminator], watch)


def _equal(mine: list[nn.Module], theirs: list[nn.Module]) -> bool:
    states = [[value for net in nets for value in net.state_dict().values()] for nets in (mine, theirs)]
    return all(torch.equal(a, b) for a, b in zip(*states, strict=True))

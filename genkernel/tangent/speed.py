"""How long a forward and a backward take, from a few samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.tangent import batches
from genkernel.tangent.coverage import Look
from genkernel.tangent.passes import GradientPass

#: seconds from which on one look is enough
LONG = 0.1
#: looks that the work has to be worth before another one is taken
LOOKS = 50
#: A forward and a backward of output-gradients in plain forwards: of the work, and of what a batch
#: costs besides, since the run records the forward (measured on the networks of docs/benchmarks.md).
BOTH, RECORDED = 2.1, 4.0


@dataclass(frozen=True)
class Speed:
    """Seconds of one forward and one backward: of each sample, and of a batch besides."""

    per_sample: float
    per_run: float


def first_look(run: GradientPass, few: Any) -> Look:
    """Outputs of a few samples, and the seconds that they took."""
    return Look(few, *_timed(run, few))


def speed(run: GradientPass, few: Any, whole: float, runs: int) -> Speed:
    """How long a forward and a backward of more samples would take.

    Two sizes tell what belongs to a sample and what to a batch. They are looked at where that is
    quick, and little beside the work that it is for.

    Args:
        few: the samples of the first look, which took ``whole`` seconds (a little more where it was recorded).
        runs: samples times cotangents that are to be run.
    """
    n = batches.size(few)
    alone = 0.0
    if n > 1 and whole < LONG and runs > LOOKS * n:
        one = batches.take(few, [0])
        whole = min(whole, _timed(run, few)[1])
        alone = min(_timed(run, one)[1] for _ in range(2))
    each = (whole - alone) / (n - 1) if alone else whole / n
    each = max(each, 0.1 * whole / n)  # timings of microseconds are noise
    found = Speed(BOTH * each, RECORDED * max(0.0, whole - n * each))
    if run.coverages[0].generic:  # sample by sample through the user's own forward, with all weight gradients
        found = Speed(found.per_sample + 3 * (alone or whole / n), found.per_run)
    return found


def _timed(run: GradientPass, batch: Any) -> tuple[Tensor, float]:
    started = time.perf_counter()
    out = run.outputs(batch)
    if out.device.type == "cuda":
        torch.cuda.synchronize(out.device)
    return out, time.perf_counter() - started

"""A kernel with a tile store, in a process of its own that may be killed at any moment.

Processes come from a fork server that has imported everything: a forked copy of the tests' own
process could not run a backward pass.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.tangent.fingerprint import fingerprint_code

fingerprint_code()  # kept, and inherited by the processes: the sources may be edited meanwhile

SAMPLES = 14
TIGHT = 1  # bytes: the least possible at a time, so the most tasks


def model() -> gk.TangentModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.SiLU(),
        nn.Flatten(), nn.Linear(54, 5),
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    return gk.TangentModel(net)


def inputs(n: int = SAMPLES, seed: int = 1) -> Tensor:
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def numbers(kernel: gk.Kernel) -> dict[str, Tensor]:
    """Everything a kernel says, as tensors by name."""
    held = {name: getattr(kernel, name) for name in ("values", "norms_x", "norms_y", "per_probe", "per_probe_norms_x")}
    return {**{k: v for k, v in held.items() if v is not None}, **{f"layer {k}": v for k, v in kernel.layers.items()}}


def compute(store: Path | str | None, **options: Any) -> gk.Kernel:
    return gk.kernel(
        model(), inputs(), **{"cotangents": gk.probes(2), "memory": TIGHT, "store": store, "progress": False, **options}
    )


def run(store: Path | None, answer: Path, options: dict[str, Any]) -> None:
    """What the process does: compute, and leave the numbers in ``answer``."""
    torch.set_num_threads(1)
    part = answer.with_suffix(".part")
    torch.save(numbers(compute(store, **options)), part)
    part.rename(answer)


def start(store: Path | None, answer: Path, **options: Any) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tangent.killable", "genkernel.tangent.engine"])
    process = context.Process(target=run, args=(store, answer, options))
    process.start()
    return process


def finish(store: Path | None, answer: Path, **options: Any) -> dict[str, Tensor]:
    """Run to the end in a process of its own; returns the numbers."""
    process = start(store, answer, **options)
    process.join(120)
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    return torch.load(answer)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

#!/usr/bin/env python
"""Compare the engine with what a user would write instead, side by side in one run.

    python scripts/bench_kernel.py                 # print a table
    python scripts/bench_kernel.py --out benchmarks/kernel-cpu.json

Every contender computes the same kernel (sum-of-outputs cotangent, float32 gradients); rounds
are interleaved and medians are compared, so that a drifting machine does not favour anyone.
"step" is one forward and backward of the same batch with ordinary weight gradients: the
practical floor. Each contender is checked against a float64 reference before it is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def mlp() -> tuple[nn.Module, Any, Any]:
    net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
    return net, call_plain, torch.randn(256, 64)


def cnn() -> tuple[nn.Module, Any, Any]:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip
    return net, call_plain, torch.randn(100, 3, 32, 32)


def dcgan() -> tuple[nn.Module, Any, Any]:
    net = nn.Sequential(
        nn.ConvTranspose2d(64, 128, 4, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    return net, call_plain, torch.randn(64, 64, 1, 1)


def ddpm() -> tuple[nn.Module, Any, Any]:
    from genkernel.models.ddpm import DDPMRecipe, build_unet

    batch = {"x": torch.randn(64, 1, 16, 16), "t": torch.randint(0, 1000, (64,))}
    return build_unet(DDPMRecipe()), call_unet, batch


def call_plain(module: nn.Module, batch: Tensor) -> Tensor:
    return module(batch)


def call_unet(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return module(batch["x"], batch["t"]).sample


WORKLOADS: dict[str, Callable[[], tuple[nn.Module, Any, Any]]] = {"mlp": mlp, "cnn": cnn, "dcgan": dcgan, "ddpm": ddpm}


def take(batch: Any, index: Any) -> Any:
    return {k: v[index] for k, v in batch.items()} if isinstance(batch, dict) else batch[index]


def naive(net: nn.Module, call: Any, batch: Any) -> Tensor:
    """A loop of autograd.grad over samples, then one Gram product in float64."""
    parameters = list(net.parameters())
    n = len(batch["x"] if isinstance(batch, dict) else batch)
    rows = []
    for i in range(n):
        grads = torch.autograd.grad(call(net, take(batch, slice(i, i + 1))).sum(), parameters)
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
    G = torch.stack(rows).double()
    return G @ G.T


def vmapped(net: nn.Module, call: Any, batch: Any) -> Tensor:
    """torch.func: vmap(grad), the Gram product per parameter in float64."""
    params = {k: p.detach() for k, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, sample: Any) -> Tensor:
            return call(self.net, sample)

    caller = Caller()

    def scalar(p: dict[str, Tensor], sample: Any) -> Tensor:
        single = {k: v[None] for k, v in sample.items()} if isinstance(sample, dict) else sample[None]
        state = {f"net.{k}": v for k, v in {**p, **buffers}.items()}
        return torch.func.functional_call(caller, state, (single,)).sum()

    grads = torch.func.vmap(torch.func.grad(scalar), in_dims=(None, 0))(params, batch)
    out = 0
    for g in grads.values():
        flat = g.flatten(1).double()
        out = out + flat @ flat.T
    return out  # type: ignore[return-value]


def ours(net: nn.Module, call: Any, batch: Any) -> Tensor:
    import genkernel as gk

    return gk.kernel(gk.TangentModel(net, call=call), batch, cotangents=gk.total(), by=None, progress=False).values


def step(net: nn.Module, call: Any, batch: Any) -> None:
    torch.autograd.grad(call(net, batch).sum(), list(net.parameters()))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures with provenance as JSON")
    args = parser.parse_args(arguments)

    contenders = {"genkernel": ours, "loop of autograd.grad": naive, "vmap(grad)": vmapped}
    table: dict[str, Any] = {}
    for name in args.workloads:
        torch.manual_seed(0)
        net, call, batch = WORKLOADS[name]()
        net.eval().to(args.device)
        batch = {k: v.to(args.device) for k, v in batch.items()} if isinstance(batch, dict) else batch.to(args.device)
        table[name] = compare(net, call, batch, contenders, args.rounds)
        row = table[name]
        print(f"{name:8s}", "  ".join(f"{k}: {v['over_genkernel']:.2f}× ({v['error']:.0e})" for k, v in row.items()))
    record = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "what": "seconds are medians of interleaved rounds; over_genkernel = seconds / genkernel's",
        "workloads": table,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    return record


def compare(net: nn.Module, call: Any, batch: Any, contenders: dict[str, Any], rounds: int) -> dict[str, Any]:
    import copy

    double = (
        {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
        if isinstance(batch, dict)
        else batch.double()
    )
    truth = naive(copy.deepcopy(net).double(), call, double).cpu()
    seconds: dict[str, list[float]] = {name: [] for name in (*contenders, "step")}
    errors: dict[str, float] = {"step": 0.0}
    for name, run in contenders.items():
        errors[name] = float((run(net, call, batch).cpu() - truth).norm() / truth.norm())
    for _ in range(rounds):
        for name, run in {**contenders, "step": step}.items():
            if next(net.parameters()).is_cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            run(net, call, batch)
            if next(net.parameters()).is_cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["genkernel"])
    return {
        name: {
            "seconds": statistics.median(values),
            "over_genkernel": statistics.median(values) / base,
            "error": errors[name],
        }
        for name, values in seconds.items()
    }


if __name__ == "__main__":
    main()

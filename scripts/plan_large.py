#!/usr/bin/env python
"""What would a kernel of a diffusion transformer of a billion parameters take? A dry run, and the error of bfloat16.

    python scripts/plan_large.py --size small                          # seconds: shows that everything runs
    python scripts/plan_large.py --out plan-1b.json                    # minutes, and 15 GiB of memory for the proof
    python scripts/plan_large.py --device cuda --run --memory 100GiB   # also compute it, where a GPU has the room

The network is a DiT with random weights; samples are pairs of an image and a noise level, the kernel is that of their
loss gradients. The model is proved and a plan is made for this machine; nothing is computed without --run. The error of
bfloat16 is measured on the small network, against float64.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import genkernel as gk

#: layers, heads, channels of a head, latent side
SIZES = {"small": (4, 4, 32, 16), "1b": (28, 16, 84, 32)}
CHANNELS, TIMES, CLASSES = 4, 1000, 1000


def main(arguments: list[str] | None = None) -> int:
    import torch

    import genkernel as gk
    from genkernel.bench.memory import peak_memory
    from genkernel.bench.record import SCHEMA_VERSION, provenance
    from genkernel.runs import write_atomic
    from genkernel.tangent.forecast import size

    args = _parser().parse_args(arguments)
    device = torch.device(args.device)
    loss = gk.loss(squared_error)
    error = bfloat16_error(args.pairs, args.dim)
    for line in _said(error):
        print(line)

    model = transformer(args.size, torch.float32, device)
    x = pairs(args.samples, SIZES[args.size][3], torch.float32)
    parameters = sum(p.numel() for p in model.parameters.values())
    print(f"\n{args.size}: {parameters:,} parameters in float32 on {device.type}, gradients in {args.dtype}\n")
    with peak_memory(device) as proof:
        ahead = gk.plan(model, x, cotangents=loss, dtype=args.dtype, memory=args.memory)
    print(ahead, end="\n\n")
    rows = gk.plan_sketch(
        model, x, dim=args.dim, cotangents=loss, dtype=args.dtype, memory=args.memory, coverage=ahead.coverage
    )
    print(rows, end="\n\n")
    peak = (proof.device if device.type == "cuda" else proof.host) or 0
    print(f"the dry run held {size(peak)} beside the model, {peak / parameters:.1f} bytes per parameter")
    record: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "provenance": provenance(device, ["diffusers"]),
        "model": {
            "class": "DiTTransformer2DModel",
            **dict(zip(("layers", "heads", "head_channels", "latent_side"), SIZES[args.size], strict=True)),
            "parameters": parameters,
        },
        "samples": args.samples,
        "gradients": args.dtype,
        "kernel": ahead.record(),
        "sketch": {"dim": args.dim, **rows.record()},
        "dry_run_peak_bytes": peak,
        "bfloat16_error": error,
    }
    if args.run:
        record["run"] = run(model, x, ahead, args)
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")
    return 0


# --------------------------------------------------------------------------- network


def transformer(size: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> gk.TangentModel:
    """A DiT with random weights."""
    import torch
    from diffusers import DiTTransformer2DModel

    from genkernel import TangentModel

    layers, heads, channels, side = SIZES[size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=channels, num_layers=layers, sample_size=side,
            in_channels=CHANNELS, num_embeds_ada_norm=CLASSES,
        )  # fmt: skip
    return TangentModel(torch.nn.Module.to(net, device, dtype), call=_forward)  # diffusers' own warns of casts


def _forward(net: Any, batch: dict[str, Tensor]) -> Tensor:
    return net(batch["x"], timestep=batch["t"], class_labels=batch["label"]).sample


def pairs(n: int, side: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Noisy latents, their noise, times and labels."""
    import torch

    draw = torch.Generator().manual_seed(1)
    clean, noise = (torch.randn(n, CHANNELS, side, side, generator=draw) for _ in range(2))
    t = torch.linspace(0, TIMES - 1, n).long()
    angle = (t / TIMES * torch.pi / 2).view(-1, 1, 1, 1)
    label = torch.randint(CLASSES, (n,), generator=draw)
    return {
        "x": (angle.cos() * clean + angle.sin() * noise).to(dtype), "t": t, "label": label, "noise": noise.to(dtype)
    }  # fmt: skip


def squared_error(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The denoiser's loss of each sample ``[n]``."""
    return (out - batch["noise"]).square().flatten(1).mean(1)


# --------------------------------------------------------------------------- bfloat16


def bfloat16_error(n: int, dim: int) -> dict[str, Any]:
    """Kernels of the small network against float64: relative Frobenius errors, and largest errors of cosines.

    The weights are rounded to bfloat16 first, so that every kernel is of the same network.
    """
    import torch

    import genkernel as gk

    model = transformer("small", torch.bfloat16)
    model.module.double()
    x = pairs(n, SIZES["small"][3], torch.bfloat16)
    x = {name: t.double() if t.is_floating_point() else t for name, t in x.items()}
    loss = gk.loss(squared_error)

    def sketched(dtype: str) -> Any:
        return gk.sketch(model, x, dim=dim, cotangents=loss, dtype=dtype).kernel()

    exact = gk.kernel(model, x, cotangents=loss, dtype="float64", by=None)
    found = {
        "float32": gk.kernel(model, x, cotangents=loss, dtype="float32", by=None),
        "bfloat16": gk.kernel(model, x, cotangents=loss, dtype="bfloat16", by=None),
        f"sketch of {dim} entries, float32": sketched("float32"),
        f"sketch of {dim} entries, bfloat16": sketched("bfloat16"),
    }
    cosines = exact.normalized().values
    return {
        "parameters": sum(p.numel() for p in model.parameters.values()),
        "samples": n,
        "mean_absolute_cosine": float(_off_diagonal(cosines).abs().mean()),
        "ways": {
            name: {
                "relative_error": float((K.values - exact.values).norm() / exact.values.norm()),
                "largest_error_of_a_cosine": float((K.normalized().values - cosines).abs().max()),
                "rms_error_of_a_cosine": float(_off_diagonal(K.normalized().values - cosines).square().mean().sqrt()),
            }
            for name, K in found.items()
        },
    }


def _off_diagonal(values: Tensor) -> Tensor:
    import torch

    return values[~torch.eye(len(values), dtype=torch.bool)]


def _said(error: dict[str, Any]) -> list[str]:
    width = max(map(len, error["ways"]))
    lines = [
        f"against float64, {error['parameters']:,} parameters, {error['samples']} samples "
        f"(mean |cosine| {error['mean_absolute_cosine']:.2f}):",
        f"  {'gradients':<{width}}  kernel   cosine, rms  largest",
    ]
    for name, row in error["ways"].items():
        lines.append(
            f"  {name:<{width}}  {row['relative_error']:.1e}  {row['rms_error_of_a_cosine']:.1e}      "
            f"{row['largest_error_of_a_cosine']:.1e}"
        )
    return lines


# ------------------------------------------------------------------------------- run


def run(model: gk.TangentModel, x: Any, ahead: gk.Forecast, args: argparse.Namespace) -> dict[str, Any]:
    """The kernel and the sketch for real: seconds and bytes beside what was expected, and how far apart they are."""
    import genkernel as gk
    from genkernel.bench.memory import peak_memory
    from genkernel.tangent.forecast import duration, size

    loss = gk.loss(squared_error)
    with peak_memory(model.device) as memory:
        K = gk.kernel(model, x, cotangents=loss, dtype=args.dtype, memory=args.memory, plan=ahead)
    found = {"expected": K.meta["expected"], "found": K.meta["found"], "timing": K.meta["timing"]}
    found["peak_bytes"] = (memory.device if model.device.type == "cuda" else memory.host) or 0
    print(f"kernel: {duration(K.meta['found']['seconds'])}, {size(found['peak_bytes'])}")
    started = time.perf_counter()
    S = gk.sketch(model, x, dim=args.dim, cotangents=loss, dtype=args.dtype, memory=args.memory)
    found["sketch_seconds"] = time.perf_counter() - started
    found["sketch_rms_error_of_a_cosine"] = float(
        _off_diagonal(S.normalized().values - K.normalized().values).square().mean().sqrt()
    )
    print(
        f"sketch: {duration(found['sketch_seconds'])} with its proof; "
        f"cosines {found['sketch_rms_error_of_a_cosine']:.1e} (rms) from the kernel's"
    )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--samples", type=int, default=256, help="pairs of an image and a noise level")
    parser.add_argument("--dim", type=int, default=4096, help="entries of a sketch")
    parser.add_argument("--dtype", default="bfloat16", help="of activations and gradients")
    parser.add_argument("--memory", default="8GiB", help="what the kernel may take")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=32, help="samples for the error of bfloat16")
    parser.add_argument("--run", action="store_true", help="compute the kernel and the sketch, too")
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

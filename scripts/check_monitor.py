#!/usr/bin/env python
"""What a monitor costs: time beside the same training without it, step by step in turn, and memory.

python scripts/check_monitor.py ddpm images.npz --steps 2000 --every 100
python scripts/check_monitor.py gan images.npz --steps 2000 --every 100 --cap 0.005 0.02 0.1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import torch

    from genkernel.bench.monitor import measure_overhead
    from genkernel.data import load_images
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    size = args.size or (32 if args.kind == "gan" else 16)  # what the recipes' networks take
    images = load_images(args.data, size=size, channels=1, split="train", limit=4096, seed=0).images
    found = measure_overhead(
        args.kind,
        images,
        steps=args.steps,
        every=args.every,
        caps=args.cap,
        batch=args.batch,
        widths=args.widths,
        progress=not args.quiet,
    )
    text = json.dumps(found, indent=1)
    print(text)
    if args.out is not None:
        write_atomic(args.out, text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("ddpm", "gan"), help="what is trained")
    parser.add_argument("data", help="folder of images, .npz or torchvision data set name")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100, help="steps between two readings (default %(default)s)")
    parser.add_argument("--cap", type=float, nargs="+", default=[0.02], help="max_overhead, one run for each")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, help="pixels per side (default: 16, of a GAN 32)")
    parser.add_argument("--widths", type=int, nargs="+", help="of a UNet's blocks (default: the recipe's, 32 64 64)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--quiet", action="store_true")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

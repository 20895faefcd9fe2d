#!/usr/bin/env python
"""The leading modes of a kernel over 10,000 images, within a memory budget that its matrix does not fit.

    python scripts/check_spectrum.py mnist.npz                             # minutes on one core
    python scripts/check_spectrum.py mnist.npz --samples 500 --modes 20    # seconds
    python scripts/check_spectrum.py mnist.npz --out spectrum-cpu.json     # as a record

The exit status is 1 when the peak of memory is above the budget, or eigenvalues differ from those of the whole matrix
by more than 1e-4 of themselves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    from genkernel.bench.spectrum import measure
    from genkernel.data import load_images
    from genkernel.errors import InputError
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    found = load_images(args.data, split="train", limit=args.samples)
    if found.labels is None:
        raise InputError(f"{args.data} has no labels: give digits with their labels")
    if len(found) < args.samples:
        raise InputError(f"{args.data} has {len(found)} images, and --samples is {args.samples}")
    record = measure(
        found.images, found.labels, args.modes, args.memory, dense=not args.no_matrix, say=lambda text: print(text)
    )
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")
    off = 0.0 if record["dense"] is None else record["dense"]["largest_relative_difference"]
    return 0 if record["within"] and off <= 1e-4 else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="digits with labels: an .npz, or torchvision's MNIST")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--modes", type=int, default=100)
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--no-matrix", action="store_true", help="do not compare with the whole matrix")
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

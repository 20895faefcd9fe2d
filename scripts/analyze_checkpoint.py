#!/usr/bin/env python
"""Analyse a diffusion checkpoint: the same as `genkernel diffusion`, as a script to copy and change.

python scripts/analyze_checkpoint.py path/to/pipeline images/ --out runs/mine
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import genkernel as gk

    args = _parser().parse_args(arguments)
    report = gk.locality(
        args.checkpoint,
        args.data,
        levels=args.levels,
        samples=args.samples,
        probes=args.probes,
        seed=args.seed,
        device=args.device,
        controls=args.controls,
        say=print,
    )
    for sentence in report.result.meta["reading"]:
        print(sentence)
    print(f"saved {report.save(args.out)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="diffusers folder or hub id")
    parser.add_argument("data", help="folder of images, .npz, or torchvision data set name")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--levels", type=int, default=24, help="noise levels (default %(default)s)")
    parser.add_argument("--samples", type=int, default=16, help="images (default %(default)s)")
    parser.add_argument("--probes", type=int, default=8, help="random probes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--no-controls", dest="controls", action="store_false")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

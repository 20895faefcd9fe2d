#!/usr/bin/env python
"""Train a small DDPM and record which noise levels each noise level was learned from.

    python scripts/record_ddpm.py MNIST --out runs/ddpm-path --steps 2000 --download
    genkernel path runs/ddpm-path

An interrupted run continues from its last saved state when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    from genkernel.data import load_images
    from genkernel.experiments.ddpm_path import compare_with_kernel, record_ddpm
    from genkernel.experiments.folder import summary
    from genkernel.models.ddpm import DDPMRecipe
    from genkernel.plots import to_bytes
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    recipe = DDPMRecipe(steps=args.steps, batch=args.batch, seed=args.seed, size=args.size)
    options = {"size": args.size, "channels": 1, "seed": args.seed, "download": args.download, "root": args.root}
    train = load_images(args.data, split="train", limit=args.limit, **options)
    test = load_images(args.data, split="test", limit=256, **options)
    print(train.describe())
    parts = record_ddpm(
        train.images,
        test.images,
        args.out,
        recipe,
        buckets=args.buckets,
        per_bucket=args.per_bucket,
        rule=args.rule,
        save_every=args.save_every,
        progress=not args.quiet,
    )
    print(parts)
    outcome = compare_with_kernel(args.out, test.images, progress=not args.quiet)
    # the images by their name alone: where they lie is of no interest, and their contents are in the identity
    outcome.settings = {**outcome.settings, "data": Path(args.data).name, "limit": args.limit}
    for name, figure in outcome.figures.items():
        write_atomic(args.out / f"{name}.png", to_bytes(figure, "png"))
    write_atomic(args.out / "comparison.json", json.dumps(summary(outcome), indent=1) + "\n")
    write_atomic(args.out / "tables.md", outcome.markdown())
    print(outcome.markdown())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of images, .npz, or torchvision data set name")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on a random subset of this many images")
    parser.add_argument("--buckets", type=int, default=8, help="noise buckets (default %(default)s)")
    parser.add_argument("--per-bucket", type=int, default=2, help="queries per bucket (default %(default)s)")
    parser.add_argument("--rule", default="adaptive")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    parser.add_argument("--root", help="where torchvision data sets are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main, interrupted="interrupted: the same command continues from the last saved state")

#!/usr/bin/env python
"""Train a small DDPM on MNIST, Fashion-MNIST, an image folder or any .npz, and save it for diffusers.

    python scripts/train_ddpm.py MNIST --out runs/ddpm-mnist --download
    python scripts/train_ddpm.py images/ --out runs/ddpm-mine --size 32 --channels 3

An interrupted run continues from its last saved state when the same command is given again; a
finished one only draws its samples anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genkernel.models.ddpm import DDPMRecipe


def main(arguments: list[str] | None = None) -> None:
    from genkernel.data import load_images
    from genkernel.models.ddpm import DDPMRecipe, sample_grid, train_ddpm

    args = _parser(DDPMRecipe()).parse_args(arguments)
    recipe = DDPMRecipe(
        size=args.size,
        channels=args.channels,
        widths=tuple(args.widths),
        layers_per_block=args.layers_per_block,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        seed=args.seed,
    )
    found = load_images(
        args.data,
        size=args.size,
        channels=args.channels,
        split="train",
        limit=args.limit,
        seed=args.seed,
        download=args.download,
        root=args.root,
    )
    print(found.describe())
    pipeline = train_ddpm(
        found.images, args.out, recipe, device=args.device, save_every=args.save_every, progress=not args.quiet
    )
    if args.samples:
        from torchvision.utils import save_image

        images = sample_grid(pipeline, args.samples, steps=args.sample_steps, seed=args.seed, progress=not args.quiet)
        save_image(images, args.out / "samples.png", nrow=round(args.samples**0.5), padding=1, pad_value=0.5)
    print(f"saved {args.out}")


def _parser(default: DDPMRecipe) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of images, .npz (x_train, x or images), or torchvision data set name")
    parser.add_argument("--out", required=True, type=Path, help="folder of the pipeline")
    parser.add_argument("--size", type=int, default=default.size, help="pixels per side (default %(default)s)")
    parser.add_argument("--channels", type=int, default=default.channels, choices=(1, 3))
    parser.add_argument("--widths", type=int, nargs="+", default=list(default.widths), help="channels per resolution")
    parser.add_argument("--layers-per-block", type=int, default=default.layers_per_block)
    parser.add_argument("--steps", type=int, default=default.steps, help="optimiser steps (default %(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--limit", type=int, help="train on a random subset of this many images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two resumable states")
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    parser.add_argument("--root", help="where torchvision data sets are kept")
    parser.add_argument("--samples", type=int, default=64, help="images in samples.png (0: none)")
    parser.add_argument("--sample-steps", type=int, default=1000, help="sampler steps for samples.png")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main, interrupted="interrupted: the same command continues from the last saved state")

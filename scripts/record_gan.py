#!/usr/bin/env python
"""Train a reference GAN and record which clusters of latents each cluster's samples were made by.

    python scripts/record_gan.py ring --out runs/ring-path
    python scripts/record_gan.py mnist --out runs/dcgan-path --images MNIST --classifier mnist-classifier --download
    genkernel path runs/ring-path

Planar mixtures are clustered by their nearest mode, digits by a classifier. An interrupted run continues from its last
saved state when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    from genkernel import assets
    from genkernel.data import load_images
    from genkernel.errors import InputError
    from genkernel.experiments.folder import summary
    from genkernel.experiments.gan_path import cluster_outcome, record_gan
    from genkernel.experiments.recorded_training import IDENTITY
    from genkernel.models.gans import RECIPES
    from genkernel.models.mnist_classifier import load_classifier, probabilities
    from genkernel.plots import to_bytes
    from genkernel.runs import read_json, write_atomic

    args = _parser(RECIPES).parse_args(arguments)
    recipe = RECIPES[args.data][args.recipe]
    recipe = replace(recipe, seed=args.seed, steps=args.steps or recipe.steps, batch=args.batch or recipe.batch)
    images = assign = None
    if not recipe.planar:
        if args.images is None or args.classifier is None:
            raise InputError(f"a GAN on {args.data} needs --images and --classifier")
        found = load_images(
            args.images,
            size=recipe.generator.get("size", 32),
            channels=1,
            split="train",
            limit=args.limit,
            download=args.download,
        )
        images = found.images
        path = Path(args.classifier)
        classifier = load_classifier(path if path.exists() else assets.path(args.classifier))
        assign = lambda x: probabilities(classifier, x).argmax(1)  # noqa: E731
    parts = record_gan(
        recipe,
        args.out,
        images,
        assign=assign,
        queries=args.queries,
        rule=args.rule,
        save_every=args.save_every,
        progress=not args.quiet,
    )
    # files by their names alone: where they lie is of no interest, and their contents are in the identity
    named = {
        key: None if value is None else Path(value).name
        for key, value in (("images", args.images), ("classifier", args.classifier))
    }
    outcome = cluster_outcome(parts, {**read_json(args.out / IDENTITY), **named, "limit": args.limit})
    for name, figure in outcome.figures.items():
        write_atomic(args.out / f"{name}.png", to_bytes(figure, "png"))
    write_atomic(args.out / "outcome.json", json.dumps(summary(outcome), indent=1) + "\n")
    write_atomic(args.out / "tables.md", outcome.markdown())
    print(outcome.markdown())


def _parser(recipes: dict[str, dict[str, object]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=[name for name in recipes if name != "stacked-mnist"])
    parser.add_argument("--recipe", default="healthy", help="of the data set (default %(default)s)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--images", help="folder of images, .npz, or torchvision data set name")
    parser.add_argument("--classifier", help="folder of a digit classifier, or mnist-classifier")
    parser.add_argument("--steps", type=int, help="generator steps (default: the recipe's)")
    parser.add_argument("--batch", type=int, help="latents per step (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on a random subset of this many images")
    parser.add_argument("--queries", type=int, default=20, help="latents that are followed (default %(default)s)")
    parser.add_argument("--rule", default="adaptive")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main, interrupted="interrupted: the same command continues from the last saved state")

#!/usr/bin/env python
"""Train the classifier that counts the modes of generated digits.

python scripts/train_mnist_classifier.py mnist.npz --out assets/mnist-classifier
python scripts/train_mnist_classifier.py MNIST --download --out runs/classifier
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    from genkernel.data import load_images
    from genkernel.errors import InputError
    from genkernel.models.mnist_classifier import ClassifierRecipe, train_classifier

    default = ClassifierRecipe()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="MNIST, or an .npz with x_train, y_train, x_test and y_test")
    parser.add_argument("--out", required=True, type=Path, help="folder of the classifier")
    parser.add_argument("--steps", type=int, default=default.steps, help="optimiser steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    parser.add_argument("--root", help="where torchvision data sets are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)

    sets = []
    for split in ("train", "test"):
        found = load_images(args.data, size=32, channels=1, split=split, download=args.download, root=args.root)
        if found.labels is None:
            raise InputError(f"{found.source} has no classes to learn from")
        print(found.describe())
        sets.append((found.images, found.labels))
    recipe = ClassifierRecipe(steps=args.steps, seed=args.seed)
    train_classifier(*sets[0], sets[1], args.out, recipe, progress=not args.quiet)
    record = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
    print(f"saved {args.out}: {record['test_accuracy']:.2%} of {record['test_images']} test images")


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

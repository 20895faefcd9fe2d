#!/usr/bin/env python
"""Train reference GANs with all their recipes and several seeds, and print what each ends with as a Markdown table.

    python scripts/tabulate_recipes.py ring grid --seeds 5 --out runs/recipes
    python scripts/tabulate_recipes.py mnist --recipes healthy --data mnist.npz --out runs/recipes

Every run is kept in a folder of its own below --out. A run that is finished there is not trained again, so the table
can be completed bit by bit; one that was interrupted starts anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from genkernel.models.coverage import Coverage
    from genkernel.models.gan_training import Measure
    from genkernel.models.gans import GANRecipe

HEAD = ("data", "recipe", "steps", "seeds", "modes covered", "good samples", "effective modes", "CPU seconds")
Outcome = tuple["Coverage", float]


def main(arguments: list[str] | None = None) -> None:
    from genkernel import assets
    from genkernel.data import load_images
    from genkernel.errors import InputError
    from genkernel.models.gans import NETWORKS, RECIPES
    from genkernel.models.mnist_classifier import digit_coverage, load_classifier

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", choices=NETWORKS)
    parser.add_argument("--recipes", nargs="+", help="some of the recipes (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, … of every recipe (default %(default)s)")
    parser.add_argument("--data", help="digits, for mnist and stacked-mnist: .npz (x_train, x or images), or a folder")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        raise InputError(f"a table needs at least one seed, not {args.seeds}")

    lines = []
    for dataset in args.datasets:
        images, coverage = None, None
        if not RECIPES[dataset]["healthy"].planar:
            if args.data is None:
                raise InputError(f"{dataset} needs --data: an .npz of digits, or a folder of images")
            images = load_images(args.data, size=32, channels=1, split="train").images
            coverage = digit_coverage(load_classifier(assets.path("mnist-classifier")))
        for name in args.recipes or RECIPES[dataset]:
            if name not in RECIPES[dataset]:
                raise InputError(f"the recipes for {dataset} are {', '.join(RECIPES[dataset])}, not {name!r}")
            recipe, outcomes = RECIPES[dataset][name], []
            for seed in range(args.seeds):
                folder = args.out / f"{dataset}-{name}-{seed}"
                outcomes.append(_outcome(replace(recipe, seed=seed), folder, images, coverage))
                print(f"{folder.name}: {outcomes[-1][0]}, {outcomes[-1][1]:.0f} s", file=sys.stderr, flush=True)
            lines.append(_line(dataset, name, recipe, outcomes))
    print("\n".join([_row(HEAD), _row(["---"] * len(HEAD)), *lines]))


def _outcome(recipe: GANRecipe, folder: Path, images: Tensor | None, coverage: Measure | None) -> Outcome:
    """Coverage and CPU seconds of one run, which is trained where it is not finished."""
    from genkernel.models.coverage import Coverage
    from genkernel.models.gan_training import train_gan

    clock, start = folder / "cpu-seconds.txt", time.process_time()
    trained = (folder / "training.json").exists()
    train_gan(recipe, folder, images, coverage=coverage, save_every=recipe.steps, progress=False)
    if not trained:
        clock.write_text(f"{time.process_time() - start:.1f}\n", encoding="utf-8")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    seconds = float(clock.read_text(encoding="utf-8")) if clock.exists() else float("nan")
    return Coverage(**record["coverage"]), seconds


def _line(dataset: str, name: str, recipe: GANRecipe, outcomes: list[Outcome]) -> str:
    found, seconds = zip(*outcomes, strict=True)
    cells = [
        f"{_range([c.modes for c in found], '.0f')} of {found[0].of}",
        _range([100 * c.share for c in found], ".0f") + " %",
        _range([c.effective for c in found], ".1f"),
        _range(seconds, ".0f"),
    ]
    return _row([dataset, name, f"{recipe.steps:,}", str(len(found)), *cells])


def _range(values: tuple[float, ...] | list[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}–{high}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    from genkernel.errors import GenkernelError

    try:
        main()
    except GenkernelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command continues with the runs that are left")

#!/usr/bin/env python
"""Train a reference GAN, with a recipe that keeps it healthy or one that lets its modes collapse.

    python scripts/train_gan.py ring --out runs/ring
    python scripts/train_gan.py grid --recipe collapsing --seed 3 --snapshots 100 --out runs/grid-3
    python scripts/train_gan.py mnist --data MNIST --download --out runs/dcgan
    python scripts/train_gan.py stacked-mnist --data mnist.npz --out runs/stacked

An interrupted run continues from its last saved state when the same command is given again; a finished one only draws
its samples anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from genkernel.models.gans import GANRecipe

DATA = ("ring", "grid", "mnist", "stacked-mnist")
SIZE = 32  # pixels per side of the digits


def main(arguments: list[str] | None = None) -> None:
    import json

    from genkernel import assets
    from genkernel.data import load_images
    from genkernel.errors import InputError
    from genkernel.models.coverage import Coverage
    from genkernel.models.gan_training import draw_samples, train_gan
    from genkernel.models.mnist_classifier import digit_coverage, load_classifier

    args = _parser().parse_args(arguments)
    recipe = _recipe(args)
    images, coverage = None, None
    if not recipe.planar:
        if args.data is None:
            raise InputError(f"{args.dataset} needs --data: an .npz of digits, a folder of images, or MNIST")
        found = load_images(
            args.data, size=SIZE, channels=1, split="train", download=args.download, root=args.root, limit=args.limit
        )
        print(found.describe())
        images = found.images
        coverage = digit_coverage(load_classifier(args.classifier or assets.path("mnist-classifier")))
    elif args.data is not None:
        raise InputError(f"the {args.dataset} draws its own samples: leave --data out")
    generator, _ = train_gan(
        recipe,
        args.out,
        images,
        coverage=coverage,
        watch=args.watch,
        snapshots=args.snapshots,
        save_every=args.save_every,
        device=args.device,
        progress=not args.quiet,
    )
    count = args.samples if args.samples is not None else 2000 if recipe.planar else 64
    if count:
        _picture(draw_samples(generator, count, args.seed), args.out / "samples.png")
    record = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
    print(f"saved {args.out}: {Coverage(**record['coverage'])}")


def _recipe(args: argparse.Namespace) -> GANRecipe:
    """The named recipe, with what the command line says otherwise."""
    from genkernel.errors import InputError
    from genkernel.models.gans import RECIPES

    known = RECIPES[args.dataset]
    if args.recipe not in known:
        raise InputError(f"the recipes for {args.dataset} are {', '.join(known)}, not {args.recipe!r}")
    recipe = known[args.recipe]
    fields = ("steps", "batch", "loss", "r1", "d_steps", "g_lr", "d_lr", "decay", "ema", "seed")
    changes: dict[str, Any] = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    both = {name: getattr(args, name) for name in ("width", "activation") if getattr(args, name) is not None}
    latent = {"latent": args.latent} if args.latent is not None else {}
    changes["generator"] = {**recipe.generator, **both, **latent}
    changes["discriminator"] = {**recipe.discriminator, **both}
    return replace(recipe, **changes)


def _picture(samples: Tensor, path: Path) -> None:
    """Points as a scatter plot, images as a sheet."""
    if samples.dim() == 4:
        from torchvision.utils import save_image

        save_image((samples + 1) / 2, path, nrow=round(len(samples) ** 0.5), padding=1, pad_value=0.5)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(samples[:, 0].numpy(), samples[:, 1].numpy(), s=2, alpha=0.5, linewidths=0)
    figure.savefig(path, dpi=100)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATA)
    parser.add_argument("--recipe", default="healthy", help="healthy, collapsing, or one in between (see models/)")
    parser.add_argument("--out", required=True, type=Path, help="folder of the weights and their records")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="digits: .npz (x_train, x or images), folder of images, or MNIST")
    parser.add_argument("--download", action="store_true", help="let torchvision download the data set")
    parser.add_argument("--root", help="where torchvision data sets are kept")
    parser.add_argument("--limit", type=int, help="train on a random subset of this many images")
    parser.add_argument("--classifier", type=Path, help="folder of the classifier that counts modes (the shipped one)")
    parser.add_argument("--watch", type=int, default=100, help="steps between two rows of the history")
    parser.add_argument("--snapshots", type=int, default=0, help="steps between two copies of all weights (0: none)")
    parser.add_argument("--save-every", type=int, default=500, help="steps between two resumable states")
    parser.add_argument("--samples", type=int, help="samples in samples.png (2000 points or 64 images; 0: none)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    changed = parser.add_argument_group("what the recipe says otherwise")
    changed.add_argument("--steps", type=int, help="generator steps")
    changed.add_argument("--batch", type=int)
    changed.add_argument("--loss", help="non-saturating, minimax, kl, hinge, wgan or lsgan")
    changed.add_argument("--r1", type=float, help="γ of the R1 penalty")
    changed.add_argument("--d-steps", type=int, help="discriminator steps per generator step")
    changed.add_argument("--g-lr", type=float)
    changed.add_argument("--d-lr", type=float)
    changed.add_argument("--decay", type=float, help="last part of the steps over which learning rates fall to zero")
    changed.add_argument("--ema", type=float, help="decay of the generator's running average")
    changed.add_argument("--width", type=int, help="of both networks")
    changed.add_argument("--latent", type=int, help="dimension of the latents")
    changed.add_argument("--activation", help="of both perceptrons: relu, leaky-relu, softplus or tanh")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main, interrupted="interrupted: the same command continues from the last saved state")

#!/usr/bin/env python
"""Take a small, balanced sample of a data set and write it as 8-bit images to an .npz.

    python scripts/make_samples.py mnist.npz assets/mnist-16.npz --size 16 --channels 1
    python scripts/make_samples.py MNIST assets/mnist-16.npz --size 16 --channels 1 --root data/

The images go through genkernel's own resizing, as every analysis would do it. With labels the
classes take turns, so that the first images are balanced, too.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def main(arguments: list[str] | None = None) -> None:
    import numpy as np

    from genkernel.data import load_images
    from genkernel.runs import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of images, .npz, or torchvision data set name")
    parser.add_argument(
        "out", type=Path, help="the .npz to write: x uint8, channels last, and y where there are labels"
    )
    parser.add_argument("--size", type=int, required=True, help="pixels per side")
    parser.add_argument("--channels", type=int, required=True, choices=(1, 3))
    parser.add_argument("--count", type=int, default=64, help="images (default %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="where torchvision data sets are kept")
    args = parser.parse_args(arguments)

    found = load_images(args.data, size=args.size, channels=args.channels, split=args.split, root=args.root)
    labels = found.labels.numpy() if found.labels is not None else np.zeros(len(found), np.int64)
    keep = balanced(labels, args.count, args.seed)
    pixels = (found.images.numpy()[keep] * 255).round().astype(np.uint8)
    arrays = {"x": pixels[:, 0] if args.channels == 1 else pixels.transpose(0, 2, 3, 1)}
    if found.labels is not None:
        arrays["y"] = labels[keep].astype(np.uint8 if labels.max() < 256 else np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(args.out, buffer.getvalue())
    print(f"{len(keep)} of {found.describe()}")
    print(f"saved {args.out}, {args.out.stat().st_size / 1e3:.1f} kB")


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` random samples in which the classes take turns.

    Args:
        labels: integers ``[n]``; all equal when there are no classes.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # the how-manieth of its class each sample is
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    return np.lexsort((labels, turn))[:count] if len(np.unique(labels)) > 1 else np.sort(order[:count])


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)

"""Sizes of the study of extrapolation, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        per_class: training images of every digit.
        seen: of these, in the kernel.
        printed: printed and held-out handwritten digits of every class.
        letters: images of every capital letter, an even number.
        further: images of every digit at every level of the families.
        seeds: networks; the seed decides weights, batches and all images.
        steps, batch, rate: of Adam.
        looks: steps after which the accuracies are taken.
        shown: images of every class in the picture of the kernel.
        dropout: after the hidden fully connected layer.
        turns: largest angles either way, degrees.
        height: of printed digits in the families, relative to the image; MNIST's are 20 of 28 pixels.
        heights: likewise, of those that shrink.
        mixtures: weights of the printed image.
    """

    per_class: int = 600
    seen: int = 10
    printed: int = 15
    letters: int = 6
    further: int = 6
    seeds: int = 6
    steps: int = 2000
    batch: int = 64
    rate: float = 1e-3
    looks: tuple[int, ...] = (94, 188, 470, 1000, 2000)
    shown: int = 10
    dropout: float = 0.3
    turns: tuple[float, ...] = (0, 30, 60, 90, 180)
    height: float = 0.71
    heights: tuple[float, ...] = (0.71, 0.5, 0.35, 0.25, 0.18)
    mixtures: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)


QUICK = Setting(
    per_class=60, printed=8, letters=2, further=2, seeds=2, steps=60, looks=(30, 60), shown=4, turns=(0, 60, 180),
    heights=(0.71, 0.35, 0.18), mixtures=(0, 0.5, 1),
)  # fmt: skip

"""Sizes and tolerances of the study of null spaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAUS = tuple(10.0**-k for k in np.arange(0.5, 12.1, 0.5))
TWO_TAUS = (1e-1, 1e-2)  # at which statements on populations are put to the test, beside the curves
ONE_TAU = TWO_TAUS[-1]
FRESH = "fresh"  # the name of trainings that see every sample once


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        seeds: of samples and networks on the line.
        steps: of gradient descent on one training set, at which curves are drawn.
        rate: of it.
        sizes: of training sets that are used again.
        passes: steps of each training of the second study, in batches of 60 where samples are fresh.
        population: fresh points on which its residuals are read.
        size, width: of images and of the network on them.
        images: sizes of its training sets.
        image_steps: of its trainings, in batches of 50 without repetition where samples are fresh.
        held: images of the population sample.
        image_seeds: trainings on images.
        lanczos: steps of the one curve that is read matrix-free beside the exact one.
    """

    seeds: int = 12
    steps: tuple[int, ...] = (0, 100, 1000, 10_000, 50_000)
    rate: float = 0.02
    sizes: tuple[int, ...] = (20, 60, 200, 1000)
    passes: int = 30_000
    population: int = 2000
    size: int = 10
    width: int = 12
    images: tuple[int, ...] = (50, 500, 5000)
    image_steps: int = 1000
    held: int = 300
    image_seeds: int = 5
    lanczos: int = 60


QUICK = Setting(
    seeds=4, steps=(0, 100, 1000, 5000), sizes=(20, 200), passes=2000, population=500, size=7, width=8,
    images=(30, 300), image_steps=300, held=100, image_seeds=2, lanczos=40,
)  # fmt: skip

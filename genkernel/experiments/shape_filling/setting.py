"""Sizes of the study of filling planar shapes, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        size: height and width of the images that networks see; shapes are drawn twice as large.
        samples: training images.
        tested: test images of every kind.
        channels: of the U-Net's first level; the others have two and four times as many.
        seeds: draws of images and weights.
        batch: images per step.
        epochs: of training, at most.
        rate: of RAdam at the start; it is divided by ten at plateaus.
        patience: epochs without a lower loss that make a plateau.
        compared: training images in the kernel, the first ones; pixels are compared with all.
        measured: test images of every kind in the kernel.
        probes: random cotangents of the kernel's trace.
    """

    size: int = 32
    samples: int = 2400
    tested: int = 100
    channels: int = 8
    seeds: int = 3
    batch: int = 32
    epochs: int = 10
    rate: float = 5e-3
    patience: int = 2
    compared: int = 150
    measured: int = 20
    probes: int = 2


QUICK = Setting(
    size=16, samples=96, tested=12, channels=4, seeds=2, batch=16, epochs=8, compared=32, measured=8, probes=2
)  # fmt: skip

"""Sizes of the study of rank gaps, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        seeds: of the heights a_j, for each target and regime.
        steps: of gradient descent on the line, at which gaps are measured.
        size: of the images.
        width: of the hidden layer, at least as many as outputs.
        few, many: training images: fewer rows than parameters, and more.
        new: images of each other set.
        image_seeds: trainings on images.
        image_steps: of Adam, at which gaps are measured.
    """

    seeds: int = 20
    steps: tuple[int, ...] = (0, 10, 30, 100, 300, 1000, 5000)
    size: int = 10
    width: int = 10
    few: int = 60
    many: int = 400
    new: int = 40
    image_seeds: int = 5
    image_steps: tuple[int, ...] = (0, 30, 100, 300)


QUICK = Setting(
    seeds=6, steps=(0, 10, 100, 1000), size=7, few=30, many=150, new=15, image_seeds=2, image_steps=(0, 100)
)  # fmt: skip

"""Sizes of the study of alignment and accuracy, full and quick."""

from __future__ import annotations

from dataclasses import dataclass

from genkernel.experiments.cka_accuracy.networks import ARCHITECTURES


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        architectures: names out of :data:`~genkernel.experiments.cka_accuracy.networks.ARCHITECTURES`.
        seeds: networks of each architecture, each on its own draw of images.
        trained: training images.
        tested: images of the accuracy.
        looked: images of each kernel, of training images and of held-out ones.
        steps: of Adam, at which alignment and accuracy are measured; the last one ends the training.
        resamples: of the bootstrap over architectures.
    """

    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    seeds: int = 3
    trained: int = 1000
    tested: int = 2000
    looked: int = 120
    steps: tuple[int, ...] = (0, 5, 15, 40, 100, 200, 400)
    resamples: int = 2000


QUICK = Setting(
    architectures=tuple(ARCHITECTURES)[::2], seeds=2, trained=300, tested=500, looked=50, steps=(0, 10, 30, 60),
    resamples=500,
)  # fmt: skip

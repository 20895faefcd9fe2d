"""Classifiers of images as Guo, He & Morel describe them, and networks of other kinds of about their size.

Kernel sizes, strides and paddings did not survive in the paper's text; 3, 1 and 1 are ours, with pooling by 2.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from genkernel.errors import InputError

CLASSES = 10


class ThreeStageCNN(nn.Sequential):
    """Three convolutions, each with an activation and max pooling, and two fully connected layers with dropout.

    Images ``[n, channels, size, size]`` to logits ``[n, classes]``. Section 5.1 of the paper: widths 16, 32, 64 and a
    head of 128 for MNIST, of 256 and 128 for CIFAR-10, dropout 0.3.

    Args:
        channels: of the images.
        size: height and width of the images.
        widths: channels of the convolutions.
        head: widths of the hidden fully connected layers.
        dropout: after each of these.
        classes: logits.
        activation: after every layer but the last.

    Raises:
        InputError: nothing is left of the images after the pooling.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        widths: tuple[int, ...] = (16, 32, 64),
        head: tuple[int, ...] = (128,),
        dropout: float = 0.3,
        classes: int = CLASSES,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        side = size // 2 ** len(widths)
        if side < 1:
            raise InputError(f"images of {size} pixels are too small for {len(widths)} poolings")
        layers: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.MaxPool2d(2)]
        layers.append(nn.Flatten())
        features = widths[-1] * side * side
        for before, after in zip((features, *head), head, strict=False):
            layers += [nn.Linear(before, after), activation(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(head[-1] if head else features, classes))


def perceptron(
    features: int,
    widths: tuple[int, ...],
    classes: int = CLASSES,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """A fully connected network: samples of any shape with ``features`` entries to ``[n, classes]``."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((features, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else features, classes))

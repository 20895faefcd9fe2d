"""Data sets and networks of the study of the effective Gram matrix.

Targets are ±1 or centred one-hot, images 8 × 8. Training sets of different draws do not share a sample, and all draws
of a data set share the samples that are held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, MissingError

SIDE = 8  # of images


@dataclass(frozen=True)
class Split:
    """A training set and samples that are held out: x ``[n, ...]``, y ``[n, O]``, float64."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    def shuffled(self, seed: int) -> Split:
        """The same samples with the targets permuted among those of the training set."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        return Split(self.x, self.y[order], self.x_test, self.y_test)


@dataclass(frozen=True)
class Task:
    """A data set that training sets are drawn from.

    Attributes:
        name: for tables.
        shape: of a sample.
        outputs: O.
        most: how many training samples there are for all draws together (None: no end).
        draw: ``draw(n, number) -> Split``, the number-th training set.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    most: int | None
    draw: Callable[[int, int], Split]


def sine(seed: int, held_out: int) -> Task:
    """y = sin 3x + N(0, 0.2²), x uniform on [-1, 1]: fresh noise on held-out samples, too."""

    def some(n: int, key: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((seed, key))
        x = rng.uniform(-1, 1, (n, 1))
        return torch.from_numpy(x), torch.from_numpy(np.sin(3 * x) + rng.normal(0, 0.2, x.shape))

    others = some(held_out, 0)
    return Task("noisy sine", (1,), 1, None, lambda n, number: Split(*some(n, number + 1), *others))


def of_images(name: str, x: Tensor, y: Tensor, seed: int, held_out: int) -> Task:
    """Images and targets as a task: pixels centred and scaled by the mean and spread of the held-out ones.

    Args:
        x: ``[N, 1, 8, 8]``.
        y: ``[N, O]``.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    x, y = x[order], y[order]
    x_test, y_test = x[:held_out], y[:held_out]
    mean = x_test.mean(0)
    scale = (x_test - mean).square().mean().sqrt()

    def draw(n: int, number: int) -> Split:
        first = held_out + n * number
        if first + n > len(x):
            raise InputError(f"{name} has no {number + 1} training sets of {n} images beside {held_out} held out")
        part = slice(first, first + n)
        return Split((x[part] - mean) / scale, y[part], (x_test - mean) / scale, y_test)

    return Task(name, (1, SIDE, SIDE), y.shape[1], len(x) - held_out, draw)


def digits(seed: int, held_out: int) -> Task:
    """The 1,797 handwritten digits that scikit-learn brings: even (-1) against odd (1)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images)[:, None].double()
    y = torch.from_numpy(found.target % 2 * 2.0 - 1)[:, None].double()
    return of_images("digits, even or odd", x, y, seed, held_out)


def two_classes(name: str, file: Path, classes: tuple[int, int], seed: int, held_out: int) -> Task:
    """Two classes of a file's training images, as -1 and 1."""
    x, labels = _pictures(file, classes)
    return of_images(name, x, torch.where(labels == classes[1], 1.0, -1.0).double()[:, None], seed, held_out)


def one_hot(name: str, file: Path, classes: tuple[int, ...], seed: int, held_out: int) -> Task:
    """Several classes as one-hot targets less their mean 1 / O."""
    x, labels = _pictures(file, classes)
    y = (labels[:, None] == torch.tensor(classes)).double() - 1 / len(classes)
    return of_images(name, x, y, seed, held_out)


def _pictures(file: Path, classes: tuple[int, ...], most: int = 12_000) -> tuple[Tensor, Tensor]:
    """Training images of some classes ``[N, 1, 8, 8]``, averaged over squares, and their labels."""
    from torch.nn.functional import adaptive_avg_pool2d

    if not file.is_file():
        raise MissingError(
            f"there is no {file.name} in {str(file.parent)!r}: data is a folder with mnist.npz and fashion-mnist.npz "
            "(arrays x_train [n, 28, 28] and y_train [n])"
        )
    with np.load(file) as arrays:
        if "x_train" not in arrays or "y_train" not in arrays:
            raise InputError(f"{file} has no arrays x_train and y_train")
        images, labels = arrays["x_train"], arrays["y_train"]
    kept = np.flatnonzero(np.isin(labels, classes))[:most]
    x = torch.from_numpy(images[kept].astype(np.float64) / 255)[:, None]
    pad = -x.shape[-1] % SIDE
    x = nn.functional.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
    return adaptive_avg_pool2d(x, SIDE), torch.from_numpy(labels[kept].astype(np.int64))


def network(kind: str, task: Task, width: int, seed: int) -> nn.Module:
    """A network for a task, float64, initialised from the seed alone.

    Args:
        kind: ``"linear"``, ``"tanh"``, ``"ReLU"`` (one hidden layer) or ``"CNN"`` (two strided convolutions, ReLU).
        width: hidden units, or channels of the second convolution.
    """
    inputs = int(np.prod(task.shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "linear":
            layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs, task.outputs)]
        elif kind in ("tanh", "ReLU"):
            bend = nn.Tanh() if kind == "tanh" else nn.ReLU()
            layers = [nn.Flatten(), nn.Linear(inputs, width), bend, nn.Linear(width, task.outputs)]
        elif kind == "CNN" and len(task.shape) == 3:
            side = task.shape[1] // 4
            layers = [nn.Conv2d(task.shape[0], width // 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 3, 2, 1)]
            layers += [nn.ReLU(), nn.Flatten(), nn.Linear(width * side**2, task.outputs)]
        else:
            raise InputError(f"there is no network {kind!r} for samples of shape {task.shape}")
        return nn.Sequential(*layers).double()


def rate(module: nn.Module, x: Any, relative: float) -> float:
    """A learning rate, relative to the largest eigenvalue of K(x, x) / n at the module's weights (stable below 2)."""
    from genkernel.tangent import tangent_features

    phi = tangent_features(module, x)
    return relative * len(phi) / float(torch.linalg.matrix_norm(phi.flatten(0, 1), 2)) ** 2

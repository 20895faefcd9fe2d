"""Kernel regression on labelled images: tangent kernels, drawn training sets, predictions from reference images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.experiments.eigenlearning.networks import Architecture, train
from genkernel.experiments.equivalence import Measured
from genkernel.spectra import LearningCurve, mercer_decomposition, predict_risk
from genkernel.spectra.eigenlearning import Risk

Array = NDArray[np.float64]

DENSE, DENSE_NAME = Architecture("relu", 3, 2.0), "ReLU, 3 hidden layers, infinite width"
CONVOLUTIONAL_NAME = "convolutional network at initialisation"


@dataclass(frozen=True)
class Sizes:
    """How many images stand for the density, are drawn from, and are scored; and what is drawn."""

    reference: int
    pool: int
    test: int
    samples: tuple[int, ...]
    draws: int
    networks: tuple[int, ...]
    network_draws: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Labelled:
    """Images ``[n, side²]``, of mean square 1 over all pixels, with centred one-hot labels ``[n, classes]``."""

    x: Tensor
    y: Tensor
    side: int
    source: str


@dataclass(frozen=True)
class Setting:
    """One way to regress: δ in units of the kernel's mean diagonal, ε² on top of the labels (summed over classes)."""

    ridge: float
    noise: float

    @property
    def name(self) -> str:
        return f"δ = {f'{self.ridge:g} k̄' if self.ridge else '0'}, ε² = {self.noise:g}"


@dataclass
class Curve:
    """Test errors of one kernel and setting: predicted with the reference images as the density, as a sample, measured.

    Attributes:
        predicted, corrected: the reference images as the density, and as a sample of it, at the n of the measurements.
        smooth, smooth_corrected: for many n.
        measured: over drawn training sets, all scored on the same images.
    """

    predicted: LearningCurve
    corrected: LearningCurve
    smooth: LearningCurve
    smooth_corrected: LearningCurve
    measured: list[Measured] = field(default_factory=list)


def labelled(images: Any, count: int, side: int, seed: int) -> Labelled:
    """Images of a source with labels, or scikit-learn's 8×8 digits.

    Args:
        images: an ``.npz`` with labels, a folder that holds ``mnist.npz``, a torchvision data set by name; None for
            the digits that come with scikit-learn.
        count: how many; all where there are fewer.
        side: height and width.
        seed: of which, and in which order.

    Raises:
        InputError: the source has no labels.
    """
    draw = torch.Generator().manual_seed(seed)
    if images is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, labels = torch.from_numpy(digits.images / 16.0), torch.from_numpy(digits.target)
        source = "scikit-learn's digits"
        side = 8
    else:
        from genkernel.data import load_images

        if isinstance(images, (str, Path)) and (Path(images) / "mnist.npz").is_file():
            images = Path(images) / "mnist.npz"
        found = load_images(images, size=side, channels=1, split="train", limit=count, seed=seed)
        if found.labels is None:
            raise InputError("eigenlearning of images needs labels: an .npz with labels (y, labels), or a data set")
        x, labels, source = found.images[:, 0].double(), torch.as_tensor(found.labels).long(), found.source
    order = torch.randperm(len(x), generator=draw)[:count]
    x, labels = x[order].flatten(1), labels[order]
    x = x / x.square().mean().sqrt()
    hot = nn.functional.one_hot(labels, int(labels.max()) + 1).double()
    return Labelled(x, hot - hot.mean(0), side, source)


def convolutional(side: int, seed: int) -> nn.Module:
    """A small network with one output at random weights: two 3×3 convolutions with tanh and pooling, a linear map."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 1),
        )  # fmt: skip
        for layer in net:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, std=1.5 / math.sqrt(layer.weight[0].numel()))
    return net


def kernels(data: Labelled, reference: int, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Name → kernels of the reference images and of all others with themselves."""
    from genkernel.tangent import kernel, total

    net = convolutional(data.side, seed)
    parts = data.x[:reference], data.x[reference:]
    empirical = [kernel(net, part.float(), cotangents=total(), memory="1GiB", progress=False).values for part in parts]
    closed = [DENSE.kernel(part) for part in parts]
    return {DENSE_NAME: (closed[0], closed[1]), CONVOLUTIONAL_NAME: (empirical[0], empirical[1])}


def curves(
    data: Labelled, pair: tuple[Tensor, Tensor], sizes: Sizes, settings: list[Setting], seed: int
) -> dict[Setting, Curve]:
    """Predicted and measured test errors over the number of samples, for one kernel."""
    own, others = pair
    mercer = mercer_decomposition(own)
    diagonal = float(own.diagonal().mean())
    smooth = np.geomspace(sizes.samples[0] / 2, sizes.samples[-1] * 1.3, 40)
    found = {}
    for setting in settings:
        ridge, noise = setting.ridge * diagonal, setting.noise
        y, many = data.y[: sizes.reference], smooth[smooth < sizes.reference]
        curve = Curve(
            predict_risk(mercer, y, sizes.samples, ridge=ridge, noise=noise),
            predict_risk(mercer, y, sizes.samples, ridge=ridge, noise=noise, reference="sample"),
            predict_risk(mercer, y, many, ridge=ridge, noise=noise),
            predict_risk(mercer, y, many, ridge=ridge, noise=noise, reference="sample"),
        )
        for n in sizes.samples:
            draw = torch.Generator().manual_seed(seed + n)
            curve.measured.append(
                Measured.on_points([_one(others, data, sizes, n, setting, ridge, draw) for _ in range(sizes.draws)])
            )
        found[setting] = curve
    return found


def _one(
    others: Tensor, data: Labelled, sizes: Sizes, n: int, setting: Setting, ridge: float, draw: torch.Generator
) -> Array:
    """Squared errors of one regression on every test image ``[test]``, in the mean over noise of its label."""
    y = data.y[sizes.reference :]
    places = torch.randperm(sizes.pool, generator=draw)[:n]
    noise = math.sqrt(setting.noise / y.shape[1]) * torch.randn(n, y.shape[1], generator=draw, dtype=torch.float64)
    own = others[places][:, places] + ridge * torch.eye(n, dtype=torch.float64)
    predicted = others[sizes.pool :, places] @ torch.linalg.solve(own, y[places] + noise)
    errors: Array = (predicted - y[sizes.pool :]).square().sum(1).numpy() + setting.noise
    return errors


def trained(data: Labelled, sizes: Sizes, seed: int) -> dict[tuple[int, int], tuple[Measured, int]]:
    """(width, n) → test errors of finite networks of the infinitely wide one's kind (no noise), and steps."""
    x, y = data.x[sizes.reference :], data.y[sizes.reference :]
    found = {}
    for n in sizes.networks:
        draw = torch.Generator().manual_seed(seed + n)
        places = torch.stack([torch.randperm(sizes.pool, generator=draw)[:n] for _ in range(sizes.network_draws)])
        for width in sizes.widths:
            run = train(DENSE, width, x[places], y[places], x[sizes.pool :], seed=seed + 7 * n + width)
            errors = (run.outputs - y[sizes.pool :]).square().sum(2)
            found[width, n] = Measured.on_points(errors.numpy()), run.steps
    return found


def by_reference(pair: tuple[Tensor, Tensor], data: Labelled, n: int, counts: list[int]) -> list[tuple[Risk, Risk]]:
    """What n samples teach, from ever more reference images as the density and as a sample; no ridge and no noise."""
    found = []
    for m in counts:
        mercer = mercer_decomposition(pair[0][:m, :m])
        found.append((predict_risk(mercer, data.y[:m], n), predict_risk(mercer, data.y[:m], n, reference="sample")))
    return found

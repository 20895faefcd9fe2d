"""Many finite networks in NTK parametrisation, trained beside one another to a small loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra import infinite_width_ntk
from genkernel.spectra.infinite_width import ACTIVATIONS

CHECK_EVERY = 10  # steps between two looks at the training error
ABOVE = 1.2  # a finite network's largest eigenvalue is above that of infinite width by this, or twice, or …
DIVERGED = 1e3  # times the error at the start


@dataclass(frozen=True)
class Architecture:
    """A fully connected network in NTK parametrisation; its variances are those of Simon et al.'s experiments."""

    activation: str
    depth: int
    weight_variance: float
    bias_variance: float = 0.01

    @property
    def name(self) -> str:
        return f"{ {'relu': 'ReLU'}.get(self.activation, self.activation) }, {self.depth} hidden"

    def kernel(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Of infinite width, ``[n, m]``."""
        return infinite_width_ntk(
            x, y, depth=self.depth, activation=self.activation, weight_variance=self.weight_variance,
            bias_variance=self.bias_variance,
        )  # fmt: skip


RELU_1, RELU_4 = Architecture("relu", 1, 1.96), Architecture("relu", 4, 1.96)
TANH_1, TANH_4 = Architecture("tanh", 1, 2.25), Architecture("tanh", 4, 2.25)


@dataclass(frozen=True)
class Trained:
    """What R networks came to.

    Attributes:
        outputs: on the queries, less what they were before training ``[R, q, O]``, float64.
        train_mse: on the training targets, per sample, summed over outputs ``[R]``.
        steps: that it took.
    """

    outputs: Tensor
    train_mse: Tensor
    steps: int


def train(
    architecture: Architecture,
    width: int,
    x: Tensor,
    y: Tensor,
    queries: Tensor,
    *,
    seed: int,
    tolerance: float = 1e-3,
    most_steps: int = 5000,
) -> Trained:
    """Train one network per row, in float32, until every training error is below the tolerance.

    Full-batch gradient descent with Nesterov's momentum on (1/2n) Σ ‖f(x) - f_0(x) - y‖², from weights drawn from
    N(0, 1); rate and momentum follow from the largest and the smallest eigenvalue of the infinitely wide network's
    kernel. Where training diverges (narrow networks) it starts again with half the rate. With a constant kernel the
    limit is that of plain gradient descent, kernel regression, for any momentum.

    Args:
        architecture, width: of all networks.
        x: ``[R, n, d]``, every network's own training points.
        y: ``[R, n, O]``.
        queries: ``[q, d]``, the same for all.
        seed: of all weights.
        tolerance: of the training error, relative to the mean of y².
        most_steps: after which training ends in any case.

    Raises:
        InputError: training diverges at an eighth of the rate too.
    """
    R, n, d = x.shape
    sizes = (d, *[width] * architecture.depth, y.shape[2])
    top, least = _ends(architecture, x[0])  # training sets of one size hardly differ
    x32, y32, asked = x.float(), y.float(), queries.float().expand(R, -1, -1)
    for slower in range(4):
        weights = _drawn(sizes, R, seed)
        with torch.no_grad():
            goal = _forward(architecture, weights, x32) + y32
            before = _forward(architecture, weights, asked)
        largest = ABOVE * 2**slower * top
        steps = _descended(architecture, weights, x32, goal, largest, least, tolerance, most_steps)
        if steps is not None:
            with torch.no_grad():
                mse = (_forward(architecture, weights, x32) - goal).square().sum((1, 2)) / n
                outputs = _forward(architecture, weights, asked) - before
            return Trained(outputs.double(), mse.double(), steps)
    raise InputError(f"training diverges: {architecture.name}, width {width}, n = {n}")


def _descended(
    architecture: Architecture,
    weights: list[Tensor],
    x: Tensor,
    goal: Tensor,
    largest: float,
    least: float,
    tolerance: float,
    most_steps: int,
) -> int | None:
    """Move the weights; the steps that it took, or None where they diverge."""
    n = x.shape[1]
    root = math.sqrt(max(least, 1e-6 * largest) / largest)
    rate, momentum = 1 / largest, (1 - root) / (1 + root)
    for w in weights:
        w.requires_grad_()
    velocity = [torch.zeros_like(w) for w in weights]
    size: Tensor | None = None
    for step in range(1, most_steps + 1):
        errors = (_forward(architecture, weights, x) - goal).square().sum((1, 2)) / n
        gradients = torch.autograd.grad(errors.sum() / 2, weights)
        with torch.no_grad():
            for w, v, g in zip(weights, velocity, gradients, strict=True):
                v.mul_(momentum).add_(g)
                w.sub_(g.add(v, alpha=momentum), alpha=rate)
        size = errors.detach() if size is None else size  # at the first step: the mean of y²
        if step % CHECK_EVERY == 0:
            if not bool((errors < DIVERGED * size).all()):
                return None
            if bool((errors < tolerance * size).all()):
                return step
    return most_steps


def _ends(architecture: Architecture, points: Tensor) -> tuple[float, float]:
    """Largest and smallest eigenvalue of K / n."""
    values = torch.linalg.eigvalsh(architecture.kernel(points)) / len(points)
    return float(values[-1]), float(values[0])


def _drawn(sizes: tuple[int, ...], networks: int, seed: int) -> list[Tensor]:
    """Weights ``[R, in, out]`` and biases ``[R, 1, out]`` of every layer, N(0, 1)."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(networks, rows, after, generator=draw) for before, after in pairwise(sizes) for rows in (before, 1)
    ]


def _forward(architecture: Architecture, weights: list[Tensor], x: Tensor) -> Tensor:
    """``[R, n, d]`` → ``[R, n, O]``."""
    activation = ACTIVATIONS[architecture.activation]
    bias = math.sqrt(architecture.bias_variance)
    for layer in range(0, len(weights), 2):
        if layer:
            x = activation(x)
        w, b = weights[layer], weights[layer + 1]
        x = torch.baddbmm(bias * b, x, w, alpha=math.sqrt(architecture.weight_variance / w.shape[1]))
    return x

"""Does the noise of small batches change the weights and leave the mechanism as it is?

One network, one θ_0, the same learning rate and number of steps; only the batch size and the order of batches differ.
How far final weights, final tangent kernels and final predictions are from those of full batches is measured in units
of how far training with full batches moved each of them, and beside runs from other initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.paths.stochastic.problems import model_problem, unflattened
from genkernel.paths.stochastic.sde import SGD, simulate_discrete
from genkernel.tangent import Coverage, TangentModel, kernel, total

Array = NDArray[np.float64]

QUANTITIES = ("weights", "kernel", "predictions")


@dataclass(frozen=True)
class Sweep:
    """Distances from the run with full batches, in units of what that run moved.

    Attributes:
        sizes: batch sizes ``[S]``, largest first, without the full batch.
        distances: quantity → ``[S, R]`` over batch orders.
        other_starts: quantity → ``[R']``, full-batch runs from other initial weights.
        alignment: cosine of the centred kernels with that of full batches ``[S, R]``.
        other_alignment: the same of the other starts ``[R']``.
        initial_alignment: of the kernel before training.
        losses: final training losses ``[S, R]``.
        full_loss: of the run with full batches.
        samples, parameters, steps: n, P, and the number of steps.
        eta: learning rate.
    """

    sizes: tuple[int, ...]
    distances: dict[str, Array]
    other_starts: dict[str, Array]
    alignment: Array
    other_alignment: Array
    initial_alignment: float
    losses: Array
    full_loss: float
    samples: int
    parameters: int
    steps: int
    eta: float


def sweep(*, quick: bool, seed: int) -> Sweep:
    """Train a tanh network 2-32-1 on 64 noisy points with batches of 32 … 1."""
    samples, steps, eta = 64, 400 if quick else 3000, 0.05
    orders, starts = (4, 3) if quick else (12, 8)
    sizes = (16, 4, 1) if quick else (32, 16, 8, 4, 2, 1)
    generator = torch.Generator().manual_seed(seed)
    x, held_out = (torch.rand(k, 2, generator=generator, dtype=torch.float64) * 4 - 2 for k in (samples, 48))
    y = torch.sin(x[:, :1]) * x[:, 1:] + 0.1 * torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    model = TangentModel(network(seed))
    problem, theta0 = model_problem(model, squared_loss, (x, y))
    given: dict[str, Any] = {"eta": eta, "steps": steps, "at": (steps,)}
    first = seed * 1000
    full = simulate_discrete(problem, theta0, SGD(), batch_size=samples, seeds=[first], **given).final
    noisy = [
        simulate_discrete(problem, theta0, SGD(), batch_size=size, seeds=range(first, first + orders), **given).final
        for size in sizes
    ]
    begun = torch.stack([_flat(network(seed + 1 + k)) for k in range(starts)])
    others = simulate_discrete(problem, begun, SGD(), batch_size=samples, seeds=[first] * starts, **given).final

    read = _Reader(model, held_out)
    reference, before = read(full[0]), read(theta0)
    moved = {name: float((reference[name] - before[name]).norm()) for name in QUANTITIES}

    def compared(thetas: Tensor) -> tuple[dict[str, list[float]], list[float]]:
        far: dict[str, list[float]] = {name: [] for name in QUANTITIES}
        aligned = []
        for theta in thetas:
            seen = read(theta)
            for name in QUANTITIES:
                far[name].append(float((seen[name] - reference[name]).norm()) / moved[name])
            aligned.append(_alignment(seen["kernel"], reference["kernel"]))
        return far, aligned

    rows = [compared(thetas) for thetas in noisy]
    elsewhere, elsewhere_aligned = compared(others)
    return Sweep(
        sizes=sizes,
        distances={name: np.array([far[name] for far, _ in rows]) for name in QUANTITIES},
        other_starts={name: np.array(elsewhere[name]) for name in QUANTITIES},
        alignment=np.array([aligned for _, aligned in rows]),
        other_alignment=np.array(elsewhere_aligned),
        initial_alignment=_alignment(before["kernel"], reference["kernel"]),
        losses=np.stack([problem.loss(thetas).numpy() for thetas in noisy]),
        full_loss=float(problem.loss(full)[0]),
        samples=samples,
        parameters=problem.parameters,
        steps=steps,
        eta=eta,
    )


def network(seed: int) -> nn.Module:
    """The smooth network, in float64, from a generator of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)).double()


def squared_loss(module: nn.Module, batch: Any) -> Tensor:
    """½ (f(x) − y)² per sample."""
    x, y = batch
    return 0.5 * (module(x) - y).square().sum(1)


class _Reader:
    """Weights, tangent kernel (to unit Frobenius norm) and predictions on held-out points."""

    def __init__(self, model: TangentModel, points: Tensor):
        self.model, self.points = model, points
        self.shapes = {name: p.shape for name, p in model.parameters.items()}
        self.coverage: Coverage | None = None

    def __call__(self, theta: Tensor) -> dict[str, Tensor]:
        at = self.model.at(unflattened(theta, self.shapes), strict=False)
        found = kernel(
            at, self.points, cotangents=total(), by=None, coverage=self.coverage, distributed=False, progress=False
        )
        self.coverage = found.coverage
        return {
            "weights": theta,
            "kernel": found.values / found.values.norm(),
            "predictions": at(self.points).reshape(-1),
        }


def _alignment(one: Tensor, other: Tensor) -> float:
    """Centred kernel alignment of two kernels on the same points."""
    a, b = (k - k.mean(0) - k.mean(1, keepdim=True) + k.mean() for k in (one, other))
    return float((a * b).sum() / (a.norm() * b.norm()))


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

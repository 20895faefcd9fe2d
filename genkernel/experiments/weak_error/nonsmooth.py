"""What kinks do to the path formula: of the network, and of the loss.

The trapezoid rule writes one step as f(θ + Δ) − f(θ) = ½(J(θ) + J(θ + Δ))Δ + gap. The gap is a property of f along
Δ: third order in Δ where f is smooth, and first order in the part of the step after a unit has changed sign. The loss
only decides where Δ points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from genkernel.errors import InputError, NonFiniteError

Array = NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "ReLU": nn.ReLU,
}
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": lambda e: 0.5 * e.square(),
    "Huber": lambda e: torch.where(e.abs() < 0.1, 0.5 * e.square(), 0.1 * (e.abs() - 0.05)),
    "absolute": torch.abs,
}


@dataclass(frozen=True)
class Walk:
    """Gradient descent from S initial weights, step by step.

    Attributes:
        gaps: f(θ_{k+1}) − f(θ_k) − ½(J_k + J_{k+1})Δ_k at every query ``[N, S, m]``.
        crossings: hidden units whose input changed sign in that step, per query ``[N, S, m]``.
        moved: ‖f_N − f_0‖ over the queries ``[S]``.
    """

    gaps: Array
    crossings: NDArray[np.int64]
    moved: Array

    @property
    def relative_gap(self) -> float:
        """Of the whole path: ‖Σ_k gap_k‖ / ‖f_N − f_0‖, its geometric mean over initial weights."""
        return float(np.exp(np.log(np.linalg.norm(self.gaps.sum(0), axis=1) / self.moved).mean()))

    @property
    def crossed_share(self) -> float:
        """The share of Σ|gap| that falls on steps and queries where a unit changed sign."""
        total = np.abs(self.gaps).sum()
        return float(np.abs(self.gaps[self.crossings > 0]).sum() / total) if total else float("nan")


def walk(activation: str, hidden: int, loss: str, *, eta: float, horizon: float, seeds: Sequence[int]) -> Walk:
    """Gradient descent of an MLP 2-24(-24)-1 on 32 points of a smooth target.

    Args:
        activation: ``"tanh"``, ``"softplus"`` or ``"ReLU"``.
        hidden: number of hidden layers.
        loss: ``"squared"``, ``"Huber"`` or ``"absolute"``.
        eta, horizon: learning rate, and learning rate times steps.
        seeds: of the initial weights; the first is also that of the points.

    Raises:
        InputError: an unknown activation or loss.
        NonFiniteError: training diverges.
    """
    if activation not in ACTIVATIONS or loss not in LOSSES:
        raise InputError(f"activations are {', '.join(ACTIVATIONS)} and losses {', '.join(LOSSES)}")
    generator = torch.Generator().manual_seed(seeds[0])
    x, queries = (torch.rand(k, 2, generator=generator, dtype=torch.float64) * 4 - 2 for k in (32, 48))
    y = torch.sin(x[:, :1]) * x[:, 1:]
    nets = [_network(activation, hidden, seed) for seed in seeds]
    theta = {name: torch.stack([net.get_parameter(name) for net in nets]) for name, _ in nets[0].named_parameters()}

    def output(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(nets[0], parameters, (queries,)).squeeze(1)

    def objective(parameters: dict[str, Tensor]) -> Tensor:
        return LOSSES[loss](functional_call(nets[0], parameters, (x,)) - y).mean()

    def along(parameters: dict[str, Tensor], tangent: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        value, change, *_ = jvp(output, (parameters,), (tangent,))
        return value, change

    def signs(parameters: dict[str, Tensor]) -> Tensor:
        return _signs(nets[0], parameters, queries)

    gaps, crossings = [], []
    before = first = vmap(output)(theta)
    sides = vmap(signs)(theta)
    for k in range(round(horizon / eta)):
        delta = {name: -eta * g for name, g in vmap(grad(objective))(theta).items()}
        moved = {name: theta[name] + delta[name] for name in theta}
        _, old = vmap(along)(theta, delta)
        after, new = vmap(along)(moved, delta)
        if not torch.isfinite(after).all():
            raise NonFiniteError(f"training diverged at step {k}: take a smaller eta")
        now = vmap(signs)(moved)
        gaps.append((after - before - 0.5 * (old + new)).numpy())
        crossings.append((now != sides).sum(2).numpy())
        theta, before, sides = moved, after, now
    return Walk(np.array(gaps), np.array(crossings), (before - first).norm(dim=1).numpy())


def _network(activation: str, hidden: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths = [2] + [24] * hidden
        layers: list[nn.Module] = []
        for inward, outward in itertools.pairwise(widths):
            layers += [nn.Linear(inward, outward), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers, nn.Linear(24, 1)).double().requires_grad_(False)


def _signs(net: nn.Sequential, theta: dict[str, Tensor], points: Tensor) -> Tensor:
    """Which hidden units have positive inputs ``[m, units]``."""
    found, value = [], points
    for place, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            value = value @ theta[f"{place}.weight"].T + theta[f"{place}.bias"]
            found.append(value > 0)
        else:
            value = layer(value)
    return torch.cat(found[:-1], 1)  # the last layer's values are outputs

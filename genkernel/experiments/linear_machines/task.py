"""Machines that are linear in their weights beside others: the formula's gap, kernels, and what features span."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.experiments.linear_machines.setting import Setting

Make = Callable[[Any, float], torch.optim.Optimizer]

LINEAR = ("linear, no bias", "linear, bias", "trained last layer")  # the three that are linear in what is trained
OTHERS = ("two linear layers", "GELU network")
OPTIMIZERS: dict[str, Make] = {
    "gradient descent": lambda p, rate: torch.optim.SGD(p, lr=rate),
    "batches of 8, momentum": lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9),
    "batches of 8, Adam": lambda p, rate: torch.optim.Adam(p, lr=rate),
}
BATCH = 8
NETWORKS = ("GELU", "tanh", "ReLU", "ReLU, no biases")
_ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "tanh": nn.Tanh, "ReLU": nn.ReLU}
RATE = 2e-2  # of Adam on the points
SOLVED = 1e-7  # total slack, per sample, of a linear programme that separates


def machine(name: str, inputs: int, hidden: int, seed: int) -> nn.Module:
    """One of :data:`LINEAR` or :data:`OTHERS`, float64, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "two linear layers":
            net: nn.Module = nn.Sequential(nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, 1, bias=False))
        elif name == "GELU network":
            net = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))
        elif name == "trained last layer":
            first = nn.Linear(inputs, hidden).requires_grad_(False)
            net = nn.Sequential(first, nn.GELU(), nn.Linear(hidden, 1))
        else:
            net = nn.Linear(inputs, 1, bias=name == "linear, bias")
    return net.double()


def regression(setting: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal points ``[n, d]``, noisy answers that are not linear in them ``[n, 1]``, fresh points ``[m, d]``."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(setting.samples + setting.queries, setting.inputs, generator=draw, dtype=torch.float64)
    noise = 0.1 * torch.randn(setting.samples, 1, generator=draw, dtype=torch.float64)
    known, fresh = x[: setting.samples], x[setting.samples :]
    return known, known[:, :1] - known[:, 1:2].square() + noise, fresh


def losses(module: nn.Module, batch: Any) -> Tensor:
    """Half the squared error of every sample ``[b]``."""
    return 0.5 * (module(batch[0]) - batch[1]).square().sum(1)


def edge(net: nn.Module, x: Tensor) -> float:
    """2/λ, with the largest eigenvalue λ of K/n at these weights."""
    return 2 * len(x) / float(torch.linalg.eigvalsh(kernel(net, x).values)[-1])


def kernel(net: nn.Module, x: Tensor) -> Any:
    """Exact, of the only output."""
    import genkernel as gk

    return gk.kernel(net, x, cotangents=gk.total(), dtype="float64", progress=False, distributed=False)


def gap(
    net: nn.Module, rate: float, steps: int, optimizer: str, data: tuple[Tensor, Tensor, Tensor], seed: int
) -> float:
    """What the sum over kernels at the start of every step misses, relative to the change of the outputs."""
    from genkernel.paths import record

    x, y, queries = data
    trained = [p for p in net.parameters() if p.requires_grad]
    steps_of = OPTIMIZERS[optimizer](trained, rate)
    draw = torch.Generator().manual_seed(seed)
    with record(net, steps_of, losses, queries=queries, rule="left", windows=1, verbose=False) as path:
        for _ in range(steps):
            ids = torch.arange(len(x))
            if optimizer != "gradient descent":
                ids = torch.randperm(len(x), generator=draw)[:BATCH]
            path.batch((x[ids], y[ids]))
            steps_of.zero_grad()
            losses(net, (x[ids], y[ids])).mean().backward()
            steps_of.step()
    parts = path.contributions()
    return float(parts.gap.norm() / (parts.final - parts.initial).norm())


# ------------------------------------------------------------------------------- a linear last layer


def classifier(name: str, inputs: int, width: int, seed: int) -> nn.Sequential:
    """One of :data:`NETWORKS`: three layers, float64. Without biases, the inputs are to hold a 1."""
    if name not in NETWORKS:
        raise InputError(f"a network is one of {', '.join(NETWORKS)}, not {name!r}")
    bias, activation = not name.endswith("no biases"), _ACTIVATIONS[name.split(",")[0]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, width, bias=bias), activation(), nn.Linear(width, width, bias=bias), activation(),
            nn.Linear(width, 1, bias=bias),
        ).double()  # fmt: skip


class Sine(nn.Module):
    """sin, as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def one_sine() -> tuple[nn.Sequential, Tensor, Tensor]:
    """f = 1 · sin(3x + 0) + 0 and points of [-π, π] with its sign: right everywhere, by construction."""
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Linear(1, 1), Sine(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for p, value in zip(net.parameters(), (3.0, 0.0, 1.0, 0.0), strict=True):
            p.fill_(value)
    x = torch.linspace(-torch.pi, torch.pi, 121, dtype=torch.float64)
    x = x[(3 * x).sin().abs() > 0.1][:, None]
    return net, x, (net(x)[:, 0] > 0).long()


def of_the_last_layer(net: nn.Sequential) -> Tensor:
    """Which tangent features ``[P]`` are of the last layer."""
    last = {id(p) for p in net[-1].parameters()}
    return torch.cat([torch.full((p.numel(),), id(p) in last) for p in net.parameters()])


def own_weights(net: nn.Sequential) -> Tensor:
    """The w ``[P]`` with f = ⟨w, φ⟩: the last layer's own weights and bias, and 0 for all others."""
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    return torch.where(of_the_last_layer(net), weights, 0.0)


def outside(outputs: Tensor, features: Tensor, intercept: bool = False) -> float:
    """Relative distance of the outputs ``[n]`` from the span of the columns of the features ``[n, P]``.

    Args:
        intercept: with a column of ones.
    """
    columns = _columns(features, intercept)
    if not float(outputs.norm()):
        return 0.0
    if not columns.shape[1]:  # ReLUs that are silent on all points
        return 1.0
    basis, values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis = basis[:, values > values[0] * max(columns.shape) * torch.finfo(columns.dtype).eps]
    rest = outputs - basis @ (basis.T @ outputs)
    rest = rest - basis @ (basis.T @ rest)  # once more: rounding of the first pass
    return float(rest.norm() / outputs.norm())


def separable(features: Tensor, labels: Tensor) -> bool:
    """Whether some hyperplane, with an intercept, has all samples on the side of their label: a linear programme.

    minimise Σ s_i  so that  ±(⟨w, φ_i⟩ + c) ≥ 1 - s_i,  s ≥ 0: separable where the least total slack is 0.
    """
    import numpy as np
    from scipy.optimize import linprog

    columns = _columns(features, intercept=True).numpy()
    n, p = columns.shape
    signs = 2.0 * labels.numpy() - 1
    found = linprog(
        np.r_[np.zeros(p), np.ones(n)], A_ub=np.hstack([-signs[:, None] * columns, -np.eye(n)]), b_ub=-np.ones(n),
        bounds=[(None, None)] * p + [(0, None)] * n, method="highs",
    )  # fmt: skip
    return bool(found.status == 0 and found.fun < SOLVED * n)


def _columns(features: Tensor, intercept: bool) -> Tensor:
    """Columns of length one, those without length left out."""
    columns = features.double()
    if intercept:
        columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], 1)
    size = columns.norm(dim=0)
    return columns[:, size > 0] / size[size > 0]

"""A tanh network on digits with more parameters than training rows: its held-out residual in null spaces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.experiments.null_space.setting import FRESH, TAUS, Setting

BATCH = 50  # images of one step


@dataclass(frozen=True)
class Digits:
    """One training of a tanh network on one-hot digits, squared loss.

    Attributes:
        name: images of the training set, or "fresh": each of them in one step.
        seed: of it.
        parameters, rows: of the network, and of the population sample.
        error: mean ‖r‖² on the training set (nan for fresh samples) and on held-out images.
        stationarity: ‖Jᵀr‖ / (σ_1 ‖r‖) on the training set (nan for fresh samples).
        energy: E_null(τ) of the residual on held-out images ``[τ]``.
        random: the same of random residuals.
        union: E_null(τ) on held-out images and as many of the training set together; nan for fresh samples.
        start: E_null(τ) on held-out images before the training.
        rayleigh, rayleigh_start: on held-out images.
        low, high: bounds of the energy from products of the kernel alone, where they were asked for.
        floor: tolerances below it are rounding in those.
    """

    name: str
    seed: int
    parameters: int
    rows: int
    error: tuple[float, float]
    stationarity: float
    energy: list[float]
    random: list[float]
    union: list[float]
    start: list[float]
    rayleigh: float
    rayleigh_start: float
    low: list[float] | None
    high: list[float] | None
    floor: float | None


def digits(folder: str | Path, n: int | None, setting: Setting, seed: int, *, bounded: bool = False) -> Digits:
    """Adam on a set of n images in batches of 50, or on images none of which comes twice."""
    from genkernel.experiments.shrunk_images import network, shrunk
    from genkernel.spectra import null_space_energy
    from genkernel.tangent import operator, tangent_features

    count = BATCH * setting.image_steps if n is None else n
    x, label = shrunk(folder, "mnist", setting.size, count, split="train", seed=seed)
    at, truth = shrunk(folder, "mnist", setting.size, setting.held, split="test", seed=seed)
    y, to = (nn.functional.one_hot(labels, 10).double() for labels in (label, truth))
    net = network(x.shape[1], setting.width, 10, seed)

    def residual(images: Tensor, answers: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = net(images) - answers
        return found

    def curve(images: Tensor, answers: Tensor) -> Any:
        return null_space_energy(tangent_features(net, images), residual(images, answers), TAUS)

    start = curve(at, to)
    _train(net, x, y, setting.image_steps, seed)
    end = curve(at, to)
    union, stationarity, error = [math.nan] * len(TAUS), math.nan, math.nan
    if n is not None:
        r = residual(x, y)
        own = operator(net, x)
        error = float(r.square().sum(1).mean())
        stationarity = float(own.vjp(r, flat=True).norm() / (own.eigsh(1).values[0].sqrt() * r.norm()))
        few = min(n, setting.held)
        union = curve(torch.cat([x[:few], at]), torch.cat([y[:few], to])).energy.tolist()
    free = None
    if bounded:
        free = null_space_energy(operator(net, at), residual(at, to), TAUS, steps=setting.lanczos, probes=2, seed=seed)
    return Digits(
        name=FRESH if n is None else str(n),
        seed=seed,
        parameters=sum(p.numel() for p in net.parameters()),
        rows=10 * setting.held,
        error=(error, float(residual(at, to).square().sum(1).mean())),
        stationarity=stationarity,
        energy=end.energy.tolist(),
        random=end.random.tolist(),
        union=union,
        start=start.energy.tolist(),
        rayleigh=end.rayleigh,
        rayleigh_start=start.rayleigh,
        low=None if free is None else free.low.tolist(),
        high=None if free is None else free.high.tolist(),
        floor=None if free is None else free.floor,
    )


def _train(net: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int) -> None:
    """Adam on half the squared error, in batches without repetition until all samples were seen; rates fall to 0."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=draw)
    for _ in range(steps):
        if len(order) < min(BATCH, len(x)):
            order = torch.randperm(len(x), generator=draw)
        chosen, order = order[:BATCH], order[BATCH:]
        loss = (net(x[chosen]) - y[chosen]).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()

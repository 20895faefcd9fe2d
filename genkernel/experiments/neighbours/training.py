"""Trainings of the study of neighbours, and what the kernel says along them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.domingos import network
from genkernel.experiments.fitting import fit
from genkernel.experiments.learning_rates import RATES, lowest
from genkernel.experiments.neighbours.setting import (
    ADAM,
    ANCHORS,
    FIRST,
    LOGISTIC,
    MOMENTUM,
    PARTNERS,
    RADIUS,
    RMSPROP,
    SGDM,
    Setting,
)
from genkernel.experiments.plane_maps import outputs_on, square
from genkernel.experiments.plane_networks import LAST, tangent_kernel
from genkernel.experiments.plane_points import disk_and_circle
from genkernel.experiments.side_by_side import SideBySide, logistic, squared, summed

Array = NDArray[np.float64]

HALF, SIDE = 1.35, 70  # of the map of decisions
TUNING = 50_000  # added to the seeds of trainings that choose learning rates
FRESH = 100_000  # added to the seeds of points that no network is trained on


@dataclass(frozen=True)
class Task:
    """Points of R replicates, in an order of their own: batches are the same places for all.

    Attributes:
        x, y: ``[n, R, 2]`` and labels -1 (disk), 1 (circle) ``[n, R]``.
        seeds: of the replicates.
    """

    x: Tensor
    y: Tensor
    seeds: tuple[int, ...]

    @classmethod
    def drawn(cls, samples: int, seeds: tuple[int, ...]) -> Task:
        """Points for every seed."""
        points, labels = [], []
        for seed in seeds:
            x, y = disk_and_circle(samples, RADIUS, seed)
            order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
            points.append(x[order])
            labels.append(2.0 * y[order].double() - 1)
        return cls(torch.stack(points, 1), torch.stack(labels, 1), seeds)


@dataclass
class Course:
    """One optimizer with one rate: what R networks and their kernels did, at T moments.

    Attributes:
        optimizer, rate: which.
        loss, accuracy: on the training points ``[R, T]``.
        purity: share of the k nearest by the kernel with the own label, mean over training points ``[R, T]``.
        within, between: mean cosine of pairs of one class, and of two ``[R, T]``.
        pairs: K̃(x0, x) for every partner ``[R, T, 5]``.
        anchored: share of the k nearest training points with the anchor's label ``[R, T, 4]``.
        at_end: name → ``[R]``: purity on fresh points, without the last layer, and these for the untrained network.
        nearest: of the first replicate, at every moment: indices of the k nearest to every anchor ``[T, 4, k]``.
        regions: outputs of the first replicate on a square at every moment ``[T, SIDE²]``.
    """

    optimizer: str
    rate: float
    loss: Array
    accuracy: Array
    purity: Array
    within: Array
    between: Array
    pairs: Array
    anchored: Array
    at_end: dict[str, Array]
    nearest: NDArray[np.int64]
    regions: Array

    @property
    def contrast(self) -> Array:
        """Same class minus other class, ``[R, T]``."""
        return self.within - self.between


def optimizer_of(name: str, parameters: Any, rate: float) -> torch.optim.Optimizer:
    """As ``torch.optim`` has it, with defaults; momentum is heavy-ball."""
    if name == ADAM:
        return torch.optim.Adam(parameters, lr=rate)
    if name == RMSPROP:
        return torch.optim.RMSprop(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM if name == SGDM else 0.0)


def started(task: Task, width: int) -> SideBySide:
    """Three-layer GELU networks, one for every seed."""
    return SideBySide([network(width, nn.GELU, seed) for seed in task.seeds])


def losses_of(stack: nn.Module, task: Task, loss: str) -> tuple[Array, Array]:
    """Mean losses and accuracies on all training points ``[R]`` each."""
    of = logistic if loss == LOGISTIC else squared
    with torch.no_grad():
        out = stack(task.x)
        return of(out, task.y).mean(0).numpy(), (out * task.y > 0).double().mean(0).numpy()


def trained(
    task: Task, loss: str, optimizer: str, rate: float, setting: Setting, seed: int, look: Any = None
) -> SideBySide:
    """All networks after training; ``look`` as in :func:`genkernel.experiments.fitting.fit`."""
    stack = started(task, setting.width)
    objective = summed(logistic if loss == LOGISTIC else squared)
    fit(
        stack, task.x, task.y, objective, optimizer_of(optimizer, stack.parameters(), rate), setting.steps,
        batch=setting.batch, seed=seed, look=look, at=setting.moments,
    )  # fmt: skip
    return stack


def chosen_rate(optimizer: str, loss: str, setting: Setting, seed: int) -> tuple[float, dict[float, float]]:
    """The rate with the smallest mean training loss at the end, on points and weights of their own; all losses.

    The search goes up and down the list of rates until the best one has worse ones on both sides.
    """
    task = Task.drawn(setting.samples, tuple(seed + TUNING + r for r in range(setting.tuning_seeds)))

    def at_end(rate: float) -> float:
        value = float(losses_of(trained(task, loss, optimizer, rate, setting, seed + TUNING), task, loss)[0].mean())
        return value if np.isfinite(value) else float("inf")

    return lowest(RATES, FIRST[optimizer], at_end)


def course(task: Task, loss: str, optimizer: str, rate: float, setting: Setting, seed: int) -> Course:
    """Train all replicates with one optimizer and follow their kernels."""
    rows: list[list[Row]] = []
    values: list[tuple[Array, Array]] = []

    def look(step: int, stack: nn.Module) -> None:
        assert isinstance(stack, SideBySide)
        values.append(losses_of(stack, task, loss))
        ends = step in (0, setting.steps)
        rows.append([seen(net, task, r, setting, ends) for r, net in enumerate(stack.networks())])

    trained(task, loss, optimizer, rate, setting, seed, look)

    def gathered(name: str) -> Array:
        return np.array([[getattr(row, name) for row in moment] for moment in rows]).swapaxes(0, 1)

    first, last = rows[0], rows[-1]
    at_end = {name: np.array([row.extra[name] for row in last]) for name in last[0].extra}
    at_end |= {f"untrained, {name}": np.array([row.extra[name] for row in first]) for name in first[0].extra}
    return Course(
        optimizer, rate, np.array([v[0] for v in values]).T, np.array([v[1] for v in values]).T,
        gathered("purity"), gathered("within"), gathered("between"), gathered("pairs"), gathered("anchored"),
        at_end, np.stack([moment[0].nearest for moment in rows]), np.stack([moment[0].regions for moment in rows]),
    )  # fmt: skip


@dataclass
class Row:
    """One network at one moment: see :class:`Course`."""

    purity: float
    within: float
    between: float
    pairs: list[float]
    anchored: list[float]
    nearest: NDArray[np.int64]
    regions: Array
    extra: dict[str, float] = field(default_factory=dict)


def seen(net: nn.Module, task: Task, replicate: int, setting: Setting, ends: bool) -> Row:
    """What the kernel of one network says of its training points, the anchors and the pairs."""
    from genkernel.spectra import knn_label_agreement, without_layers
    from genkernel.spectra.class_blocks import class_blocks

    x, labels = task.x[:, replicate], (task.y[:, replicate] > 0).long()
    n, k = len(x), setting.neighbours
    marked = torch.tensor([place for place, _ in (*ANCHORS.values(), *PARTNERS.values())], dtype=torch.float64)
    kernel = tangent_kernel(net, torch.cat([x, marked]))
    cosines = kernel.normalized().values
    own = cosines[:n, :n]
    blocks = class_blocks(own, labels)
    near = cosines[n : n + len(ANCHORS), :n].topk(k, dim=1).indices
    classes = torch.tensor([c for _, c in ANCHORS.values()])
    row = Row(
        agreement(own, labels, k), blocks.within, blocks.between,
        cosines[n + len(ANCHORS), n + len(ANCHORS) :].tolist(),
        (labels[near] == classes[:, None]).double().mean(1).tolist(), near.numpy(),
        outputs_on(net, square(HALF, SIDE)) if replicate == 0 else np.zeros(0),
    )  # fmt: skip
    if ends:
        new, new_y = disk_and_circle(n, RADIUS, task.seeds[replicate] + FRESH)
        fresh = tangent_kernel(net, new)
        near_fresh = knn_label_agreement(None, new_y, k, points=new).euclidean
        near_own = knn_label_agreement(None, labels, k, points=x).euclidean
        assert near_fresh is not None and near_own is not None
        rest = without_layers(kernel, LAST).normalized().values[:n, :n]
        row.extra = {
            "fresh": agreement(fresh.values, new_y, k),
            "without last layer": agreement(rest, labels, k),
            "Euclidean": near_own.value,
            "Euclidean, fresh": near_fresh.value,
        }
    return row


def agreement(kernel: Tensor, labels: Tensor, k: int) -> float:
    """Mean share of the k nearest by the kernel with the own label."""
    from genkernel.spectra import knn_label_agreement

    found = knn_label_agreement(kernel, labels, k).kernel
    assert found is not None
    return found.value


def euclidean_nearest(x: Tensor, k: int) -> NDArray[np.int64]:
    """Indices of the k points of ``[n, 2]`` nearest to every anchor, ``[4, k]``."""
    anchors = torch.tensor([place for place, _ in ANCHORS.values()], dtype=torch.float64)
    return torch.cdist(anchors, x).topk(k, dim=1, largest=False).indices.numpy()

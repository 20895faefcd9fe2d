"""What contributions and other methods say of data that are taken away, and what trainings without them come to."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.retraining.baselines import FinalWeights, trak
from genkernel.experiments.retraining.groups import (
    Optimisation,
    accuracies,
    half_subsets,
    left_out,
    loss_and_margin,
    outputs_of,
    retrain,
    sample_losses,
)
from genkernel.experiments.retraining.task import Setting, Task

Array = NDArray[np.float64]

OUTPUTS = ("loss", "margin")
TRUTHS = {
    "groups": "without a random group",
    "classes": "without a class",
    "less": "a random group counts a tenth less",
    "halves": "on random halves of the groups (LDS)",
}
OURS, TRACIN, TRACIN_P, LAST, TRAK = "contributions", "TracIn-CP", "TracIn-CP with P", "last weights", "TRAK's formula"
LATER, EARLY = "… without the first 5 %", 0.05  # the share of the steps that is left out
LESS = 0.9
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
DAMPING = 0.1  # fixed before anything was measured; the grid stands in a table of its own


@dataclass
class Predicted:
    """What each method says that groups and classes added to the queries, by method.

    Attributes:
        groups: method → ``[G, m, 2]``.
        classes: method → ``[C, m, 2]``.
        gap: completeness gap of the contributions, relative.
    """

    groups: dict[str, Array]
    classes: dict[str, Array]
    gap: float


def predict(
    task: Task, net: nn.Module, order: list[Tensor], optimisation: Optimisation, setting: Setting
) -> tuple[Predicted, FinalWeights]:
    """One taped training, and what every method makes of it."""
    from genkernel.paths.replay import replay
    from genkernel.paths.tape import tape

    x, y = task.data
    module = copy.deepcopy(net)
    optimizer = optimisation.make(module)
    steps = len(order)
    kept = {round(steps * k / setting.checkpoints) for k in range(setting.checkpoints + 1)}
    checkpoints, states = [copy.deepcopy(module.state_dict())], []
    with tempfile.TemporaryDirectory() as folder:
        with tape(module, optimizer, folder, steps=steps) as run:
            for step, ids in enumerate(order, start=1):
                run.batch(ids)
                optimizer.zero_grad()
                sample_losses(module, (x[ids], y[ids])).mean().backward()
                optimizer.step()
                if step in kept:
                    checkpoints.append(copy.deepcopy(module.state_dict()))
                    states.append(copy.deepcopy(optimizer.state_dict()))
        found = replay(
            folder, module, lambda ids: (x[ids], y[ids]), sample_losses, queries=task.queries,
            query_call=loss_and_margin, progress=False,
        )  # fmt: skip
    predicted = Predicted({}, {}, found.contributions(lambda ids: np.zeros(len(ids), int)).gap_rel)
    for name, first in ((OURS, 0), (LATER, round(EARLY * steps))):
        by_sample = np.zeros((len(y), *found.values.shape[2:]))
        later = found.steps >= first
        np.add.at(by_sample, found.ids[later], found.values[later].sum(1))
        _add(predicted, name, task, by_sample)
    edges = sorted(kept)
    rate = optimisation.lr / (1 - optimisation.momentum) if optimisation.kind == "momentum" else optimisation.lr
    rates = [rate * (b - a) for a, b in pairwise(edges)]
    _add_cells(predicted, TRACIN, task, module, checkpoints, rates)
    if optimisation.kind == "adam":
        # P as it was at the checkpoint; at the first one there is none yet, and the next one's stands in
        _add_cells(predicted, TRACIN_P, task, module, checkpoints, rates, [states[0], *states[:-1]])
    _add_cells(predicted, LAST, task, module, [checkpoints[-1]] * 2, [sum(rates)])
    final = FinalWeights(module, task.data, task.queries)
    for damping in DAMPINGS:
        _add(predicted, influence_name(damping), task, final.influence(damping))
    return predicted, final


def influence_name(damping: float) -> str:
    """A method's name by its damping."""
    return "influence" if damping == DAMPING else f"influence, λ = {damping:g}"


def _add(predicted: Predicted, name: str, task: Task, by_sample: Array) -> None:
    """Sum values of samples ``[n, m, 2]`` into groups and classes."""
    for into, index in ((predicted.groups, task.group), (predicted.classes, task.label)):
        total = np.zeros((int(index.max()) + 1, *by_sample.shape[1:]))
        np.add.at(total, index.numpy(), by_sample)
        into[name] = total


def _add_cells(
    predicted: Predicted,
    name: str,
    task: Task,
    module: nn.Module,
    checkpoints: list[Any],
    rates: list[float],
    states: list[Any] | None = None,
) -> None:
    """The checkpoint approximation by cells of group and class, so that one pass serves both."""
    from genkernel.paths import checkpoint_path
    from genkernel.tangent import Preconditioner

    cell = task.group * task.classes + task.label
    parts = checkpoint_path(
        module, checkpoints, rates, task.data, sample_losses, queries=task.queries, query_call=loss_and_margin,
        groups=lambda ids, _: cell[ids], batch_size=len(cell),
        preconditioners=[Preconditioner.from_optimizer(s, module) for s in states] if states else None,
    )  # fmt: skip
    cells = np.array(parts.sources, dtype=int)
    values = parts.values.numpy()
    for into, index, count in (
        (predicted.groups, cells // task.classes, int(task.group.max()) + 1),
        (predicted.classes, cells % task.classes, task.classes),
    ):
        total = np.zeros((count, *values.shape[1:]))
        np.add.at(total, index, values)
        into[name] = total


# ---------------------------------------------------------------------------------- truth


@dataclass
class Truth:
    """What trainings with other weights came to, by kind of change.

    Attributes:
        effects: what the unit added ``[S, U, m, 2]`` for S batch orders; for halves the outputs themselves.
        halves: which groups are in ``[K, G]``.
        accuracy: of the whole training on the queries.
    """

    effects: dict[str, Array]
    halves: Array
    accuracy: float


def truth(
    task: Task, net: nn.Module, orders: list[list[Tensor]], optimisation: Optimisation, setting: Setting, seed: int,
    tick: Callable[[], object] = lambda: None,
) -> Truth:  # fmt: skip
    """Train again, in every order of the batches."""
    halves = half_subsets(setting.groups, setting.subsets, seed)
    weights = {
        "groups": left_out(task.group, setting.groups),
        "classes": left_out(task.label, task.classes),
        "less": left_out(task.group, setting.groups, LESS),
        "halves": halves[:, task.group].double(),
    }
    whole = torch.ones(1, len(task.label), dtype=torch.float64)
    found: dict[str, list[Array]] = {name: [] for name in weights}
    accuracy = []
    for order in orders:
        stacked = retrain(net, task.data, order, torch.cat([whole, *weights.values()]), optimisation, tick)
        outputs = outputs_of(net, stacked, task.queries).numpy()
        accuracy.append(float(accuracies(net, stacked, task.queries)[0]))
        start = 1
        for name, rows in weights.items():
            part = outputs[start : start + len(rows)]
            start += len(rows)
            found[name].append(part if name == "halves" else (outputs[0] - part) / (1 - LESS if name == "less" else 1))
    effects = {name: np.stack(rows) for name, rows in found.items()}
    return Truth(effects, halves.numpy().astype(np.float64), float(np.mean(accuracy)))


def forecast(predicted: Predicted, method: str, kind: str, halves: Array) -> Array:
    """What a method says of every unit of a kind of change ``[U, m, 2]``."""
    if kind == "classes":
        return predicted.classes[method]
    if kind == "halves":
        return np.einsum("kg,gmo->kmo", halves, predicted.groups[method])
    return predicted.groups[method]


def predictions(
    task: Task, net: nn.Module, orders: list[list[Tensor]], optimisation: Optimisation, setting: Setting, seed: int,
    tick: Callable[[int], object] = lambda steps: None,
) -> list[Predicted]:  # fmt: skip
    """Every method's predictions from every order of the batches; TRAK's are of all runs together."""
    runs, factors, wrong = [], [], []
    for order in orders:
        one, final = predict(task, net, order, optimisation, setting)
        factors.append(final.trak_features(min(256, setting.samples // 3), seed))
        wrong.append(final.wrong_at_queries())
        runs.append(one)
        tick(len(order))
    together = trak(factors, np.mean(wrong, 0))
    for one in runs:
        _add(one, TRAK, task, together)
    return runs

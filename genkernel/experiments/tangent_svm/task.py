"""One task of the study of linear machines: networks, machines on their tangent features and on the points, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.domingos import network
from genkernel.experiments.fitting import fit
from genkernel.experiments.plane_maps import outputs_on, square
from genkernel.experiments.plane_networks import of_layers, tangent_kernel
from genkernel.experiments.plane_points import around_an_ellipse
from genkernel.experiments.side_by_side import SideBySide, squared, summed
from genkernel.experiments.support_vectors import (
    Machine,
    chosen_on_features,
    chosen_on_points,
    on_features,
    on_points,
)
from genkernel.experiments.tangent_svm.setting import Setting

Array = NDArray[np.float64]

FRESH = 100_000  # added to the seeds of points that nothing is fitted to
CHECK = 200_000  # added to the seeds of those that constants are chosen by
HARD = 1e3  # penalty of the machines on permuted labels: large, and solved for the features of all networks here
TANGENT, USUAL = "tangent", "tangent, C = 1"
UNTRAINED, REST = "untrained tangent", "tangent, no last layer"
UNTRAINED_REST, WRONG = "untrained, no last layer", "tangent, trained on permuted labels"
RBF, TUNED, NETWORK = "RBF", "RBF, chosen", "the network itself"
MACHINES = (TANGENT, USUAL, UNTRAINED, REST, UNTRAINED_REST, WRONG, RBF, TUNED, NETWORK)


@dataclass
class Scores:
    """One machine, over seeds.

    Attributes:
        in_sample: part of its own samples on the right side ``[R]``.
        held_out: part of fresh points on the right side ``[R]``.
        area: part of the square on the wrong side ``[R]``.
        from_network: part of the square where it and the trained network differ ``[R]``.
    """

    in_sample: Array
    held_out: Array
    area: Array
    from_network: Array


@dataclass
class Answers:
    """One task.

    Attributes:
        scores: machine → scores.
        permuted: what machines make of permuted labels: name → accuracy → ``[R]``.
        fitted: training loss of the networks, on the labels and on permuted ones, ``[R]`` each.
        maps: machine → decision values of the first seed on the square ``[side²]``.
        points, labels: of the first seed.
        truth: what is positive outside of the region, on the square.
        constants: machine → its constants, by seed.
        at_edge: machine → those that were chosen at an end of their list where a longer one might do better, by seed.
        solved: machine → whether the solver came to an end, by seed.
    """

    scores: dict[str, Scores]
    permuted: dict[str, dict[str, Array]]
    fitted: tuple[Array, Array]
    maps: dict[str, Array]
    points: Array
    labels: NDArray[np.int64]
    truth: Array
    constants: dict[str, list[dict[str, float]]]
    at_edge: dict[str, list[list[str]]]
    solved: dict[str, list[bool]]


def answers(axes: tuple[float, float], setting: Setting, seed: int) -> Answers:
    """Train networks for every seed, fit all machines, score them."""
    drawn = [around_an_ellipse(setting.samples, axes, seed + r) for r in range(setting.seeds)]
    mixed = [
        y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed + r))] for r, (_, y) in enumerate(drawn)
    ]
    start = [network(setting.width, nn.GELU, seed + r) for r in range(setting.seeds)]
    x = torch.stack([points for points, _ in drawn], 1)
    nets, loss = _trained(start, x, torch.stack([y for _, y in drawn], 1), setting.steps, setting.rate)
    wrong, wrong_loss = _trained(start, x, torch.stack(mixed, 1), setting.permuted_steps, setting.rate)
    cells = square(1.0, setting.side)
    truth = (cells / torch.tensor(axes)).square().sum(1) - 1
    rows, noise = [], []
    for r, (points, y) in enumerate(drawn):
        new, answer = around_an_ellipse(setting.fresh, axes, seed + r + FRESH)
        check, known = around_an_ellipse(setting.samples, axes, seed + r + CHECK)
        found = _machines(points, y, check, known, torch.cat([new, cells]), (start[r], nets[r], wrong[r]))
        rows.append((found, answer))
        noise.append(_of_permuted(points, mixed[r], start[r], wrong[r], setting, seed + r))
    return Answers(
        scores={
            name: _scored([(found[name], found[NETWORK], answer) for found, answer in rows], truth) for name in MACHINES
        },
        permuted={
            name: {m: np.array([one[name][m] for one in noise]) for m in noise[0][name]} for name in noise[0]
        },
        fitted=(loss, wrong_loss),
        maps={name: rows[0][0][name].values[setting.fresh :] for name in MACHINES},
        points=drawn[0][0].numpy(), labels=drawn[0][1].numpy(), truth=truth.numpy(),
        constants={name: [found[name].constants for found, _ in rows] for name in MACHINES},
        at_edge={name: [list(found[name].at_edge) for found, _ in rows] for name in MACHINES},
        solved={name: [found[name].solved for found, _ in rows] for name in MACHINES},
    )  # fmt: skip


def _trained(
    start: Sequence[nn.Module], x: Tensor, labels: Tensor, steps: int, rate: float
) -> tuple[list[nn.Module], Array]:
    """Networks after training, and their losses."""
    stack = SideBySide(start)
    y = 2.0 * labels.double() - 1
    fit(stack, x, y, summed(squared), torch.optim.Adam(stack.parameters(), lr=rate), steps)
    with torch.no_grad():
        return stack.networks(), squared(stack(x), y).mean(0).numpy()


def _machines(
    x: Tensor, y: Tensor, check: Tensor, known: Tensor, new: Tensor, nets: tuple[nn.Module, nn.Module, nn.Module]
) -> dict[str, Machine]:
    """All machines on points ``[n, 2]``, with constants chosen by other ones with answers, and values at new ones."""
    before, after, wrong = ((tangent_kernel(net, x), tangent_kernel(net, torch.cat([check, new]), x)) for net in nets)

    def tangent(pair: Any, last: bool = True) -> Machine:
        own, cross = (of_layers(kernel, last) for kernel in pair)
        return chosen_on_features((own, cross), y, known)

    own = outputs_on(nets[1], x)
    return {
        TANGENT: tangent(after),
        USUAL: on_features((after[0].values, after[1].values[len(check) :]), y),
        UNTRAINED: tangent(before),
        REST: tangent(after, last=False),
        UNTRAINED_REST: tangent(before, last=False),
        WRONG: tangent(wrong),
        RBF: on_points(x, y, new),
        TUNED: chosen_on_points(x, y, torch.cat([check, new]), known),
        NETWORK: Machine(float(((own > 0) == y.bool().numpy()).mean()), outputs_on(nets[1], new), {}),
    }


def _of_permuted(
    x: Tensor, labels: Tensor, start: nn.Module, wrong: nn.Module, setting: Setting, seed: int
) -> dict[str, dict[str, float]]:
    """What a linear machine makes of permuted labels, before and after a network was trained on them."""
    from genkernel.spectra import tangent_linear_separability

    found = {}
    for name, net in (("untrained", start), ("trained on them", wrong)):
        one = tangent_linear_separability(tangent_kernel(net, x), labels, seed=seed, folds=setting.folds, C=HARD)
        found[name] = {"in-sample": one.in_sample, "held out": one.held_out, "solved": float(one.converged)}
    return found


def _scored(rows: list[tuple[Machine, Machine, Tensor]], truth: Tensor) -> Scores:
    outside = (truth > 0).numpy()
    held, area, apart = [], [], []
    for one, net, answer in rows:
        fresh = len(answer)
        side, own = one.values > 0, net.values > 0
        held.append((side[:fresh] == answer.bool().numpy()).mean())
        area.append((side[fresh:] != outside).mean())
        apart.append((side[fresh:] != own[fresh:]).mean())
    return Scores(np.array([one.in_sample for one, _, _ in rows]), np.array(held), np.array(area), np.array(apart))

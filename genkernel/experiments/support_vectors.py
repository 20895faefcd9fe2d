"""Support vector machines on tangent features and on points: constants that are given, or chosen on other samples.

All of them work on products of features, centred (the intercept takes up what that changes). Where constants are
chosen, products are divided by the samples' mean square (:func:`genkernel.spectra.separability.centred_kernel`), so
that a penalty means the same for every network and every width. The choice is made on points that no machine is fitted
to, and which are to be new for the networks as well: the best accuracy, and of several the smallest penalty (the
largest margin), then the smallest gamma.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.spectra.separability import PENALTIES, centred_kernel, fitted, is_hard, solved

Array = NDArray[np.float64]
Pair = tuple[Tensor, Tensor]  # products of the samples ``[n, n]``, and of new ones with them ``[m, n]``

WIDTHS = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0, 64.0)  # times the usual gamma, 1 / (inputs × variance)
EXACT = 1e-6  # tolerance of libsvm where boundaries are compared; its own is 1e-3


@dataclass(frozen=True)
class Machine:
    """What a machine says.

    Attributes:
        in_sample: part of its own samples on the right side.
        values: decision values at new samples ``[m]``, above 0 for label 1.
        constants: that it has.
        solved: the solver came to an end.
        hard: no sample has the largest weight, C: it is the machine of the largest margin.
        at_edge: constants that were chosen at an end of their list where a longer list might do better.
    """

    in_sample: float
    values: Array
    constants: dict[str, float]
    solved: bool = True
    hard: bool = False
    at_edge: tuple[str, ...] = ()


def on_features(products: Pair, labels: Tensor, C: float = 1.0, scaled: bool = False, exact: bool = False) -> Machine:
    """A linear machine on features.

    Args:
        products: of the samples and of new ones.
        labels: 0 or 1 ``[n]``.
        C: penalty, for features as they are.
        scaled: for features divided by their root mean square instead.
        exact: solve to :data:`EXACT`.
    """
    pair, size = _prepared(products)
    return _machine(pair, labels, {"C": C}, C if scaled else C * size, exact)


def on_points(
    x: Tensor, labels: Tensor, new: Tensor, C: float = 1.0, scaled: bool = False, exact: bool = False
) -> Machine:
    """An RBF machine of the usual width on points ``[n, d]``, at new points ``[m, d]``."""
    gamma = _usual(x)
    pair, size = _prepared(_rbf(x, new, gamma))
    return _machine(pair, labels, {"C": C, "gamma": gamma}, C if scaled else C * size, exact)


def chosen_on_features(products: Pair, labels: Tensor, answers: Tensor) -> Machine:
    """A linear machine whose penalty is chosen.

    Args:
        products: of the samples and of new ones, of which the first are there to choose by.
        labels: 0 or 1 ``[n]``.
        answers: labels of those to choose by ``[v]``; decision values are of the others.
    """
    pair, _ = _prepared(products)
    return _best(((pair, {"C": c}) for c in PENALTIES), labels, answers, {"C": PENALTIES})


def chosen_on_points(x: Tensor, labels: Tensor, new: Tensor, answers: Tensor) -> Machine:
    """An RBF machine whose penalty and width are chosen, as :func:`chosen_on_features` does."""
    gammas = tuple(_usual(x) * width for width in WIDTHS)
    pairs = [_prepared(_rbf(x, new, gamma))[0] for gamma in gammas]
    candidates = (
        (pair, {"C": c, "gamma": gamma}) for c in PENALTIES for pair, gamma in zip(pairs, gammas, strict=True)
    )
    return _best(candidates, labels, answers, {"C": PENALTIES, "gamma": gammas})


def _best(
    candidates: Iterable[tuple[tuple[Array, Array], dict[str, float]]], labels: Tensor, answers: Tensor,
    lists: dict[str, tuple[float, ...]],
) -> Machine:  # fmt: skip
    """The first of those that are right most often on the new samples with answers, and that the solver ends."""
    truth, check = answers.bool().numpy(), len(answers)
    found: dict[tuple[float, ...], tuple[int, Machine]] = {}
    for pair, constants in candidates:
        one = _machine(pair, labels, constants, constants["C"], False)
        if one.solved:
            found[tuple(constants.values())] = int(((one.values[:check] > 0) == truth).sum()), one
    most = max(right for right, _ in found.values())
    best = next(one for right, one in found.values() if right == most)

    def right_at(name: str, value: float) -> int | None:
        return found.get(tuple((best.constants | {name: value}).values()), (None, None))[0]

    edges = []
    for name, values in lists.items():
        at = values.index(best.constants[name])
        known = [right_at(name, values[i]) if 0 <= i < len(values) else None for i in (at - 1, at + 1)]
        last = None in known and not (name == "C" and best.hard and known[0] is not None)
        if last and all(right is None or right < most for right in known):
            edges.append(name)
    return replace(best, values=best.values[check:], at_edge=tuple(edges))


def _machine(
    pair: tuple[Array, Array], labels: Tensor, constants: dict[str, float], penalty: float, exact: bool
) -> Machine:
    K, cross = pair
    y = labels.numpy()
    machine: Any = fitted(K, y, penalty, EXACT if exact else 1e-3)
    values = machine.decision_function(cross)
    return Machine(float(machine.score(K, y)), values, constants, solved(machine), is_hard(machine))


def _prepared(products: Pair) -> tuple[tuple[Array, Array], float]:
    """Products of features about the samples' mean, divided by their mean square; the latter."""
    own, cross = (part.double().numpy() for part in products)
    mean, n = own.mean(0), len(own)
    size = float(own.trace() / n - mean.mean())
    return (centred_kernel(own), (cross - cross.mean(1, keepdims=True) - mean + mean.mean()) / size), size


def _usual(x: Tensor) -> float:
    return 1.0 / (x.shape[1] * float(x.var(correction=0)))


def _rbf(x: Tensor, new: Tensor, gamma: float) -> Pair:
    return torch.exp(-gamma * torch.cdist(x, x).square()), torch.exp(-gamma * torch.cdist(new, x).square())

"""Support vector machines on tangent features and on points: with the usual constants, and with those that are chosen.

Penalties are chosen by cross-validation among the same values for all machines, the smallest of the best; the RBF
machine chooses its width as well. Kernels of tangent features are divided by tr K / n first, so that a penalty means
the same for every network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.spectra.separability import PENALTIES

Array = NDArray[np.float64]

WIDTHS = (0.25, 1.0, 4.0, 16.0, 64.0)  # times the usual gamma, 1 / (inputs × variance)


@dataclass(frozen=True)
class Machine:
    """What a machine says.

    Attributes:
        in_sample: part of its own samples on the right side.
        values: decision values at new samples ``[m]``, above 0 for label 1.
        constants: that it has.
    """

    in_sample: float
    values: Array
    constants: dict[str, float]


def on_features(kernel: Tensor, labels: Tensor, cross: Tensor, folds: int | None, seed: int) -> Machine:
    """A linear machine on features that are given by their products.

    Args:
        kernel: of the samples ``[n, n]``.
        labels: 0 or 1 ``[n]``.
        cross: of new samples with them ``[m, n]``.
        folds: of the cross-validation that chooses the penalty; None for C = 1 on features as they are.
        seed: of the folds.
    """
    from sklearn.svm import SVC

    scale = 1.0 if folds is None else float(kernel.trace()) / len(kernel)
    K, y, new = kernel.numpy() / scale, labels.numpy(), cross.numpy() / scale
    machine = _solved(SVC(kernel="precomputed", C=1.0), {"C": PENALTIES}, K, y, folds, seed)
    return Machine(float(machine.score(K, y)), machine.decision_function(new), {"C": float(machine.C)})


def on_points(x: Tensor, labels: Tensor, new: Tensor, folds: int | None, seed: int) -> Machine:
    """An RBF machine on points.

    Args:
        x: ``[n, d]``.
        labels: 0 or 1 ``[n]``.
        new: ``[m, d]``.
        folds: of the cross-validation that chooses penalty and width; None for C = 1 and the usual gamma.
        seed: of the folds.
    """
    from sklearn.svm import SVC

    points, y = x.numpy(), labels.numpy()
    usual = 1.0 / (points.shape[1] * float(points.var()))
    choices = {"gamma": tuple(usual * w for w in WIDTHS), "C": PENALTIES}
    machine = _solved(SVC(C=1.0, gamma=usual), choices, points, y, folds, seed)
    constants = {"C": float(machine.C), "gamma": float(machine.gamma)}
    return Machine(float(machine.score(points, y)), machine.decision_function(new.numpy()), constants)


def _solved(machine: Any, choices: dict[str, Any], samples: Array, y: Any, folds: int | None, seed: int) -> Any:
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    if folds is None:
        return machine.fit(samples, y)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return GridSearchCV(machine, choices, cv=split).fit(samples, y).best_estimator_

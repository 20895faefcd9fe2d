"""Are the classes linearly separable in tangent space? A linear SVM on tangent features, through their Gram matrix.

With more parameters than samples any labels are separable *in-sample*, so what counts is held-out accuracy, and what it
is held against (THEORY §8):

- the untrained network's features, which may separate already;
- permuted labels: in-sample accuracy rises to 1 for them too, once the network was trained on them;
- the kernel without the last layer's block (:func:`without_layers`). With a linear last layer the network's output lies
  in the span of its tangent features (Courtois et al., §4.2), so a network that is right is separable by construction.

Folds hold samples out from the SVM and not from the network. Labels that the network was trained on are in its
features, so an accuracy that is to mean something for new samples is of a kernel between samples it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from genkernel.errors import InputError
from genkernel.spectra.alignment import class_numbers, gram
from genkernel.spectra.arrays import whole_number
from genkernel.tangent import Kernel

# of kernels that are centred and have mean diagonal 1: untrained networks, whose features differ little from sample to
# sample but in a few directions, ask for up to 1e6
PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
# of libsvm, which can go on for hours where nothing separates and C is large: of one machine, and of each of many
_ITERATIONS, _ITERATIONS_EACH = 1_000_000, 100_000


@dataclass(frozen=True)
class Separability:
    """Accuracies of a linear classifier in tangent space.

    Attributes:
        held_out: of samples that the SVM was not fitted to.
        stderr: binomial, √(p (1 - p) / n).
        in_sample: fitted to all samples with the C that was chosen.
        in_sample_hard: with the largest C of the list for which the solver ends: what P > n makes possible.
        chance: of the most frequent class.
        per_fold: held-out accuracy of every fold.
        chosen: C of every fold.
        converged: every machine that is scored here was solved; if not, accuracies may be low.
        at_edge: folds that chose a C at an end of the list where a longer list might do better: the smallest, and the
            next one is worse; or the largest that was tried, and it still gives way to samples on the wrong side.
    """

    held_out: float
    stderr: float
    in_sample: float
    in_sample_hard: float
    chance: float
    per_fold: tuple[float, ...]
    chosen: tuple[float, ...]
    converged: bool
    at_edge: int = 0


def tangent_linear_separability(
    kernel: Any, labels: Any, *, folds: int = 5, C: float | Sequence[float] = PENALTIES, seed: int = 0
) -> Separability:
    """Held-out accuracy of a linear SVM on tangent features, given their Gram matrix.

    Args:
        kernel: symmetric :class:`Kernel` or Gram matrix ``[n, n]`` (of the inputs, for a linear classifier on these).
            It is centred and divided by its mean diagonal, tr(HKH) / n with H = I - 11ᵀ/n: neither a constant (which
            the intercept takes up) nor a factor changes anything, and C means the same for every network.
        labels: classes ``[n]``, whole numbers or names.
        folds: of the outer cross-validation (stratified, shuffled); the inner one that chooses C has as many, within
            the training part alone.
        C: penalty, or those to choose from: the smallest of the best. Those above one at which the solver was stopped
            are not tried.
        seed: of the folds.

    Raises:
        InputError: kernel or labels as for :func:`genkernel.spectra.alignment.gram`; a class with fewer samples than
            folds, or too few for inner folds where there are several C; C not positive; a kernel that is constant.
    """
    from sklearn.model_selection import StratifiedKFold

    K = gram(kernel).numpy()
    y = class_numbers(labels, len(K)).numpy()
    penalties = _penalties(C)
    folds, least = whole_number(folds, "folds"), int(np.bincount(y).min())
    if folds < 2:
        raise InputError(f"cross-validation has at least 2 folds, not {folds}")
    if least < folds:
        raise InputError(f"{folds} folds need as many samples of every class, not the {least} of the smallest")
    if len(penalties) > 1 and least * (folds - 1) // folds < folds:  # left for the inner folds
        raise InputError(
            f"{folds} folds within {folds} folds, to choose C, need more samples of every class than the {least} of "
            "the smallest: take fewer folds, or one C"
        )
    K = centred_kernel(K)
    hits, per_fold, chosen, machines, edges = np.zeros(len(K)), [], [], [], 0
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(K, y):
        machine, at_edge = _chosen(K[np.ix_(rest, rest)], y[rest], penalties, folds, seed)
        hits[held] = machine.predict(K[np.ix_(held, rest)]) == y[held]
        per_fold.append(float(hits[held].mean()))
        chosen.append(float(machine.C))
        machines.append(machine)
        edges += at_edge
    held_out = float(hits.mean())
    everything, _ = _chosen(K, y, penalties, folds, seed)
    hard = _hardest(K, y, penalties)
    return Separability(
        held_out=held_out,
        stderr=(held_out * (1 - held_out) / len(K)) ** 0.5,
        in_sample=float((everything.predict(K) == y).mean()),
        in_sample_hard=float((hard.predict(K) == y).mean()),
        chance=float(np.bincount(y).max()) / len(y),
        per_fold=tuple(per_fold),
        chosen=tuple(chosen),
        converged=all(solved(machine) for machine in (*machines, everything, hard)),
        at_edge=edges,
    )


def without_layers(kernel: Kernel, *layers: str) -> Kernel:
    """The kernel of the other layers alone: for separability that is not there by construction.

    Args:
        kernel: symmetric, with partial kernels (``by="layer"``, as :func:`genkernel.kernel` does by default).
        layers: names out of ``kernel.layers``.

    Raises:
        InputError: there is no such layer, no other one is left, or the kernel is not symmetric.
    """
    if not kernel.symmetric:
        raise InputError("the norms without a layer are known for kernels of x against x only")
    unknown = [name for name in layers if name not in kernel.layers]
    if unknown:
        raise InputError(
            f"the kernel has no layer {unknown[0]!r}; it has {', '.join(kernel.layers) or 'none'} (weights that layers "
            "share count once, under the first of them)"
        )
    kept = {name: values for name, values in kernel.layers.items() if name not in layers}
    if not kept:
        raise InputError("no layer is left: name those to take away")
    values = sum(kept.values(), start=0 * kernel.values)
    norms = values.diagonal(dim1=0, dim2=1).permute(-1, *range(values.dim() - 2))
    if values.dim() == 4:  # full blocks: of every output its own
        norms = norms.diagonal(dim1=1, dim2=2)
    meta = {**kernel.meta, "without_layers": list(layers)}
    return Kernel(values, norms, norms, layers=kept, symmetric=True, meta=meta)


def _penalties(C: Any) -> tuple[float, ...]:
    """Different penalties, rising."""
    given = [C] if np.ndim(C) == 0 else list(C)
    found = {float(c) for c in given if isinstance(c, Real)}
    if not given or not all(isinstance(c, Real) for c in given) or not all(0 < c < float("inf") for c in found):
        raise InputError(f"C is positive, or a list of positive numbers, not {C!r}")
    return tuple(sorted(found))


def centred_kernel(kernel: np.ndarray) -> np.ndarray:
    """HKH, with H = I - 11ᵀ/n, divided by its mean diagonal.

    Raises:
        InputError: the kernel is constant.
    """
    mean = kernel.mean(0)
    K = kernel - mean - mean[:, None] + mean.mean()
    size = float(K.trace()) / len(K)
    if size <= len(K) * np.finfo(np.float64).eps * float(np.abs(kernel).max()):  # rounding
        raise InputError("the kernel is zero, or one constant: there is nothing to separate by")
    return np.asarray(K / size)


def fitted(K: np.ndarray, y: np.ndarray, penalty: float, tolerance: float = 1e-3, iterations: int | None = None) -> Any:
    """A linear machine of samples with a Gram matrix (``sklearn.svm.SVC``)."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVC

    # a seed of its own: without one it takes a number from NumPy's global generator
    machine = SVC(kernel="precomputed", C=penalty, tol=tolerance, max_iter=iterations or _ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by `solved`
        return machine.fit(K, y)


def solved(machine: Any) -> bool:
    """Whether the solver came to an end."""
    return bool(machine.fit_status_ == 0)


def is_hard(machine: Any) -> bool:
    """Whether no sample has the weight C: every larger C has the same solution."""
    return solved(machine) and float(np.abs(machine.dual_coef_).max()) < (1 - 1e-9) * float(machine.C)


def _most(penalties: Sequence[float]) -> int:
    return _ITERATIONS if len(penalties) == 1 else _ITERATIONS_EACH


def _hardest(K: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Any:
    """The machine of the largest C before the solver is stopped; of the first C if it is stopped there already."""
    most = _most(penalties)
    found = fitted(K, y, penalties[0], iterations=most)
    for c in penalties[1:]:
        if is_hard(found) or not solved(more := fitted(K, y, c, iterations=most)):
            break
        found = more
    return found


def _chosen(K: np.ndarray, y: np.ndarray, penalties: Sequence[float], folds: int, seed: int) -> tuple[Any, bool]:
    """A machine, with C by cross-validation within these samples where there is a choice; whether a longer list might
    have given another."""
    from sklearn.model_selection import StratifiedKFold

    if len(penalties) == 1:
        return fitted(K, y, penalties[0]), False
    most = _most(penalties)
    right, tried = np.zeros(len(penalties), dtype=int), len(penalties)
    for rest, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(K, y):
        machine = None
        for i, c in enumerate(penalties[:tried]):
            if machine is None or not is_hard(machine):
                machine = fitted(K[np.ix_(rest, rest)], y[rest], c, iterations=most)
                hits = int((machine.predict(K[np.ix_(held, rest)]) == y[held]).sum())
            right[i] += hits
            if not solved(machine):
                tried = i + 1  # a larger C would be stopped as well, and says nothing
                break
    best = int(right[:tried].argmax())
    machine = fitted(K, y, penalties[best], iterations=most)
    low = best == 0 and tried > 1 and bool(right[0] > right[1])
    return machine, low or (best == tried - 1 and not is_hard(machine))

"""What the kernel of a trained classifier makes of its classes (THEORY §8).

Four questions, each beside what it has to be compared with:

- do tangent features of a class point the same way (class blocks, alignment with the labels)? beside the untrained
  network, and the inputs themselves;
- whose labels have the nearest neighbours? beside neighbours by Euclidean distance, and chance;
- are the classes linearly separable in tangent space? held out, beside the untrained network, permuted labels, the
  inputs, and the kernel without the last layer, in whose span the logits lie by construction;
- how do new samples lie to those of training: do they point along one class, and does that say whether they are
  answered rightly? (:mod:`genkernel.classifier.extrapolation`)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.classifier.classifier import Classifier
from genkernel.classifier.labels import Labels
from genkernel.classifier.logits import cross_entropies, margins, predicted
from genkernel.errors import InputError
from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.class_blocks import ClassBlocks, class_blocks
from genkernel.spectra.neighbours import NeighbourAgreement, knn_label_agreement
from genkernel.spectra.separability import Separability, tangent_linear_separability, without_layers
from genkernel.tangent import Cotangents, Kernel, TangentModel, exact_trace, kernel, probes
from genkernel.tangent.fresh import reinitialised

FEWEST = 4  # samples that an unbiased alignment needs
Progress = Callable[[str, int, int], None]


@dataclass
class Answers:
    """What the classifier says.

    Attributes:
        predictions: ``[n]``.
        margins: of the logit of the label over the largest other one ``[n]``.
        loss, accuracy: means.
        accuracy_per_class, loss_per_class: ``[C]``; NaN for a class without samples.
    """

    predictions: Labels
    margins: np.ndarray
    loss: float
    accuracy: float
    accuracy_per_class: np.ndarray
    loss_per_class: np.ndarray


@dataclass
class Structure:
    """How one kernel is organised by the labels.

    Attributes:
        blocks: mean cosines within and between classes.
        cka: unbiased alignment with the labels; 0 for a kernel that does not know them, 1 for one that knows nothing
            else; NaN where a kernel has no spread.
        kta: kernel-target alignment, which is not centred: common directions count.
        agreement: share of the k nearest neighbours with the same label.
        separability: of a linear SVM; None where classes are too small for folds.
    """

    blocks: ClassBlocks
    cka: float
    kta: float
    agreement: NeighbourAgreement
    separability: Separability | None


@dataclass
class Similarity:
    """Everything :func:`analyze` found.

    Attributes:
        names: of the classes.
        labels: ``[n]``.
        answers: at these samples.
        trained: the kernel of the network as it is.
        controls: by name: ``"untrained"``, ``"without last layer"``, ``"permuted labels"``, ``"inputs"``.
        cka_by_layer: alignment of each layer's kernel with the labels, in the network's order.
        share_by_layer: of the trace.
        notes: what to know, in sentences.
    """

    names: list[str]
    labels: Labels
    answers: Answers
    trained: Structure
    controls: dict[str, Structure] = field(default_factory=dict)
    cka_by_layer: dict[str, float] = field(default_factory=dict)
    share_by_layer: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def analyze(
    classifier: Classifier,
    samples: Any,
    labels: Labels,
    *,
    number: int = 8,
    neighbours: int = 10,
    folds: int = 5,
    seed: int = 0,
    controls: bool = True,
    dtype: torch.dtype | None = None,
    memory: str | int = "8GiB",
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Similarity, Kernel]:
    """Class structure of the trace kernel over labelled samples.

    Args:
        samples: n of them, as the network takes them.
        labels: 0 … C − 1 ``[n]``.
        number: of random probes; with no more logits than that, the trace is exact.
        neighbours: of each sample.
        folds: of the cross-validation.
        seed: of probes, folds, the permutation and the untrained network.
        controls: also those that the numbers have to be held against.
        dtype, memory, options: of :func:`genkernel.kernel`.

    Returns:
        The numbers, and the kernel of the network with its layers.

    Raises:
        InputError: too few samples or classes, or labels beyond the logits.
        GenkernelError: as for :func:`genkernel.kernel`.
    """
    n = len(labels)
    if n < FEWEST or len(np.unique(labels)) < 2:
        raise InputError(f"similarity compares classes: give at least {FEWEST} samples of at least two of them")
    stages = ["answers", "kernel", *(["untrained", "controls"] if controls else [])]
    say = progress or (lambda *_: None)
    say(stages[0], 0, len(stages))
    logits = classifier.logits(samples)
    count = max(2, logits.shape[1])
    if int(labels.max()) >= count:
        raise InputError(f"the classifier tells {count} classes apart, and there are labels up to {int(labels.max())}")
    cotangents = exact_trace() if logits.shape[1] <= number else probes(number, seed)
    say(stages[1], 1, len(stages))

    def run(model: TangentModel) -> Kernel:
        return _kernel(model, samples, cotangents, dtype, memory, options)

    def structure(K: Any, y: Labels = labels) -> Structure:
        return _structure(K, y, min(neighbours, n - 1), folds, seed, _points(samples))

    found = run(classifier.tangent)
    result = Similarity(
        names=classifier.class_names(count),
        labels=labels,
        answers=_answers(logits, labels, count),
        trained=structure(found),
        cka_by_layer={name: cka(values, torch.from_numpy(labels)) for name, values in found.layers.items()},
        share_by_layer=_shares(found),
    )
    if controls:
        say(stages[2], 2, len(stages))
        fresh, notes = reinitialised(classifier.module, seed)
        result.notes += [f"untrained: {note}" for note in notes]
        named = {name: value.detach() for name, value in fresh.named_parameters()}
        result.controls["untrained"] = structure(run(classifier.tangent.at(named, strict=False)))
        say(stages[3], 3, len(stages))
        head = classifier.head(samples)
        last = [name for name in found.layers if name in {p.rpartition(".")[0] or p for p in head}]
        if last and len(last) < len(found.layers):
            result.controls["without last layer"] = structure(without_layers(found, *last))
        else:
            result.notes.append("no layer's own output are the logits: there is no kernel without the last layer")
        result.controls["permuted labels"] = structure(found, np.random.default_rng(seed).permutation(labels))
        if (points := _points(samples)) is not None:
            flat = points.double().flatten(1)
            result.controls["inputs"] = structure(flat @ flat.T)
    return result, found


def _kernel(
    model: TangentModel,
    samples: Any,
    cotangents: Cotangents,
    dtype: torch.dtype | None,
    memory: str | int,
    options: dict[str, Any],
) -> Kernel:
    return kernel(model, samples, cotangents=cotangents, by="layer", dtype=dtype, memory=memory, **options)


def _structure(K: Any, labels: Labels, neighbours: int, folds: int, seed: int, points: Tensor | None) -> Structure:
    y = torch.from_numpy(labels)
    least = int(np.bincount(labels)[np.unique(labels)].min())
    foldable = least * (folds - 1) // folds >= folds
    return Structure(
        blocks=class_blocks(K, y),
        cka=cka(K, y),
        kta=kernel_target_alignment(K, y),
        agreement=knn_label_agreement(K, y, neighbours, points=points),
        separability=tangent_linear_separability(K, y, folds=folds, seed=seed) if foldable else None,
    )


def _answers(logits: Tensor, labels: Labels, count: int) -> Answers:
    y = torch.from_numpy(labels)
    losses, said = cross_entropies(logits, y).numpy(), predicted(logits).numpy()
    right = (said == labels).astype(float)

    def by_class(values: np.ndarray) -> np.ndarray:
        return np.array([values[labels == c].mean() if (labels == c).any() else math.nan for c in range(count)])

    return Answers(
        predictions=said,
        margins=margins(logits, y).numpy(),
        loss=float(losses.mean()),
        accuracy=float(right.mean()),
        accuracy_per_class=by_class(right),
        loss_per_class=by_class(losses),
    )


def _shares(found: Kernel) -> dict[str, float]:
    traces = {name: float(values.diagonal().sum()) for name, values in found.layers.items()}
    total = sum(traces.values())
    return {name: trace / total if total else math.nan for name, trace in traces.items()}


def _points(samples: Any) -> Tensor | None:
    """Samples as points; None where they are more than one tensor."""
    return samples.detach().cpu() if isinstance(samples, Tensor) and samples.is_floating_point() else None

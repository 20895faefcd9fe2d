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
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.classifier.classifier import Classifier
from genkernel.classifier.extrapolation import Seen, extrapolation
from genkernel.classifier.labels import Labels
from genkernel.classifier.logits import cross_entropies, margins, predicted
from genkernel.classifier.results import TRAINED, Answers, Moment, Separation, SimilarityResult, Structure
from genkernel.errors import InputError
from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.class_blocks import class_blocks
from genkernel.spectra.embedding import embed
from genkernel.spectra.neighbours import knn_label_agreement
from genkernel.spectra.separability import tangent_linear_separability, without_layers
from genkernel.tangent import Kernel, TangentModel, exact_trace, kernel, probes
from genkernel.tangent.fresh import reinitialised

FEWEST = 4  # samples that an unbiased alignment needs
Progress = Callable[[str, int, int], None]


def analyze(
    classifier: Classifier,
    samples: Any,
    labels: Labels,
    *,
    new: Any = None,
    new_labels: Labels | None = None,
    held_out: Any = None,
    checkpoints: Mapping[str, Any] | None = None,
    number: int = 8,
    neighbours: int = 10,
    folds: int = 5,
    seed: int = 0,
    controls: bool = True,
    dtype: torch.dtype | None = None,
    memory: str | int = "8GiB",
    progress: Progress | None = None,
    **options: Any,
) -> tuple[SimilarityResult, Kernel]:
    """Class structure of the trace kernel over labelled samples.

    Args:
        samples: n of them, as the network takes them.
        labels: numbers of logits ``[n]``.
        new, new_labels, held_out: as for :func:`genkernel.classifier.extrapolation.extrapolation`.
        checkpoints: weights of the same network by name, in the order of the training, in any form that
            :meth:`TangentModel.at` takes.
        number: of random probes; with no more logits than that, the trace is exact.
        neighbours: of each sample.
        folds: of the cross-validation.
        seed: of probes, folds, the permutation and the untrained network.
        controls: also those that the numbers have to be held against.
        dtype, memory, options: of :func:`genkernel.kernel`.
        progress: called with (stage, stages done, number of stages) before each stage.

    Returns:
        The numbers, and the kernel of the network with its layers.

    Raises:
        InputError: too few samples or classes, or labels beyond the logits.
        GenkernelError: as for :func:`genkernel.kernel`.
    """
    n, say = len(labels), progress or (lambda *_: None)
    classes, places = np.unique(labels, return_inverse=True)
    if n < FEWEST or len(classes) < 2:
        raise InputError(f"similarity compares classes: give at least {FEWEST} samples of at least two of them")
    if held_out is not None and new is None:
        raise InputError("held-out samples are what new ones are compared with: give these as well")
    stages = ["answers", "kernel", *(["untrained", "controls"] if controls else [])]
    stages += ["new samples"] if new is not None else []
    stages += ["checkpoints"] if checkpoints else []

    def begin(stage: str) -> None:
        say(stage, stages.index(stage), len(stages))

    begin("answers")
    logits = classifier.logits(samples)
    count = max(2, logits.shape[1])
    if int(labels.max()) >= count:
        raise InputError(f"the classifier tells {count} classes apart, and there are labels up to {int(labels.max())}")
    exact = logits.shape[1] <= number
    cotangents = exact_trace() if exact else probes(number, seed)
    own: dict[str, Any] = {"dtype": dtype, "memory": memory, "progress": False, **options}

    def run(model: TangentModel) -> Kernel:
        return kernel(model, samples, cotangents=cotangents, **{"by": "layer", **own})

    def structure(K: Any, y: Labels = places) -> Structure:
        return _structure(K, y, min(neighbours, n - 1), folds, seed)

    begin("kernel")
    found = run(classifier.tangent)
    points = _points(samples)
    near = None if points is None else knn_label_agreement(None, places, min(neighbours, n - 1), points=points)
    cosines, plane = found.normalized(), embed(found.normalized(), "pca", min(2, n - 1))
    names = classifier.class_names(count)
    result = SimilarityResult(
        names=[names[c] for c in classes],
        classes=classes,
        labels=places,
        answers=_answers(logits, labels, classes),
        structures={TRAINED: structure(found)},
        euclidean=math.nan if near is None or near.euclidean is None else near.euclidean.value,
        euclidean_stderr=math.nan if near is None or near.euclidean is None else near.euclidean.stderr,
        chance=_chance(places),
        k=min(neighbours, n - 1),
        cka_by_layer={name: cka(values, torch.from_numpy(places)) for name, values in found.layers.items()},
        share_by_layer=_shares(found),
        cosines=cosines.values.numpy(),
        stderr=None if cosines.stderr is None else float(cosines.stderr.mean()),
        plane=plane.points.numpy(),
        plane_shares=np.array([]) if plane.shares is None else plane.shares.numpy(),
        meta={"probes": None if exact else number, "samples": n, "seed": seed, "logits": int(logits.shape[1])},
    )
    if controls:
        begin("untrained")
        fresh, notes = reinitialised(classifier.module, seed)
        result.notes += [f"untrained: {note}" for note in notes]
        result.structures["untrained"] = structure(run(classifier.tangent.at(fresh)))
        begin("controls")
        if last := _last_layers(classifier, samples, found):
            result.structures["without last layer"] = structure(without_layers(found, *last))
        else:
            result.notes.append("the logits are no layer's own output: there is no kernel without the last layer")
        permuted = np.random.default_rng(seed).permutation(places)
        result.structures["permuted labels"] = structure(found, permuted)
        if points is not None:
            flat = points.double().flatten(1)
            result.structures["inputs"] = structure(flat @ flat.T)
    if new is not None:
        begin("new samples")
        seen = Seen(samples, places, classes, found, cotangents, own)
        result.extrapolation, notes = extrapolation(classifier, seen, new, new_labels, held_out)
        result.notes += notes
    for name, weights in (checkpoints or {}).items():
        begin("checkpoints")
        model = classifier.tangent.at(weights)
        K = kernel(model, samples, cotangents=cotangents, **{**own, "by": None})
        answers = _answers(classifier.logits(samples, model), labels, classes)
        result.course.append(Moment(name, answers.accuracy, answers.loss, structure(K), cka(K, found)))
    return result, found


def _structure(K: Any, labels: Labels, neighbours: int, folds: int, seed: int) -> Structure:
    y = torch.from_numpy(labels)
    blocks, near = class_blocks(K, y), knn_label_agreement(K, y, neighbours).kernel
    assert near is not None
    least = int(np.bincount(labels).min())
    separation = None
    if least * (folds - 1) // folds >= folds:
        said = tangent_linear_separability(K, y, folds=folds, seed=seed)
        separation = Separation(
            said.held_out, said.stderr, said.in_sample, said.in_sample_hard, said.chance, said.converged
        )
    return Structure(
        matrix=blocks.matrix.numpy(),
        within=blocks.within,
        between=blocks.between,
        within_stderr=blocks.within_stderr,
        between_stderr=blocks.between_stderr,
        contrast_stderr=blocks.contrast_stderr,
        cka=cka(K, y),
        kta=kernel_target_alignment(K, y),
        neighbours=near.value,
        neighbours_stderr=near.stderr,
        separation=separation,
    )


def _last_layers(classifier: Classifier, samples: Any, found: Kernel) -> list[str]:
    """Layers of the kernel whose answers the logits are; empty where that leaves nothing."""
    homes = {parameter.rpartition(".")[0] or parameter for parameter in classifier.head(samples)}
    last = [name for name in found.layers if name in homes]
    return last if len(last) < len(found.layers) else []


def _answers(logits: Tensor, labels: Labels, classes: Labels) -> Answers:
    y = torch.from_numpy(labels)
    losses, said = cross_entropies(logits, y).numpy(), predicted(logits).numpy()
    right = (said == labels).astype(float)
    return Answers(
        predictions=said,
        margins=margins(logits, y).numpy(),
        loss=float(losses.mean()),
        accuracy=float(right.mean()),
        accuracy_per_class=np.array([right[labels == c].mean() for c in classes]),
        loss_per_class=np.array([losses[labels == c].mean() for c in classes]),
    )


def _chance(labels: Labels) -> float:
    """That a neighbour drawn at random has the same label."""
    sizes, n = np.bincount(labels), len(labels)
    return float((sizes * (sizes - 1)).sum() / (n * (n - 1)))


def _shares(found: Kernel) -> dict[str, float]:
    traces = {name: float(values.diagonal().sum()) for name, values in found.layers.items()}
    total = sum(traces.values())
    return {name: trace / total if total else math.nan for name, trace in traces.items()}


def _points(samples: Any) -> Tensor | None:
    """Samples as points; None where they are more than one tensor of real numbers."""
    return samples.detach().cpu() if isinstance(samples, Tensor) and samples.is_floating_point() else None

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
from genkernel.classifier.logits import cross_entropies, margins, predicted, squashed
from genkernel.classifier.results import TRAINED, Answers, Moment, Separation, SimilarityResult, Structure
from genkernel.errors import InputError
from genkernel.spectra.alignment import cka, gram, kernel_target_alignment
from genkernel.spectra.class_blocks import class_blocks
from genkernel.spectra.embedding import Embedding, embed
from genkernel.spectra.neighbours import knn_label_agreement
from genkernel.spectra.separability import centred_kernel, tangent_linear_separability, without_layers
from genkernel.tangent import Kernel, TangentModel, exact_trace, kernel, probes
from genkernel.tangent.fresh import reinitialised

FEWEST = 4  # samples that an unbiased alignment needs
ALIKE = 1e-9  # differences of cosines, below which they are rounding
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
        neighbours: of each sample, at most; no more than the smallest class has others, so that all of them can be of
            the same class.
        folds: of the cross-validation, at most; fewer where a class is too small for so many.
        seed: of probes, folds, the permutation and the untrained network.
        controls: also those that the numbers have to be held against.
        dtype, memory, options: of :func:`genkernel.kernel`.
        progress: called with (stage, stages done, number of stages) before each stage.

    Returns:
        The numbers, and the kernel of the network with its layers.

    Raises:
        InputError: too few samples or classes, labels beyond the logits, no class with two samples, or a kernel that is
            zero or one constant.
        GenkernelError: as for :func:`genkernel.kernel`.
    """
    n, say = len(labels), progress or (lambda *_: None)
    classes, places = np.unique(labels, return_inverse=True)
    if n < FEWEST or len(classes) < 2:
        raise InputError(f"similarity compares classes: give at least {FEWEST} samples of at least two of them")
    least, k, fold = _sizes(places, neighbours, folds)
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
        return _structure(K, y, k, fold, seed)

    begin("kernel")
    found = run(classifier.tangent)
    _check_varied(found)
    points = _points(samples)
    near = None if points is None else knn_label_agreement(None, places, k, points=points)
    cosines, plane = found.normalized(), _plane(found)
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
        k=k,
        cka_by_layer={name: cka(values, torch.from_numpy(places)) for name, values in found.layers.items()},
        share_by_layer=_shares(found),
        cosines=cosines.values.numpy(),
        stderr=None if cosines.stderr is None else float(cosines.stderr.mean()),
        plane=np.zeros((n, 2)) if plane is None else plane.points.numpy(),
        plane_shares=np.zeros(2) if plane is None or plane.shares is None else plane.shares.numpy(),
        meta={
            "probes": None if exact else number, "samples": n, "seed": seed, "logits": int(logits.shape[1]),
            "folds": fold, "outputs": squashed(logits),
        },
    )  # fmt: skip
    if k < neighbours:
        result.notes.append(f"neighbours: {k} of each sample and not {neighbours}, as the smallest class has {least}")
    if fold is not None and fold < folds:
        result.notes.append(f"separability: {fold} folds and not {folds}, as the smallest class has {least} samples")
    if plane is None:
        result.notes.append("the tangent features of all samples point the same way: the plane shows nothing")
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
    result.notes += _separability_notes(result)
    return result, found


def _sizes(labels: Labels, neighbours: int, folds: int) -> tuple[int, int, int | None]:
    """Samples of the smallest class, and the neighbours and folds that it has room for; None where there is no room.

    Raises:
        InputError: no class has two samples.
    """
    sizes = np.bincount(labels)
    least = int(sizes.min())
    if sizes.max() < 2:
        raise InputError(
            f"the {len(labels)} samples are of {len(sizes)} classes: what samples of one class have in common takes at "
            "least two samples of a class; give more samples (samples=, --samples), or fewer classes"
        )
    # folds within folds: what the outer ones leave of the smallest class has to be enough for the inner ones
    room = (fold for fold in range(folds, 1, -1) if least * (fold - 1) // fold >= fold)
    return least, max(1, min(neighbours, least - 1)), next(room, None)


def _check_varied(found: Kernel) -> None:
    """Before anything is said of classes.

    Raises:
        InputError: the kernel is zero, or one constant.
    """
    reasons = (
        "weights that are all zero, ReLUs that no sample switches on, outputs that are detached or computed under "
        "torch.no_grad(), and params= that leave out what matters do that"
    )
    if not bool(found.values.any()):
        raise InputError(
            f"the tangent kernel is zero: no small step of the weights moves the logits of these samples; {reasons}"
        )
    if _flat(found):
        raise InputError(
            "the tangent kernel is one constant: a small step of the weights moves the logits of all samples alike; "
            f"samples that are all the same, {reasons}"
        )


def _flat(K: Any) -> bool:
    """Whether a kernel is zero, or one constant: nothing can be separated by it."""
    try:
        centred_kernel(gram(K).numpy())
    except InputError:
        return True
    return False


def _plane(found: Kernel) -> Embedding | None:
    """Two principal components of cosines; None where all samples point the same way."""
    cosines = found.normalized()
    if float((cosines.values - cosines.values.mean()).abs().max()) < ALIKE:
        return None
    return embed(cosines, "pca", 2)


def _separability_notes(result: SimilarityResult) -> list[str]:
    if result.meta["folds"] is None:
        return []  # said by the reading
    every = {**result.structures, **{f"checkpoint {one.name}": one.structure for one in result.course}}
    flat = [name for name, one in every.items() if one.separation is None]
    notes = [f"{name}: the kernel is zero, or one constant: nothing can be separated by it" for name in flat]
    own = result.trained.separation
    if own is not None and own.at_edge:
        notes.append(
            f"separability: {own.at_edge} of {result.meta['folds']} folds chose a penalty at an end of those that were "
            "tried: others may do better"
        )
    return notes


def _structure(K: Any, labels: Labels, neighbours: int, folds: int | None, seed: int) -> Structure:
    y = torch.from_numpy(labels)
    blocks, near = class_blocks(K, y), knn_label_agreement(K, y, neighbours).kernel
    assert near is not None
    blank = not bool(gram(K).any())
    return Structure(
        matrix=blocks.matrix.numpy(),
        within=blocks.within,
        between=blocks.between,
        within_stderr=blocks.within_stderr,
        between_stderr=blocks.between_stderr,
        contrast_stderr=blocks.contrast_stderr,
        cka=cka(K, y),
        kta=math.nan if blank else kernel_target_alignment(K, y),
        neighbours=near.value,
        neighbours_stderr=near.stderr,
        separation=None if folds is None else _separation(K, y, folds, seed),
    )


def _separation(K: Any, y: Tensor, folds: int, seed: int) -> Separation | None:
    """Of a linear SVM; None for a kernel that is zero or one constant."""
    if _flat(K):
        return None
    said = tangent_linear_separability(K, y, folds=folds, seed=seed)
    return Separation(
        said.held_out, said.stderr, said.in_sample, said.in_sample_hard, said.chance, said.converged, said.at_edge
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

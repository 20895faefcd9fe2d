"""Samples that a classifier was not trained on: where they lie for its kernel, and whether that tells how it answers.

What a path kernel adds to a prediction comes from training samples that are similar in tangent space (THEORY §2), so
the similarity of a new sample to the training samples of a class should say whether it is answered with it, and
rightly. So does the confidence, which costs nothing: what counts is what the kernel says beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.classifier.classifier import Classifier
from genkernel.classifier.labels import Labels
from genkernel.classifier.logits import predicted
from genkernel.errors import InputError
from genkernel.spectra.gram_ranks import gram_rank_gap
from genkernel.spectra.novelty import Auroc, auroc, novelty
from genkernel.tangent import Cotangents, Kernel, batches, kernel, total

FEWEST = 8  # right and wrong answers each, below which a rank correlation says nothing


@dataclass
class Reach:
    """m samples seen from n training samples.

    Attributes:
        similarity: mean cosine of each sample to the training samples of each class ``[m, C]``.
        predictions: what the classifier answers ``[m]``.
        nearest: the class with the largest similarity ``[m]``.
        distance: projection distance, the share of a tangent feature outside of the training span ``[m]``.
        followed: share of the samples that are answered with their nearest class.
        confidence: largest probability of each answer ``[m]``.
    """

    similarity: np.ndarray
    predictions: Labels
    nearest: Labels
    distance: np.ndarray
    followed: float
    confidence: np.ndarray


@dataclass
class Extrapolation:
    """New samples beside samples of the training distribution that were held out.

    Attributes:
        new, held_out: each seen from the training samples; ``held_out`` None where none were given.
        newness: how well the projection distance tells new from held-out samples; None without these.
        rank_gap: directions that the new samples add to the tangent space, per sample.
        held_out_rank_gap: the same of held-out samples.
        labels: of the new samples ``[m]``; None where they belong to no class.
        matrix: mean similarity of new samples of each class to training samples of each ``[C, C]``.
        accuracy: of the new samples, with ``accuracy_per_class`` ``[C]``.
        by_similarity: how well the similarity to the class that is answered tells right from wrong answers; neither
            this nor the confidence knows the label.
        by_confidence: the same of the confidence, which costs nothing.
        per_class: Spearman correlation over classes of mean similarity to the own class and accuracy.
        notes: what to know, in sentences.
    """

    new: Reach
    held_out: Reach | None = None
    newness: Auroc | None = None
    rank_gap: float = math.nan
    held_out_rank_gap: float = math.nan
    labels: Labels | None = None
    matrix: np.ndarray | None = None
    accuracy: float = math.nan
    accuracy_per_class: np.ndarray | None = None
    by_similarity: Auroc | None = None
    by_confidence: Auroc | None = None
    per_class: float = math.nan
    notes: list[str] = field(default_factory=list)


def extrapolation(
    classifier: Classifier,
    trained: Kernel,
    samples: Any,
    labels: Labels,
    new: Any,
    new_labels: Labels | None = None,
    held_out: Any = None,
    *,
    cotangents: Cotangents,
    dtype: torch.dtype | None = None,
    memory: str | int = "8GiB",
    **options: Any,
) -> Extrapolation:
    """Where new samples lie for the kernel of a classifier.

    Args:
        trained: the kernel between the training samples.
        samples, labels: these n samples, as the network takes them, and their classes ``[n]``.
        new, new_labels: m others, and their classes where they have any.
        held_out: samples of the same kind as those of the training that it has not seen.
        cotangents: of ``trained``.
        dtype, memory, options: of :func:`genkernel.kernel`.

    Raises:
        InputError: samples of another form, or labels of classes that there are no training samples of.
    """
    classes = int(labels.max()) + 1
    if new_labels is not None and not set(np.unique(new_labels)) <= set(np.unique(labels)):
        missing = sorted(set(np.unique(new_labels).tolist()) - set(np.unique(labels).tolist()))
        raise InputError(
            f"new samples are of classes {missing}, of which there are no training samples: leave their labels out "
            "where they belong to no class"
        )
    own: dict[str, Any] = {"dtype": dtype, "memory": memory, **options}

    def reach(others: Any) -> Reach:
        cross = kernel(classifier.tangent, others, samples, cotangents=cotangents, by=None, **own)
        return _reach(trained, cross, labels, classes, classifier.logits(others))

    notes: list[str] = []

    def gap(others: Any, which: str) -> float:
        together = batches.concatenate(samples, others)
        gram = kernel(classifier.tangent, together, cotangents=total(), by=None, **own).values
        found = gram_rank_gap(gram, len(labels), dtype or classifier.dtype)
        if not found.stable:
            steps = ", ".join(f"{gap} at {factor:g} times it" for factor, gap in found.by_factor.items())
            notes.append(f"the rank gap of {which} samples hangs on the tolerance: {steps}")
        return found.gap / batches.size(others)

    found = Extrapolation(new=reach(new), rank_gap=gap(new, "new"), labels=new_labels, notes=notes)
    if held_out is not None:
        found.held_out, found.held_out_rank_gap = reach(held_out), gap(held_out, "held-out")
        found.newness = auroc(found.held_out.distance, found.new.distance)
    if new_labels is not None:
        _judge(found, new_labels, classes)
    return found


def _reach(trained: Kernel, cross: Kernel, labels: Labels, classes: int, logits: Tensor) -> Reach:
    cosines = cross.normalized().values.numpy()
    similarity = np.full((len(cosines), classes), math.nan)
    for c in np.unique(labels):
        similarity[:, c] = cosines[:, labels == c].mean(1)
    nearest, said = np.nanargmax(similarity, axis=1), predicted(logits).numpy()
    single = logits.shape[1] == 1
    probabilities = torch.cat([-logits, logits], 1).mul(0.5).softmax(1) if single else logits.softmax(1)
    return Reach(
        similarity=similarity,
        predictions=said,
        nearest=nearest,
        distance=novelty(trained, cross).projection_distance.numpy(),
        followed=float((nearest == said).mean()),
        confidence=probabilities.amax(1).numpy(),
    )


def _judge(found: Extrapolation, labels: Labels, classes: int) -> None:
    """Right and wrong answers beside similarity and confidence."""
    right = found.new.predictions == labels
    told = found.new.similarity[np.arange(len(labels)), found.new.predictions]
    sure = found.new.confidence
    present = np.unique(labels)
    found.accuracy = float(right.mean())
    found.accuracy_per_class = np.full(classes, math.nan)
    found.matrix = np.full((classes, classes), math.nan)
    for c in present:
        found.accuracy_per_class[c] = right[labels == c].mean()
        found.matrix[c] = found.new.similarity[labels == c].mean(0)
    if min(right.sum(), (~right).sum()) >= FEWEST:
        found.by_similarity = auroc(told[~right], told[right])
        found.by_confidence = auroc(sure[~right], sure[right])
    else:
        found.notes.append(
            f"{int((~right).sum())} of {len(right)} new samples are answered wrongly: what tells right from wrong "
            f"answers is not to be seen in fewer than {FEWEST} of either"
        )
    similar = found.matrix.diagonal()[present]
    accurate = found.accuracy_per_class[present]
    if len(present) >= 4 and np.ptp(similar) > 0 and np.ptp(accurate) > 0:
        from scipy.stats import spearmanr

        found.per_class = float(spearmanr(similar, accurate).statistic)

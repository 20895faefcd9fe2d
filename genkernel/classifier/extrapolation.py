"""Samples that a classifier was not trained on: where they lie for its kernel, and whether that tells how it answers.

What a path kernel adds to a prediction comes from training samples that are similar in tangent space (THEORY §2), so
the similarity of a new sample to the training samples of a class should say whether it is answered with it, and
rightly. So does the confidence, which costs nothing: what counts is what the kernel says beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.classifier.classifier import Classifier
from genkernel.classifier.labels import Labels
from genkernel.classifier.logits import predicted
from genkernel.classifier.results import Extrapolation, Reach
from genkernel.errors import InputError
from genkernel.spectra.gram_ranks import gram_rank_gap
from genkernel.spectra.novelty import auroc, novelty
from genkernel.tangent import Cotangents, Kernel, batches, kernel, total

FEWEST = 8  # right and wrong answers each, below which nothing is said of what tells them apart
CLASSES = 4  # below which a rank correlation over classes says nothing


@dataclass
class Seen:
    """What the classifier was trained on, as far as it is compared with.

    Attributes:
        samples: n of them, as the network takes them.
        labels: ``[n]``, places among the classes.
        classes: their numbers among the logits ``[C]``.
        kernel: between these samples.
        cotangents: of the kernel.
        options: of :func:`genkernel.kernel`, such as ``dtype`` and ``memory``.
    """

    samples: Any
    labels: Labels
    classes: Labels
    kernel: Kernel
    cotangents: Cotangents
    options: dict[str, Any] = field(default_factory=dict)


def extrapolation(
    classifier: Classifier, seen: Seen, new: Any, new_labels: Labels | None = None, held_out: Any = None
) -> tuple[Extrapolation, list[str]]:
    """Where new samples lie for the kernel of a classifier.

    Args:
        seen: training samples and their kernel.
        new, new_labels: m others, and their classes (numbers among the logits) where they have any.
        held_out: samples of the same kind as those of the training that it has not seen.

    Returns:
        The numbers, and what to know about them, in sentences.

    Raises:
        InputError: samples of another form, or labels of classes that there are no training samples of.
    """
    known = set(seen.classes.tolist())
    if new_labels is not None and (missing := sorted(set(np.unique(new_labels).tolist()) - known)):
        raise InputError(
            f"new samples are of classes {missing[:5]}, of which there are no training samples: leave their labels out "
            "where they belong to no class"
        )
    notes: list[str] = []
    found = Extrapolation(new=_reach(classifier, seen, new, "new", notes))
    if held_out is not None:
        found.held_out = _reach(classifier, seen, held_out, "held-out", notes)
        found.newness = auroc(found.held_out.distance, found.new.distance)
    if new_labels is not None:
        found.labels = np.searchsorted(seen.classes, new_labels)
        notes += _judge(found, found.labels, len(seen.classes))
    return found, notes


def _reach(classifier: Classifier, seen: Seen, others: Any, which: str, notes: list[str]) -> Reach:
    options = {**seen.options, "by": None}
    cross = kernel(classifier.tangent, others, seen.samples, cotangents=seen.cotangents, **options)
    together = batches.concatenate(seen.samples, others)
    gram = kernel(classifier.tangent, together, cotangents=total(), **options).values
    gap = gram_rank_gap(gram, len(seen.labels), options.get("dtype") or classifier.dtype)
    m = batches.size(others)
    vacuous = gap.vacuous or gap.gap >= m
    if vacuous:
        notes.append(
            f"every one of the {m} {which} samples adds a direction of its own, as samples of any kind do where there "
            "are more parameters than samples: the rank gap says nothing here"
        )
    elif not gap.stable:
        steps = ", ".join(f"{count} at {factor:g} times it" for factor, count in gap.by_factor.items())
        notes.append(f"the rank gap of the {which} samples hangs on the tolerance: {steps}")
    cosines = cross.normalized().values.numpy()
    similarity = np.stack([cosines[:, seen.labels == c].mean(1) for c in range(len(seen.classes))], 1)
    logits = classifier.logits(others)
    said = _places(predicted(logits).numpy(), seen.classes)
    return Reach(
        similarity=similarity,
        predictions=said,
        nearest=similarity.argmax(1),
        distance=novelty(seen.kernel, cross).projection_distance.numpy(),
        confidence=_confidence(logits),
        followed=float((similarity.argmax(1) == said).mean()),
        rank_gap=gap.gap / m,
        rank_gap_says=not vacuous and gap.stable,
    )


def _places(numbers: Labels, classes: Labels) -> Labels:
    """Places of class numbers among the classes; −1 for others."""
    at = np.searchsorted(classes, numbers).clip(max=len(classes) - 1)
    return np.where(classes[at] == numbers, at, -1)


def _confidence(logits: Tensor) -> np.ndarray:
    single = logits.shape[1] == 1
    both = torch.cat([torch.zeros_like(logits), logits], 1) if single else logits
    return both.softmax(1).amax(1).numpy()


def _judge(found: Extrapolation, labels: Labels, classes: int) -> list[str]:
    """Right and wrong answers beside similarity and confidence; what to know, in sentences."""
    right = found.new.predictions == labels
    answered = found.new.predictions >= 0
    told = found.new.similarity[np.arange(len(labels)), found.new.predictions]
    present = np.unique(labels)
    found.accuracy = float(right.mean())
    found.accuracy_per_class = np.full(classes, np.nan)
    found.matrix = np.full((classes, classes), np.nan)
    for c in present:
        found.accuracy_per_class[c] = right[labels == c].mean()
        found.matrix[c] = found.new.similarity[labels == c].mean(0)
    similar, accurate = found.matrix.diagonal()[present], found.accuracy_per_class[present]
    if len(present) >= CLASSES and np.ptp(similar) > 0 and np.ptp(accurate) > 0:
        from scipy.stats import spearmanr

        found.per_class = float(spearmanr(similar, accurate).statistic)
    wrong = ~right & answered
    if min(right.sum(), wrong.sum()) < FEWEST:
        return [
            f"{int((~right).sum())} of {len(right)} new samples are answered wrongly: what tells right from wrong "
            f"answers is not to be seen in fewer than {FEWEST} of either"
        ]
    found.by_similarity = auroc(told[wrong], told[right])
    found.by_confidence = auroc(found.new.confidence[wrong], found.new.confidence[right])
    return []

"""What is said of a classifier's kernel: numbers only, with the names of ``summary.json``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.runs import json_ready
from genkernel.spectra.novelty import Auroc

SCHEMA_VERSION = 1

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

TRAINED = "trained"  # the network as it is, beside its controls


@dataclass
class Answers:
    """What the classifier says.

    Attributes:
        predictions: ``[n]``, numbers of logits.
        margins: of the logit of the label over the largest other one ``[n]``.
        loss, accuracy: means.
        accuracy_per_class, loss_per_class: ``[C]``.
    """

    predictions: Whole
    margins: Array
    loss: float
    accuracy: float
    accuracy_per_class: Array
    loss_per_class: Array


@dataclass
class Separation:
    """Accuracies of a linear SVM on tangent features (:class:`genkernel.spectra.separability.Separability`)."""

    held_out: float
    stderr: float
    in_sample: float
    in_sample_hard: float
    chance: float
    converged: bool
    at_edge: int = 0


@dataclass
class Structure:
    """How one kernel is organised by the labels.

    Attributes:
        matrix: mean cosine within and between classes ``[C, C]``; NaN on the diagonal for a class of one sample.
        within, between: over all pairs of one class, and of two.
        within_stderr, between_stderr, contrast_stderr: jackknife over samples, the last one of within − between.
        cka: unbiased alignment with the labels; 0 for a kernel that does not know them; NaN where it has no spread.
        kta: kernel-target alignment, which is not centred: common directions count.
        neighbours, neighbours_stderr: share of the k nearest with the same label.
        separation: of a linear SVM; None where classes are too small for folds, or the kernel is zero or one constant.
    """

    matrix: Array
    within: float
    between: float
    within_stderr: float
    between_stderr: float
    contrast_stderr: float
    cka: float
    kta: float
    neighbours: float
    neighbours_stderr: float
    separation: Separation | None = None

    @property
    def contrast(self) -> float:
        """Within − between: 0 for a kernel that does not know the classes."""
        return self.within - self.between


@dataclass
class Reach:
    """m samples seen from the n training samples.

    Attributes:
        similarity: mean cosine of each sample to the training samples of each class ``[m, C]``.
        predictions: what the classifier answers ``[m]``, places among the C classes; −1 for one that has no samples.
        nearest: the class with the largest similarity ``[m]``.
        distance: projection distance, the share of a tangent feature outside of the training span ``[m]``.
        confidence: largest probability of each answer ``[m]``.
        followed: share of the samples that are answered with their nearest class.
        rank_gap: directions that they add to the tangent space, per sample.
        rank_gap_says: False where every sample adds a direction of its own, or none; the gap hangs on the tolerance.
    """

    similarity: Array
    predictions: Whole
    nearest: Whole
    distance: Array
    confidence: Array
    followed: float
    rank_gap: float = math.nan
    rank_gap_says: bool = False


@dataclass
class Extrapolation:
    """New samples, beside samples of the training distribution that were held out.

    Attributes:
        new, held_out: each seen from the training samples; ``held_out`` None where none were given.
        newness: how well the projection distance tells new from held-out samples; None without these.
        labels: of the new samples ``[m]``, places among the C classes; None where they belong to none.
        matrix: mean similarity of new samples of each class to training samples of each ``[C, C]``; NaN in rows of
            classes that no new sample is of.
        accuracy: of the new samples, with ``accuracy_per_class`` ``[C]``.
        by_similarity: how well the similarity to the class that is answered tells right from wrong answers; neither
            this nor the confidence knows the label.
        by_confidence: the same of the confidence, which costs nothing.
        per_class: Spearman correlation, over classes, of the mean similarity to the own class and the accuracy.
    """

    new: Reach
    held_out: Reach | None = None
    newness: Auroc | None = None
    labels: Whole | None = None
    matrix: Array | None = None
    accuracy: float = math.nan
    accuracy_per_class: Array | None = None
    by_similarity: Auroc | None = None
    by_confidence: Auroc | None = None
    per_class: float = math.nan


@dataclass
class Moment:
    """An earlier checkpoint of the same network, at the same samples.

    Attributes:
        name: of the checkpoint.
        accuracy, loss: there.
        structure: of its kernel.
        alike: CKA of its kernel with that of the network as it is.
    """

    name: str
    accuracy: float
    loss: float
    structure: Structure
    alike: float


@dataclass
class SimilarityResult:
    """What the kernel of a trained classifier makes of its classes.

    Attributes:
        names: of the C classes that there are samples of.
        classes: their numbers among the logits ``[C]``.
        labels: of the samples ``[n]``, places among these.
        answers: at these samples.
        structures: by kernel: ``"trained"``, and the controls ``"untrained"``, ``"without last layer"``,
            ``"permuted labels"``, ``"inputs"``.
        euclidean, euclidean_stderr: share of the k nearest inputs with the same label; NaN where inputs are no points.
        chance: of neighbours drawn at random.
        k: neighbours of each sample.
        cka_by_layer: alignment of each layer's kernel with the labels, in the network's order.
        share_by_layer: of the trace.
        cosines: the normalised kernel of the trained network ``[n, n]``.
        stderr: of its entries over probes, mean; None when exact.
        plane: the samples in two kernel principal components ``[n, 2]``, with the ``plane_shares`` of the variance.
        extrapolation: where new samples were given.
        course: earlier checkpoints, in the order in which they were given.
        meta: model, data, seeds, dtype, probes, number of samples; ``reading``: what the numbers say, in sentences.
        notes: what to know about them, in sentences.
    """

    names: list[str]
    classes: Whole
    labels: Whole
    answers: Answers
    structures: dict[str, Structure]
    euclidean: float
    euclidean_stderr: float
    chance: float
    k: int
    cka_by_layer: dict[str, float]
    share_by_layer: dict[str, float]
    cosines: Array
    stderr: float | None
    plane: Array
    plane_shares: Array
    extrapolation: Extrapolation | None = None
    course: list[Moment] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def trained(self) -> Structure:
        return self.structures[TRAINED]

    @property
    def sizes(self) -> Whole:
        """Samples per class ``[C]``."""
        return np.bincount(self.labels, minlength=len(self.names))

    def to_summary(self) -> dict[str, Any]:
        """Everything machine-readable but matrices over samples, JSON-ready."""
        own = self.trained
        found = own.separation
        said = self.extrapolation
        summary = {
            "schema_version": SCHEMA_VERSION,
            "kind": "classifier",
            "reading": self.meta.get("reading", []),
            "classes": {"names": self.names, "numbers": self.classes, "samples": self.sizes},
            "accuracy": self.answers.accuracy,
            "loss": self.answers.loss,
            "accuracy_per_class": self.answers.accuracy_per_class,
            "similarity": {
                "within": own.within,
                "between": own.between,
                "contrast": own.contrast,
                "within_stderr": own.within_stderr,
                "between_stderr": own.between_stderr,
                "contrast_stderr": own.contrast_stderr,
                "matrix": own.matrix,
            },
            "alignment": {"cka": own.cka, "kta": own.kta, "cka_by_layer": self.cka_by_layer},
            "layers": {"share": self.share_by_layer},
            "neighbours": {
                "k": self.k,
                "kernel_agreement": own.neighbours,
                "kernel_agreement_stderr": own.neighbours_stderr,
                "euclidean_agreement": self.euclidean,
                "euclidean_agreement_stderr": self.euclidean_stderr,
                "chance": self.chance,
            },
            "separability": None
            if found is None
            else {"train_accuracy": found.in_sample, **{k: v for k, v in vars(found).items() if k != "in_sample"}},
            "controls": {name: _short(one) for name, one in self.structures.items() if name != TRAINED},
            "course": [_moment(one) for one in self.course],
            "extrapolation": None if said is None else _said(said),
            "rank_gap": None if said is None else said.new.rank_gap,
            "notes": self.notes,
        }
        return dict(json_ready(summary))


def _short(one: Structure) -> dict[str, Any]:
    return {
        "contrast": one.contrast,
        "contrast_stderr": one.contrast_stderr,
        "cka": one.cka,
        "kernel_agreement": one.neighbours,
        "held_out": None if one.separation is None else one.separation.held_out,
        "train_accuracy": None if one.separation is None else one.separation.in_sample,
    }


def _moment(one: Moment) -> dict[str, Any]:
    return {
        "name": one.name, "accuracy": one.accuracy, "loss": one.loss, "alike": one.alike, **_short(one.structure),
    }  # fmt: skip


def _said(found: Extrapolation) -> dict[str, Any]:
    held = found.held_out
    return {
        "samples": len(found.new.distance),
        "distance": found.new.distance.mean(),
        "distance_held_out": None if held is None else held.distance.mean(),
        "newness": found.newness,
        "rank_gap": found.new.rank_gap,
        "rank_gap_held_out": None if held is None else held.rank_gap,
        "followed": found.new.followed,
        "followed_held_out": None if held is None else held.followed,
        "accuracy": found.accuracy,
        "accuracy_per_class": found.accuracy_per_class,
        "similarity": found.matrix,
        "by_similarity": found.by_similarity,
        "by_confidence": found.by_confidence,
        "per_class": found.per_class,
    }

"""What is measured of one network: similarities, answers, and rank correlations of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.classifier import Classifier
from genkernel.classifier.extrapolation import Seen, extrapolation
from genkernel.classifier.logits import margins, predicted
from genkernel.classifier.results import Reach
from genkernel.experiments.extrapolation.task import CAPITALS, Images
from genkernel.experiments.rank_correlation import rank_correlation
from genkernel.models.paper_classifiers import CLASSES

Array = NDArray[np.float64]

OWN, ANSWERED, UNTRAINED, PIXELS = (
    "to the own class",
    "to the class answered",
    "to the own class, untrained",
    "to the own class, pixels",
)
SIMILARITIES = (OWN, ANSWERED, UNTRAINED, PIXELS)
MARGIN, CONFIDENCE, LABELLED = "margin", "confidence", "margin of the label"
GIVEN = (MARGIN, CONFIDENCE, LABELLED)
HELD, PRINTED, LETTERS = "held-out digits", "printed digits", "letters"
SETS = (HELD, PRINTED, LETTERS)


def seen_by(network: nn.Module, images: Images) -> tuple[Classifier, Seen]:
    """The network and its kernel on the training images that others are compared with; exact trace, in the precision
    of the network."""
    import genkernel as gk

    classifier = Classifier(network)
    options: dict[str, Any] = {"by": None, "progress": False, "distributed": False}
    cotangents = gk.exact_trace()
    kernel = gk.kernel(classifier.tangent, images.seen, cotangents=cotangents, **options)
    return classifier, Seen(
        images.seen, images.seen_labels.numpy(), np.arange(CLASSES), kernel, cotangents, options
    )  # fmt: skip


def reaches(network: nn.Module, images: Images) -> dict[str, Reach]:
    """Held-out digits, printed digits and letters, seen from the training images."""
    classifier, seen = seen_by(network, images)
    printed, _ = extrapolation(classifier, seen, images.printed, images.printed_labels.numpy(), images.held)
    letters, _ = extrapolation(classifier, seen, images.letters)
    assert printed.held_out is not None
    return {HELD: printed.held_out, PRINTED: printed.new, LETTERS: letters.new}


def cosines(network: nn.Module, images: Images, count: int) -> dict[str, Array]:
    """Normalised kernel between training images and images of every set, ordered by class.

    Args:
        count: images of every class, where there are as many.

    Returns:
        Set ("training digits" first) → ``[m, n]``, with the training images on the second axis.
    """
    sets = {
        "training digits": (images.seen, images.seen_labels),
        PRINTED: (images.printed, images.printed_labels),
        LETTERS: (images.letters, images.letter_labels),
    }
    rows, ends = [], [0]
    for x, y in sets.values():
        classes = [x[y == c][:count] for c in y.unique()]
        rows.append(torch.cat(classes))
        ends.append(ends[-1] + len(rows[-1]))
    import genkernel as gk

    tangent = Classifier(network).tangent
    kernel = gk.kernel(
        tangent, torch.cat(rows), rows[0], cotangents=gk.exact_trace(), by=None, progress=False, distributed=False
    )
    values = kernel.normalized().values.numpy()
    return {name: values[a:b] for name, a, b in zip(sets, ends[:-1], ends[1:], strict=True)}


def pixel_similarity(images: Tensor, seen: Tensor, labels: Tensor) -> Array:
    """Mean cosine of images to the training images of each class, in pixels ``[m, C]``."""
    a, b = (torch.nn.functional.normalize(part.double().flatten(1), dim=1) for part in (images, seen))
    cosines = (a @ b.T).numpy()
    return np.stack([cosines[:, (labels == c).numpy()].mean(1) for c in range(CLASSES)], 1)


def answers(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Array]:
    """Of every image ``[m]``: is it right, by how much is its largest logit above the second, its confidence, and by
    how much is the logit of its label above the largest other one."""
    logits = Classifier(network).logits(images)
    top = logits.topk(2, dim=1).values
    return {
        "right": (predicted(logits) == labels).double().numpy(),
        MARGIN: (top[:, 0] - top[:, 1]).numpy(),
        CONFIDENCE: logits.softmax(1).amax(1).numpy(),
        LABELLED: margins(logits, labels).numpy(),
    }


def of_printed(
    found: dict[str, Reach], before: dict[str, Reach], said: dict[str, Array], images: Images
) -> dict[str, Any]:
    """Similarities of printed digits beside their answers, image by image and by class, and rank correlations.

    Returns:
        ``images``: measure → ``[m]``; ``classes``: measure → means of classes ``[C]``; ``over images`` and ``over
        classes``: similarity → "plain" or what is held fixed → Spearman's correlation with right answers.
    """
    y = images.printed_labels.numpy()
    rows = np.arange(len(y))
    reach = found[PRINTED]
    each = {
        OWN: reach.similarity[rows, y],
        ANSWERED: reach.similarity[rows, reach.predictions],
        UNTRAINED: before[PRINTED].similarity[rows, y],
        PIXELS: pixel_similarity(images.printed, images.seen, images.seen_labels)[rows, y],
        **said,
    }
    means = {name: np.array([values[y == c].mean() for c in range(CLASSES)]) for name, values in each.items()}
    result: dict[str, Any] = {"images": each, "classes": means}
    for place, values in (("over images", each), ("over classes", means)):
        result[place] = {
            name: {"plain": rank_correlation(values[name], values["right"])}
            | {given: rank_correlation(values[name], values["right"], values[given]) for given in GIVEN}
            | {"both": rank_correlation(values[name], values["right"], values[MARGIN], values[CONFIDENCE])}
            for name in SIMILARITIES
        }
    return result


def structure(similarity: Array, labels: Array, each: int) -> tuple[float, float]:
    """Do images of one class have a profile of similarities to the digits of their own?

    Profiles are means over images of a class, without the mean of the class and of the digit. Those of two halves of
    the images of each class are correlated.

    Args:
        similarity: ``[m, C]``.
        labels: classes ``[m]``, in turn.
        each: images of every class that are used, an even number.

    Returns:
        Mean correlation over classes, 0 where there is no structure, and the root mean square of the profiles of all
        these images.
    """
    halves = []
    rows = [np.flatnonzero(labels == c)[:each] for c in np.unique(labels)]
    for part in (slice(0, each // 2), slice(each // 2, each)):
        halves.append(_centred(np.stack([similarity[own[part]].mean(0) for own in rows])))
    whole = _centred(np.stack([similarity[own].mean(0) for own in rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = [np.corrcoef(a, b)[0, 1] for a, b in zip(*halves, strict=True)]
    return float(np.mean(found)), float(np.sqrt((whole**2).mean()))


def _centred(profiles: Array) -> Array:
    return profiles - profiles.mean(0) - profiles.mean(1, keepdims=True) + profiles.mean()


def of_sets(found: dict[str, Reach], images: Images, each: int) -> dict[str, dict[str, float]]:
    """Set → measures of its similarities to the digits of the training.

    ``nearest``: mean similarity to the class that it is largest for; ``mean``: to all classes; ``own``, ``foreign``:
    to the own class, and to the most similar other one; ``repeats``, ``amplitude``: of :func:`structure`.
    """
    labels = {HELD: images.held_labels, PRINTED: images.printed_labels, LETTERS: images.letter_labels}
    result = {}
    for name, reach in found.items():
        y, s = labels[name].numpy(), reach.similarity
        repeats, amplitude = structure(s, y, each)
        result[name] = {
            "nearest": float(s.max(1).mean()), "mean": float(s.mean()), "repeats": repeats, "amplitude": amplitude,
            "distance": float(reach.distance.mean()), "confidence": float(reach.confidence.mean()),
        }  # fmt: skip
        if name != LETTERS:
            own = np.arange(len(y)), y
            others = s.copy()
            others[own] = -np.inf
            result[name] |= {"own": float(s[own].mean()), "foreign": float(others.max(1).mean())}
    return result


def profiles(reach: Reach, labels: Tensor) -> Array:
    """Mean similarity of every class of images to every digit ``[classes, C]``."""
    y = labels.numpy()
    return np.stack([reach.similarity[y == c].mean(0) for c in np.unique(y)])


def along(network: nn.Module, images: Images) -> dict[str, dict[float, dict[str, float]]]:
    """Family → level → accuracy, and means of similarity, margin, confidence and projection distance."""
    classifier, seen = seen_by(network, images)
    result: dict[str, dict[float, dict[str, float]]] = {}
    for name, levels in images.families.items():
        x = torch.cat([part for part, _ in levels.values()])
        y = torch.cat([part for _, part in levels.values()])
        reach = extrapolation(classifier, seen, x)[0].new
        said = answers(network, x, y)
        each = {
            "accuracy": said["right"], "nearest": reach.similarity.max(1),
            "own": reach.similarity[np.arange(len(y)), y.numpy()],
            MARGIN: said[MARGIN], CONFIDENCE: reach.confidence, "distance": reach.distance,
            "pixels": pixel_similarity(x, images.seen, images.seen_labels).max(1),
        }  # fmt: skip
        ends = np.cumsum([0, *(len(part) for part, _ in levels.values())])
        result[name] = {
            level: {measure: float(values[a:b].mean()) for measure, values in each.items()}
            for level, a, b in zip(levels, ends[:-1], ends[1:], strict=True)
        }
    return result


def letter_names() -> list[str]:
    """In the order of the labels."""
    return list(CAPITALS)

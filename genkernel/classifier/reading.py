"""What the numbers of a classifier's kernel say, in sentences that go no further than their errors."""

from __future__ import annotations

import math

from genkernel.classifier.results import Extrapolation, SimilarityResult, Structure

SURE = 2.0  # standard errors
ROOM = 4  # samples of a class that two folds within two folds need


def read(result: SimilarityResult) -> list[str]:
    """One sentence for each question, with what it is held against."""
    squashed = result.meta.get("outputs")  # first, as it holds for all that follows
    found = [f"{squashed}."] if squashed else []
    found += [_blocks(result), _neighbours(result), *_separation(result)]
    if result.extrapolation is not None:
        found += _reach(result.extrapolation)
    return found


def _blocks(result: SimilarityResult) -> str:
    own = result.trained
    words = (
        f"Tangent features of two samples of one class have a mean cosine of {own.within:.2f}, of two classes of "
        f"{own.between:.2f}: a difference of {_with_error(own)}"
    )
    before = result.structures.get("untrained")
    if before is None or math.isnan(before.contrast):
        return words + ("." if math.isnan(own.cka) else f", and an alignment with the labels (CKA) of {own.cka:.2f}.")
    gain, error = own.contrast - before.contrast, math.hypot(own.contrast_stderr, before.contrast_stderr)
    verb = "more than" if gain > SURE * error else ("less than" if gain < -SURE * error else "not clearly other than")
    words += f", {verb} the {_with_error(before)} of the untrained network"
    if math.isnan(own.cka):
        return f"{words}."
    beside = "" if math.isnan(before.cka) else f", untrained {before.cka:.2f}"
    return f"{words}; alignment with the labels (CKA) {own.cka:.2f}{beside}."


def _with_error(one: Structure) -> str:
    """The difference of cosines; without an error where too few samples share a class for one."""
    error = "" if math.isnan(one.contrast_stderr) else f" ± {one.contrast_stderr:.2f}"
    return f"{one.contrast:.2f}{error}"


def _neighbours(result: SimilarityResult) -> str:
    own = result.trained
    of = f"the {result.k} nearest neighbours" if result.k > 1 else "the nearest neighbours"
    words = f"{own.neighbours:.0%} of {of} by the kernel share the label"
    if math.isnan(result.euclidean):
        return f"{words}; by chance {result.chance:.0%} do."
    return f"{words}, {result.euclidean:.0%} of the nearest inputs, and {result.chance:.0%} by chance."


def _separation(result: SimilarityResult) -> list[str]:
    own = result.trained.separation
    if own is None and result.meta.get("folds") is None:
        least = int(result.sizes.min())
        return [
            "Whether a linear classifier on tangent features tells the classes apart is not known: the smallest class "
            f"has {least} sample{'s' * (least > 1)}, and cross-validation takes {ROOM} of each."
        ]
    if own is None:
        return []  # said by a note
    others = [
        (words, one.separation.held_out)
        for name, words in (
            ("untrained", "of the untrained network"),
            ("inputs", "on the inputs themselves"),
            ("without last layer", "without the last layer, in whose span the logits lie by construction"),
        )
        if (one := result.structures.get(name)) is not None and one.separation is not None
    ]
    beside = "; ".join(f"{value:.0%} {words}" for words, value in others)
    sentence = (
        f"A linear classifier on tangent features is right about {own.held_out:.0%} of samples held out from it"
        + (f" ({beside})" if beside else "")
        + f"; the most frequent class has {own.chance:.0%}."
    )
    return [sentence]


def _reach(found: Extrapolation) -> list[str]:
    new, held = found.new, found.held_out
    said = []
    if held is not None and found.newness is not None:
        area = found.newness
        interval = "" if math.isnan(area.low) else f" (95 %: {area.low:.2f} to {area.high:.2f})"
        said.append(
            f"{new.distance.mean():.0%} of the length of new tangent features lies outside of the training span, "
            f"{held.distance.mean():.0%} of held-out ones: that tells them apart with an area under the ROC curve of "
            f"{area.value:.2f}{interval}."
        )
    answered = f"{new.followed:.0%} of new samples are answered with the class that they are most similar to"
    said.append(answered + ("." if held is None else f", {held.followed:.0%} of held-out ones."))
    if found.labels is not None:
        words = f"{found.accuracy:.0%} of the new samples are answered rightly"
        if not math.isnan(found.per_class):
            words += f"; over classes, accuracy and similarity have a rank correlation of {found.per_class:.2f}"
        if found.by_similarity is not None and found.by_confidence is not None:
            words += (
                f". Similarity to the answered class tells right answers from wrong ones with an area of "
                f"{found.by_similarity.value:.2f}, the confidence of the softmax with {found.by_confidence.value:.2f}"
            )
        said.append(words + ".")
    return said

"""What the areas under the curve, neighbourhoods and rank gaps say of the claims about novelty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments import alignment
from genkernel.experiments.out_of_distribution.areas import difference, interval, resampled_errors, resampled_means
from genkernel.experiments.out_of_distribution.scores import (
    COSINE,
    DISTANCE,
    LEVERAGE,
    MAHALANOBIS,
    PIXELS,
    SOFTMAX,
    TOLERANCES,
)
from genkernel.experiments.out_of_distribution.task import (
    ARCHITECTURES,
    FOREIGN,
    LEFT_OUT,
    OTHER,
    PRINTED,
    SEEN,
    UNSEEN,
    Setting,
)
from genkernel.experiments.outcome import Claim, verdict

Array = NDArray[np.float64]
Interval = tuple[float, float, float]

TESTED = (DISTANCE, COSINE)  # tangent scores that are held against baselines: the span's, and the papers' similarity
SEES = 0.5  # the AUROC of chance
MATTERS = 0.02  # a difference of AUROCs that is surely below it is none
COARSE = 1e-2  # the tolerance of rank gaps that are not a matter of counting


def claims(areas: dict[str, Any], found: list[dict[str, Any]], setting: Setting, seed: int) -> list[Claim]:
    """All of them, in the order of the docs."""

    def said(name: str, score: str) -> str:
        each = (areas[k][name][score] for k in ARCHITECTURES)
        return ", ".join(f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in each)

    def better(statement: str, score: str, other: str) -> Claim:
        by = {name: [difference(areas, k, name, score, other) for k in ARCHITECTURES] for name in FOREIGN}
        words = "; ".join(f"{name} {_said(each)}" for name, each in by.items())
        ends = (one[1:] for each in by.values() for one in each)
        return Claim(statement, f"difference of AUROCs, MLP and CNN: {words}", above(*ends))

    return [
        *(
            Claim(
                f"projection distances of {name} are larger than those of test digits (AUROC above .5)",
                f"MLP and CNN: {said(name, DISTANCE)}; {OTHER} {said(OTHER, DISTANCE)}",
                above(*((areas[k][name][DISTANCE]["low"] - SEES, areas[k][name][DISTANCE]["high"] - SEES)
                        for k in ARCHITECTURES)),
            )
            for name in FOREIGN
        ),
        *(
            better(f"{score} tells foreign images from test digits better than {other}", score, other)
            for score, other in product(TESTED, (SOFTMAX, MAHALANOBIS, PIXELS))
        ),
        better(
            "leverage is no score of novelty: projection distance sees more (THEORY §5)", DISTANCE, LEVERAGE
        ),
        *_gap_claims(found),
        *_accuracy_claims(found, setting, seed),
        *_neighbour_claims(found, setting, seed),
    ]  # fmt: skip


def above(*intervals: tuple[float, float]) -> str:
    """The verdict on differences being above zero: no where the whole interval is below :data:`MATTERS`, yes where it
    is above zero otherwise.
    """
    return verdict(False if high < MATTERS else True if low > 0 else None for low, high in intervals)


def _said(found: Iterable[Interval]) -> str:
    return ", ".join(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in found)


def _gap_claims(found: list[dict[str, Any]]) -> list[Claim]:
    """Whether foreign images raise the rank more than test digits do, at the tolerance of rounding and at a coarse one.

    Where parameters are more than samples the first can hardly be yes: every new gradient is a new direction.
    """
    result = []
    for column, tolerance in ((0, "of rounding"), (1 + TOLERANCES.index(COARSE), f"{COARSE:g}")):
        words, ends = [], []
        for name in FOREIGN:
            excess = []
            for kind in ARCHITECTURES:
                mine = [f["gaps"] for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
                excess.append(alignment.interval([gaps[name][column] - gaps[SEEN][column] for gaps in mine]))
            ends += [one[1:] for one in excess]
            words.append(f"{name} {_said(excess)}")
        result.append(
            Claim(
                "the rank gap tells foreign images from test digits (Guo, He & Morel, §5.4), at the tolerance "
                f"{tolerance}",
                "gap per image minus that of test digits, MLP and CNN, 95 % over networks on the same images: "
                + "; ".join(words),
                above(*ends),
            )
        )
    return result


def _accuracy_claims(found: list[dict[str, Any]], setting: Setting, seed: int) -> list[Claim]:
    """Whether printed digits near the training images in tangent space are the ones that are recognised."""
    of, over = [], []
    for kind in ARCHITECTURES:
        mine = [f for f in found if f["kind"] == kind and not f["without"] and 0 < f["right"][PRINTED].mean() < 1]
        if not mine:  # no errors, or nothing else
            of.append((math.nan,) * 3)
            over.append((math.nan,) * 3)
            continue
        scores = np.stack([[f["scores"][score][PRINTED] for score in (COSINE, SOFTMAX)] for f in mine])
        each, drawn = resampled_errors(scores, np.stack([f["right"][PRINTED] for f in mine]), setting.resamples, seed)
        of.append(interval(each[:, 0] - SEES, drawn[:, 0]))
        over.append(interval(each[:, 0] - each[:, 1], drawn[:, 0] - drawn[:, 1]))
    return [
        Claim(
            "printed digits of higher tangent similarity to training images are recognised more often (Guo, He & Morel,"
            " §5.3): the AUROC of 1 - max cosine for errors is above .5",
            f"AUROC minus .5, MLP and CNN: {_said(of)}",
            above(*(one[1:] for one in of)),
        ),
        Claim(
            "and it says more of errors than max softmax does",
            f"difference of AUROCs, MLP and CNN: {_said(over)}",
            above(*(one[1:] for one in over)),
        ),
    ]


def _neighbour_claims(found: list[dict[str, Any]], setting: Setting, seed: int) -> list[Claim]:
    """What training does to the neighbourhoods of classes that it has seen, and of those that it has not."""
    learned, unseen, behind = [], [], []
    for kind in ARCHITECTURES:
        mine = [f["clusters"] for f in found if f["kind"] == kind and f["without"]]
        gain = np.stack([one["trained"] - one["untrained"] for one in mine])
        new = np.isin(mine[0]["labels"], LEFT_OUT)
        parts = gain[:, ~new], gain[:, new]
        draws = resampled_means(parts, setting.resamples, seed)
        old, other = (part.mean(1) for part in parts)
        learned.append(interval(old, draws[:, 0]))
        unseen.append(interval(other, draws[:, 1]))
        behind.append(interval(old - other, draws[:, 0] - draws[:, 1]))
    return [
        Claim(
            "training sharpens the classes that it sees in tangent space: more of the nearest share the label (Guo, He "
            "& Morel, §5.3, figure 4)",
            f"trained minus untrained, MLP and CNN: {_said(learned)}",
            above(*(one[1:] for one in learned)),
        ),
        Claim(
            f"and less so those that it does not see: {UNSEEN} gain less",
            f"gain of {UNSEEN}, MLP and CNN: {_said(unseen)}; others gain more by {_said(behind)}",
            above(*(one[1:] for one in behind)),
        ),
    ]

"""What the areas under the curve, neighbourhoods and rank gaps say of the claims about novelty."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TESTED = (DISTANCE, COSINE)  # tangent scores that are held against baselines: the span's, and the papers' similarity
SEES = 0.5  # the AUROC of chance
MATTERS = 0.02  # a difference of AUROCs that is surely below it is none


def _claims(areas: dict[str, Any], found: list[dict[str, Any]], setting: Setting, seed: int) -> list[Claim]:
    def area(name: str, score: str) -> list[tuple[float, float]]:
        return [(areas[k][name][score]["low"] - SEES, areas[k][name][score]["high"] - SEES) for k in ARCHITECTURES]

    def said(name: str, score: str) -> str:
        return ", ".join(f"{areas[k][name][score]['mean']:.3f} ({k})" for k in ARCHITECTURES)

    def differences(name: str, one: str, other: str) -> list[tuple[float, float]]:
        drawn = [areas[k][name][one]["drawn"] - areas[k][name][other]["drawn"] for k in ARCHITECTURES]
        return [(float(low), float(high)) for low, high in (np.percentile(d, [2.5, 97.5]) for d in drawn)]

    def beats(score: str, other: str) -> tuple[str, list[tuple[float, float]]]:
        words, ends = [], []
        for name in FOREIGN:
            found = differences(name, score, other)
            ends += found
            words.append(f"{name} " + ", ".join(f"[{low:+.3f}, {high:+.3f}]" for low, high in found))
        return "; ".join(words), ends

    claims = [
        Claim(
            f"projection distances of {name} are larger than those of test digits (AUROC above .5)",
            said(name, DISTANCE) + f"; {OTHER} {said(OTHER, DISTANCE)}",
            above(*area(name, DISTANCE)),
        )
        for name in FOREIGN
    ]
    for score, other in product(TESTED, (SOFTMAX, MAHALANOBIS, PIXELS)):
        words, ends = beats(score, other)
        claims.append(
            Claim(
                f"{score} tells them better than {other}, on the same networks and images",
                f"difference of AUROCs, MLP and CNN: {words}",
                above(*ends),
            )
        )
    blind = [end for name in FOREIGN for end in differences(name, DISTANCE, LEVERAGE)]
    claims += [
        Claim(
            "leverage is no score of novelty: it sees less than the projection distance (THEORY §5)",
            "leverage " + "; ".join(f"{name} {said(name, LEVERAGE)}" for name in FOREIGN),
            above(*blind),
        ),
        _gap_claim(found),
        _accuracy_claim(found),
        *_cluster_claims(found),
    ]
    return claims


def above(*intervals: tuple[float, float]) -> str:
    """Whether differences are above zero: yes where the whole interval is, no where it is below :data:`MATTERS`.

    Some of both are "partly", also where others are open; "undecided" where nothing is sure but what is open.
    """
    parts = [True if low > 0 else False if high < MATTERS else None for low, high in intervals]
    sure = [part for part in parts if part is not None]
    return "partly" if len(set(sure)) == 2 else verdict(parts)


def _cluster_claims(found: list[dict[str, Any]]) -> list[Claim]:
    """What training does to the neighbourhoods of classes that it has seen, and of those that it has not."""
    by = {
        kind: {s: np.array([f["clusters"][s] for f in found if f["kind"] == kind and f["without"]]) for s in STATES}
        for kind in ARCHITECTURES
    }
    gain = {kind: each["trained"] - each["untrained"] for kind, each in by.items()}
    behind = {kind: gain[kind][:, 0] - gain[kind][:, 1] for kind in by}

    def said(values: dict[str, Array]) -> str:
        parts = ((kind, *interval(each)) for kind, each in values.items())
        return ", ".join(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] ({kind})" for kind, mean, low, high in parts)

    return [
        Claim(
            "training sharpens the classes that it sees in tangent space: more of the nearest share the label (Guo, He "
            "& Morel, §5.3, figure 4)",
            "trained minus untrained " + said({kind: each[:, 0] for kind, each in gain.items()}),
            above(*(interval(each[:, 0])[1:] for each in gain.values())),
        ),
        Claim(
            f"and less so those that it does not see: {UNSEEN} gain less",
            f"gain of {UNSEEN} "
            + said({kind: each[:, 1] for kind, each in gain.items()})
            + "; others gain more by "
            + said(behind),
            above(*(interval(each)[1:] for each in behind.values())),
        ),
    ]


def _gap_claim(found: list[dict[str, Any]]) -> Claim:
    """At the tolerance of rounding, whether foreign images raise the rank more than test digits do."""
    excess, words = [], []
    for name in FOREIGN:
        mine = [f for f in found if f["without"] == (name == UNSEEN)]
        seen, new = (np.array([f["gaps"][which] for f in mine]) for which in (SEEN, name))
        excess.append(float((new - seen)[:, 0].mean()))
        i = TOLERANCES.index(1e-2) + 1
        words.append(f"{name} {new[:, 0].mean():.2f} (at 0.01: {new[:, i].mean():.2f})")
        before = f"{seen[:, 0].mean():.2f} (at 0.01: {seen[:, i].mean():.2f})"
    return Claim(
        "the rank gap tells foreign images from test digits (Guo, He & Morel, §5.4), at the tolerance of rounding",
        f"gap per new image: test digits {before}; " + "; ".join(words),
        "yes" if min(excess) > 0.05 else "no" if max(excess) < 0.05 else "partly",
    )


def _accuracy_claim(found: list[dict[str, Any]]) -> Claim:
    """Whether printed digits near the training images in tangent space are the ones that are recognised."""
    words, ends = [], []
    for kind in ARCHITECTURES:
        mine = [f for f in found if f["kind"] == kind and not f["without"]]
        by_score = {}
        for score in (COSINE, SOFTMAX):
            pairs = [(f["scores"][score][PRINTED], f["right"][PRINTED]) for f in mine]
            by_score[score] = [
                float(ranked_pairs(values[right], values[~right]).mean())
                for values, right in pairs
                if 0 < right.mean() < 1
            ]
        each = np.array(by_score[COSINE])
        if len(each) < 2:
            ends.append((math.nan, math.nan))
            words.append(f"{kind}: too few networks with errors")
            continue
        mean, low, high = interval(each)
        ends.append((low - SEES, high - SEES))
        words.append(f"{kind} {mean:.3f} [{low:.3f}, {high:.3f}], max softmax {np.mean(by_score[SOFTMAX]):.3f}")
    return Claim(
        "printed digits of higher tangent similarity to training images are recognised more often (Guo, He & Morel, "
        "§5.3): the AUROC of 1 - max cosine for errors is above .5",
        "; ".join(words),
        above(*ends),
    )

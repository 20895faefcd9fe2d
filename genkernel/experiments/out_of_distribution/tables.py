"""Tables of the experiment on novelty, and the numbers behind them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.out_of_distribution.areas import ranked_pairs
from genkernel.experiments.out_of_distribution.scores import BASELINES, DISTANCE, NEAR, STATES, TANGENT, TOLERANCES
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
from genkernel.experiments.outcome import Table

Array = NDArray[np.float64]


def area_table(areas: dict[str, Any], setting: Setting) -> Table:
    """AUROC of every score for every set."""
    return Table(
        f"AUROC against test digits: mean over {setting.seeds} networks, 95 % for other networks and images"
        f" (± standard deviation over networks); {OTHER} have to be at .5; {UNSEEN}: of networks that learned 0 to 7",
        ("network", "score", *(OTHER, *FOREIGN)),
        [
            (kind, score, *(_said(areas[kind][name][score]) for name in (OTHER, *FOREIGN)))
            for kind in ARCHITECTURES
            for score in (*TANGENT, *BASELINES)
        ],
    )


def _said(one: dict[str, Any]) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}] ± {one['sd over networks']:.3f}"


def best_scores(areas: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    """Winners and losers. The best is chosen by the same numbers, and so looks better than it is."""
    rows, numbers = [], {}
    for kind, table in areas.items():
        for name in FOREIGN:
            by = {score: one["mean"] for score, one in table[name].items()}
            tangent = max(TANGENT, key=by.__getitem__)
            baseline = max(BASELINES, key=by.__getitem__)
            worst = min(by, key=by.__getitem__)
            rows.append((
                kind, name, f"{tangent} ({by[tangent]:.3f})", f"{baseline} ({by[baseline]:.3f})",
                f"{worst} ({by[worst]:.3f})",
            ))  # fmt: skip
            numbers[f"{kind}, {name}"] = {"tangent": tangent, "baseline": baseline, "worst": worst}
    title = "Winners and losers, by the mean AUROC (chosen after the fact)"
    return Table(title, ("network", "set", "best tangent score", "best baseline", "worst of all"), rows), numbers


def networks(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    """Accuracies and cosines."""
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        for some in (False, True):
            mine = [f for f in found if f["kind"] == kind and f["without"] == some]
            train = [f["train accuracy"] for f in mine]
            shares = {name: [float(f["right"][name].mean()) for f in mine] for name in mine[0]["right"]}
            cosine = {name: [f["cosine"][name] for f in mine] for name in mine[0]["cosine"]}
            title = f"{kind}{' without 8, 9' if some else ''}"
            numbers[title] = {"train accuracy": train, "accuracy": shares, "max cosine": cosine}

            def pair(values: list[float] | None) -> str | None:
                if values is None:
                    return None
                return f"{np.mean(values):.3f} ± {_sd(np.array(values)):.3f}"

            rows.append((
                title, mine[0]["parameters"], pair(train), pair(shares[SEEN]),
                pair(shares.get(PRINTED)), *(pair(cosine.get(name)) for name in (SEEN, *FOREIGN)),
            ))  # fmt: skip
    columns = ("network", "parameters", "train", SEEN, PRINTED, *(f"cosine, {name}" for name in (SEEN, *FOREIGN)))
    title = "Accuracies, and the mean of the largest cosine to a training image (± standard deviation over networks)"
    return Table(title, columns, rows), numbers


def by_cotangent(found: list[dict[str, Any]], areas: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    """Projection distances of the gradients of other scalars than the trace."""
    rows: list[tuple[Any, ...]] = []
    numbers: dict[str, Any] = {}
    for kind in ARCHITECTURES:
        rows.append((kind, "trace", *(areas[kind][name][DISTANCE]["mean"] for name in FOREIGN)))
        for which in found[0]["cotangents"]:
            means = []
            for name in FOREIGN:
                mine = [f for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
                each = [f["cotangents"][which] for f in mine]
                means.append(float(np.mean([ranked_pairs(one[SEEN], one[name]).mean() for one in each])))
            rows.append((kind, which, *means))
            numbers[f"{kind}, {which}"] = dict(zip(FOREIGN, means, strict=True))
    return Table("AUROC of the projection distance by cotangent", ("network", "cotangent", *FOREIGN), rows), numbers


def gap_table(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    """Rank gaps by tolerance."""
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        for name, some in ((SEEN, False), *((name, name == UNSEEN) for name in FOREIGN), (SEEN, True)):
            mine = [f for f in found if f["kind"] == kind and f["without"] == some]
            values = np.array([f["gaps"][name] for f in mine])
            title = f"{name} of learned classes" if some and name == SEEN else name  # what UNSEEN is held against
            numbers[f"{kind}, {title}"] = values.tolist()
            rows.append((kind, title, *(float(v) for v in values.mean(0))))
    title = "Rank gap per new image (gradients of the predicted logit), by relative tolerance"
    return Table(title, ("network", "set", "rounding", *(f"{t:g}" for t in TOLERANCES)), rows), numbers


def neighbour_table(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    """Neighbours of the same class, by state."""
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        mine = [f["clusters"] for f in found if f["kind"] == kind and f["without"]]
        for state in STATES:
            values = np.array([shares(one, state) for one in mine])
            numbers[f"{kind}, {state}"] = values.tolist()
            rows.append(
                (kind, state, *(f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), _sd(values), strict=True)))
            )
    title = f"Share of the {NEAR} nearest test images of the same class, networks that learned 0 to 7 (± over networks)"
    return Table(title, ("network", "neighbours by", "digits 0 to 7", UNSEEN), rows), numbers


def shares(found: dict[str, Any], state: str) -> tuple[float, float]:
    """Share of neighbours of the same class: of images of the classes that were learned, and of the others."""
    new = np.isin(found["labels"], LEFT_OUT)
    return float(found[state][~new].mean()), float(found[state][new].mean())


def _sd(values: Array) -> Array:
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], math.nan)

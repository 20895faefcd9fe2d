"""Tables, claims and figures of the study of tangent maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, is_above, is_below, pair
from genkernel.experiments.tangent_map.measures import map_method
from genkernel.experiments.tangent_map.setting import (
    ALL,
    HIGHER,
    LOWER,
    ON_ALL,
    ON_HIGHER,
    ON_LOWER,
    PIXELS,
    UNTRAINED,
    Setting,
)

Array = NDArray[np.float64]

LOW, HIGH = "0 to 4", "5 to 9"
DISTINCT, ENTANGLED = 0.8, 0.5  # adjusted Rand indices: k-means finds the digits; it does not
SEPARABLE, APART = 0.9, 0.9  # accuracy of a linear SVM; share of neighbours of the own digit
MATTERS = 0.02  # a rise that is surely below it is none
SEVEN, ONE = 7, 1
MEASURES = {
    "neighbours": "neighbours of the same digit",
    "clusters": "k-means, adjusted Rand index",
    "silhouette": "silhouette",
    "separation": "linear SVM, held out",
}
CLAIMS = (
    "at initialisation the digits 0 to 4 cannot be clearly separated (Guo, He & Morel, §5.3, figure 4 left): k-means "
    f"does not find them (index surely below {ENTANGLED}), nor does a linear SVM (accuracy surely below {SEPARABLE})",
    "after training on them they are well clustered and separable, held-out images (middle): k-means finds them (index "
    f"{DISTINCT} and more), a linear SVM too ({SEPARABLE} and more)",
    "that is the work of training: neighbours and clusters agree more with the digits than in the untrained network, "
    "and than in pixels (ours)",
    "with all digits shown the trained ones remain well separated (right): the neighbours of 0 to 4 among images of "
    f"all digits are of the own digit ({APART} and more)",
    f"digits that were not trained on do not form distinct clusters (right): k-means on 5 to 9 has an index below "
    f"{ENTANGLED}",
    "it is the training that makes the difference and not the digits: with roles exchanged as often, neighbours and "
    "clusters of digits that were learned agree more with the labels than those of digits that were not (ours)",
    "digits that were not trained on remain entangled: training on others does not raise the agreement of their "
    "neighbours and clusters above that of the untrained network (roles exchanged as often)",
    "nor above that of pixels (ours, likewise)",
    f"the {SEVEN}, which looks like the trained {ONE}, forms no cluster of its own: fewer than half of its neighbours "
    f"among all digits are {SEVEN}s (same section)",
    "it is not the images: a network that learned all digits has 5 to 9 in distinct clusters (ours: index "
    f"{DISTINCT} and more)",
)


def report(outcome: Outcome, found: list[dict[str, Any]], setting: Setting, seed: int) -> Outcome:
    """Fill an outcome with what networks did; without any, claims are undecided."""
    if not found:
        outcome.claims = [Claim(c, "not measured: needs data=, a folder with mnist.npz", "undecided") for c in CLAIMS]
        return outcome
    outcome.claims = claims(found)
    outcome.tables = tables(found, setting)
    outcome.numbers = {
        "method": map_method(),
        "accuracy": [one["accuracy"] for one in found],
        "groups": [one["groups"] for one in found],
        "all digits": [one["all"] for one in found],
        "neighbours": [one["neighbours"] for one in found],
    }
    outcome.figures = figures(found, setting, seed)
    return outcome


def claims(found: list[dict[str, Any]]) -> list[Claim]:
    """What is said of each of :data:`CLAIMS`, by intervals of 95 % over seeds."""

    def of(case: str, digits: str, measure: str) -> Array:
        return np.array([one["groups"][case][digits][measure] for one in found])

    def learned(measure: str) -> Array:
        return (of(ON_LOWER, LOW, measure) + of(ON_HIGHER, HIGH, measure)) / 2

    def others(measure: str) -> Array:
        return (of(ON_LOWER, HIGH, measure) + of(ON_HIGHER, LOW, measure)) / 2

    def at_rest(case: str, measure: str) -> Array:
        return (of(case, LOW, measure) + of(case, HIGH, measure)) / 2

    both = ("neighbours", "clusters")
    index = {case: of(case, LOW, "clusters") for case in (UNTRAINED, ON_LOWER)}
    linear = {case: of(case, LOW, "separation") for case in (UNTRAINED, ON_LOWER)}
    gains = {(m, case): of(ON_LOWER, LOW, m) - of(case, LOW, m) for m in both for case in (UNTRAINED, PIXELS)}
    share = np.array([np.diag(one["neighbours"][ON_LOWER]) for one in found])
    kept = share[:, list(LOWER)].mean(1)
    ahead = {m: learned(m) - others(m) for m in both}
    over = {case: {m: others(m) - at_rest(case, m) for m in both} for case in (UNTRAINED, PIXELS)}
    sevens = {
        case: np.array([one["neighbours"][case][SEVEN][SEVEN] for one in found]) for case in found[0]["neighbours"]
    }
    ones = np.array([one["neighbours"][ON_LOWER][SEVEN][ONE] for one in found])
    known = np.array([np.array(one["neighbours"][ON_LOWER])[SEVEN, list(LOWER)].sum() for one in found])
    final = of(ON_ALL, HIGH, "clusters")
    unseen = of(ON_LOWER, HIGH, "clusters")

    def entangled(case: str) -> tuple[str, str]:
        words = ", ".join(f"{MEASURES[m]} {said(others(m))}, difference {said(gap)}" for m, gap in over[case].items())
        return f"{words} (against {case})", verdict(_not_raised(gap) for gap in over[case].values())

    measured = [
        (
            f"index {said(index[UNTRAINED])}, linear SVM {said(linear[UNTRAINED])}; pixels "
            f"{said(of(PIXELS, LOW, 'clusters'))} and {said(of(PIXELS, LOW, 'separation'))}",
            verdict([is_below(around(index[UNTRAINED]), ENTANGLED), is_below(around(linear[UNTRAINED]), SEPARABLE)]),
        ),
        (
            f"index {said(index[ON_LOWER])}, linear SVM {said(linear[ON_LOWER])}, silhouette "
            f"{said(of(ON_LOWER, LOW, 'silhouette'))} (untrained {said(of(UNTRAINED, LOW, 'silhouette'))})",
            verdict([is_above(around(index[ON_LOWER]), DISTINCT), is_above(around(linear[ON_LOWER]), SEPARABLE)]),
        ),
        (
            "; ".join(f"{MEASURES[m]}: {said(gap)} over {case}" for (m, case), gap in gains.items()),
            above(*(around(gap) for gap in gains.values())),
        ),
        (f"share of the own digit {said(kept)}", verdict([is_above(around(kept), APART)])),
        (
            f"index {said(unseen)}; before the training {said(of(UNTRAINED, HIGH, 'clusters'))}, pixels "
            f"{said(of(PIXELS, HIGH, 'clusters'))}; with roles exchanged 0 to 4 have "
            f"{said(of(ON_HIGHER, LOW, 'clusters'))}",
            verdict([is_below(around(unseen), ENTANGLED)]),
        ),
        (
            ", ".join(
                f"{MEASURES[m]} {said(learned(m))} learned, {said(others(m))} not, difference {said(gap)}"
                for m, gap in ahead.items()
            ),
            above(*(around(gap) for gap in ahead.values())),
        ),
        entangled(UNTRAINED),
        entangled(PIXELS),
        (
            f"share of {SEVEN}s {said(sevens[ON_LOWER])}, of {ONE}s {said(ones)}, of all trained digits {said(known)}; "
            f"share of {SEVEN}s before the training {said(sevens[UNTRAINED])}, pixels {said(sevens[PIXELS])}, "
            f"trained on all {said(sevens[ON_ALL])}",
            verdict([is_below(around(sevens[ON_LOWER]), 0.5)]),
        ),
        (f"index {said(final)}", verdict([is_above(around(final), DISTINCT)])),
    ]  # fmt: skip
    return [Claim(claim, words, holds) for claim, (words, holds) in zip(CLAIMS, measured, strict=True)]


def tables(found: list[dict[str, Any]], setting: Setting) -> list[Table]:
    """All measures, and who the neighbours of unseen digits are."""
    cases = list(found[0]["groups"])
    keys = (*MEASURES, "within", "between")
    spread = Table(
        f"Held-out images ({setting.shown} of every digit), normalised kernel: mean ± standard error over {len(found)} "
        "seeds",
        ("kernel", "digits", *MEASURES.values(), "mean cosine within", "between"),
        [
            (case, digits, *(pair([one["groups"][case][digits][m] for one in found]) for m in keys))
            for case in cases
            for digits in (LOW, HIGH)
        ]
        + [(case, "all", *(pair([one["all"][case][m] for one in found]) for m in keys)) for case in cases],
    )
    rows: list[tuple[Any, ...]] = []
    for digit in ALL:
        mean = np.mean([one["neighbours"][ON_LOWER][digit] for one in found], 0)
        other = max((c for c in ALL if c != digit), key=lambda c: float(mean[c]))
        rows.append((
            digit, "yes" if digit in LOWER else "no",
            *(pair([one["neighbours"][case][digit][digit] for one in found]) for case in cases),
            f"{other} ({mean[other]:.2f})", float(mean[list(LOWER)].sum()),
        ))  # fmt: skip
    who = Table(
        f"Share of the {setting.neighbours} nearest, among images of all digits, that are of the own digit; last "
        "columns: network trained on 0 to 4",
        ("digit", "learned with 0 to 4", *cases, "most frequent other digit", "share of 0 to 4"),
        rows,
    )  # fmt: skip
    return [spread, who]


def figures(found: list[dict[str, Any]], setting: Setting, seed: int) -> dict[str, Any]:
    """Maps of the first seed, measures, and mean cosines by digit."""
    import torch

    from genkernel.plots import tangent_map as plots
    from genkernel.spectra import embed
    from genkernel.spectra.class_blocks import class_blocks

    first, method = found[0], map_method()
    labels = first["labels"]
    lower = torch.isin(labels, torch.tensor(LOWER))
    panels = {}
    for title, case, rows in (
        ("Untrained, 0 to 4", UNTRAINED, lower),
        ("Trained on 0 to 4, these", ON_LOWER, lower),
        ("Trained on 0 to 4, all digits", ON_LOWER, torch.ones_like(lower)),
        ("Pixels, all digits", PIXELS, torch.ones_like(lower)),
        ("Untrained, all digits", UNTRAINED, torch.ones_like(lower)),
        ("Trained on all, all digits", ON_ALL, torch.ones_like(lower)),
    ):
        K = first["cosines"][case][rows][:, rows]
        panels[title] = embed(K, method, seed=seed).points.numpy(), labels[rows].numpy()
    meta = {"seed": seed, "dtype": "float32"}
    spread = {"seed": f"{seed} to {seed + len(found) - 1}", "dtype": "float32"}
    cases = list(first["groups"])
    return {
        "tangent-map": plots.maps(panels, method, HIGHER, {**meta, "images": len(labels)}),
        "tangent-map-measures": plots.measures(
            {
                MEASURES[m]: {
                    case: {d: np.array([one["groups"][case][d][m] for one in found]) for d in (LOW, HIGH)}
                    for case in cases
                }
                for m in MEASURES
            },
            {
                "neighbours of the same digit": (setting.shown - 1) / (5 * setting.shown - 1),
                "linear SVM, held out": 0.2,
            },
            spread,
        ),
        "tangent-map-classes": plots.class_maps(
            {
                case: np.mean([class_blocks(one["cosines"][case], one["labels"]).matrix.numpy() for one in found], 0)
                for case in (UNTRAINED, ON_LOWER, ON_ALL)
            },
            len(LOWER),
            len(found),
            spread,
        ),
    }


def said(values: Array) -> str:
    """A mean with its interval over seeds."""
    low, high = around(values)
    ends = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{np.mean(values):.3f}{ends}".replace("-", "−")


def _not_raised(gap: Array) -> bool | None:
    """Whether a difference is surely below what matters, or surely above zero and not that small."""
    low, high = around(gap)
    return True if high < MATTERS else False if low > 0 else None

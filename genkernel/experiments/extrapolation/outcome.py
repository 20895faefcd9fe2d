"""Tables, claims and figures of the study of extrapolation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.extrapolation.measures import (
    ANSWERED,
    CONFIDENCE,
    GIVEN,
    HELD,
    LETTERS,
    MARGIN,
    OWN,
    PIXELS,
    PRINTED,
    SETS,
    SIMILARITIES,
    UNTRAINED,
    letter_names,
)
from genkernel.experiments.extrapolation.setting import Setting
from genkernel.experiments.extrapolation.task import FAMILIES, MIXED, TURNED, TURNED_PRINTED
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.rank_correlation import rank_correlation
from genkernel.experiments.replicates import above, around, below, is_above, is_below, pair
from genkernel.models.paper_classifiers import CLASSES

Array = NDArray[np.float64]

GOOD, POOR = 0.8, 0.5  # accuracies: "relatively high", "poorly recognised", and of inputs that are near, "inaccurate"
HIGH = 0.5  # a mean cosine within classes that is high
ALIKE = 0.2  # a correlation of profiles of two halves below which there is no structure to speak of
FAINT = 0.5  # … nor where profiles vary by less than this share of what those of held-out digits do
CLAIMS = (
    "predictions fail outside of the training domain: printed digits are recognised less often than held-out "
    "handwritten ones (Guo, He & Morel, §5.3, figure 5)",
    f"some printed digits have a relatively high accuracy (surely {GOOD} and more), the others are poorly recognised "
    f"(more than half of the digits surely below {POOR}; same section)",
    "a stronger similarity in tangent space goes along with a higher accuracy: over digits, similarity to training "
    "images of the own class and accuracy (same section)",
    "that is the work of training: the correlation is higher than with the untrained network's similarity, and than "
    "with that of pixels (ours)",
    "it is there without the label: similarity to the class that is answered, and accuracy (ours)",
    "over digits, it says something beyond the margin, and beyond the confidence (ours: partial correlations with the "
    "similarity to the class answered)",
    "image by image, it says something beyond the margin, and beyond the confidence (ours, likewise)",
    f"similarity within classes remains high among handwritten digits (a mean cosine of {HIGH} and more, held-out to "
    "training images; figure 6)",
    "letters are less similar to training digits than held-out digits and than printed digits are (figure 6: "
    "uniformly low)",
    f"letters have no class-specific similarity to digits (figure 6): profiles of two halves of a letter's images "
    f"correlate by less than {ALIKE}, or profiles vary by less than {FAINT:.0%} of what those of held-out digits do",
    "that letters are less similar is the work of training: they fall behind held-out digits by more than before it "
    "(ours)",
    f"even near the training distribution predictions are inaccurate: accuracy surely below {GOOD} at the first step "
    "away of turned handwritten digits, and of handwritten digits that turn into printed ones, and for upright printed "
    "digits of MNIST's size (§5.3)",
    "and moving away worsens them: accuracy falls with the level in every family (same section)",
    "similarity falls along with accuracy (ours: over the levels of every family, similarity to the nearest class)",
)


def report(outcome: Outcome, found: list[dict[str, Any]], setting: Setting, seed: int) -> Outcome:
    """Fill an outcome with what networks did; without any, claims are undecided."""
    if not found:
        outcome.claims = [Claim(c, "not measured: needs data=, a folder with mnist.npz", "undecided") for c in CLAIMS]
        return outcome
    outcome.tables = tables(found, setting)
    outcome.claims = claims(found, setting)
    outcome.numbers = numbers(found)
    outcome.figures = figures(found, setting, seed)
    return outcome


def claims(found: list[dict[str, Any]], setting: Setting) -> list[Claim]:
    """What is said of each of :data:`CLAIMS`, by intervals of 95 % over networks."""
    held, printed = (np.array([of(one) for one in found]) for of in (lambda f: f["held accuracy"], _printed_accuracy))
    by_digit = np.stack([one["printed"]["classes"]["right"] for one in found])
    good = [c for c in range(by_digit.shape[1]) if is_above(around(by_digit[:, c]), GOOD)]
    poor = [c for c in range(by_digit.shape[1]) if is_below(around(by_digit[:, c]), POOR)]
    own, answered = (_correlations(found, "over classes", name, "plain") for name in (OWN, ANSWERED))
    rivals = {name: own - _correlations(found, "over classes", name, "plain") for name in (UNTRAINED, PIXELS)}
    sets = {
        state: {
            name: {key: np.array([one["sets"][state][name][key] for one in found]) for key in measures}
            for name, measures in found[0]["sets"][state].items()
        }
        for state in ("trained", "untrained")
    }
    after, before = sets["trained"], sets["untrained"]
    behind = {name: after[name]["nearest"] - after[LETTERS]["nearest"] for name in (HELD, PRINTED)}
    fell = behind[HELD] - (before[HELD]["nearest"] - before[LETTERS]["nearest"])
    place = (after[LETTERS]["nearest"] - after[HELD]["foreign"]) / (after[HELD]["own"] - after[HELD]["foreign"])
    near = {
        f"turned by up to {setting.turns[1]:g}°": _at(found, TURNED, setting.turns[1]),
        f"{setting.mixtures[1]:.0%} printed": _at(found, MIXED, setting.mixtures[1]),
        "upright printed": _at(found, TURNED_PRINTED, setting.turns[0]),
    }
    worse = {name: -_over_levels(found, name, "level") for name in FAMILIES}
    together = {name: _over_levels(found, name, "nearest") for name in FAMILIES}

    def beyond(place: str) -> tuple[str, str]:
        parts = {given: _correlations(found, place, ANSWERED, given) for given in (MARGIN, CONFIDENCE, "both")}
        plain = _correlations(found, place, ANSWERED, "plain")
        words = f"plain {_said(plain)}; " + ", ".join(f"given {k} {_said(v)}" for k, v in parts.items())
        return words, above(*(around(parts[given]) for given in (MARGIN, CONFIDENCE)))

    measured = [
        (
            f"accuracy {_said(printed)} of printed, {_said(held)} of held-out digits; difference "
            + _said(held - printed),
            above(around(held - printed)),
        ),
        (
            f"surely {GOOD} and more: {_digits(good)}; surely below {POOR}: {_digits(poor)}; means "
            + ", ".join(f"{c}: {share:.2f}" for c, share in enumerate(by_digit.mean(0))),
            verdict([bool(good), 2 * len(poor) > by_digit.shape[1]]) if len(found) > 1 else "undecided",
        ),
        (f"Spearman's correlation {_said(own)}", above(around(own))),
        (
            ", ".join(
                f"{_said(own - gap)} (similarity {name}), difference {_said(gap)}" for name, gap in rivals.items()
            ),
            above(*(around(gap) for gap in rivals.values())),
        ),
        (f"Spearman's correlation {_said(answered)}", above(around(answered))),
        beyond("over classes"),
        beyond("over images"),
        (
            f"mean cosine {_said(after[HELD]['own'])} to the own class, {_said(after[HELD]['foreign'])} to the most "
            f"similar other one; untrained {_said(before[HELD]['own'])} and {_said(before[HELD]['foreign'])}",
            above(around(after[HELD]["own"]), level=HIGH),
        ),
        (
            "similarity to the nearest class "
            + ", ".join(f"{_said(after[name]['nearest'])} ({name})" for name in SETS)
            + f"; letters are behind by {_said(behind[HELD])} and {_said(behind[PRINTED])}; between the most similar "
            f"other class (0) and the own class (1) of held-out digits they are at {_said(place)}",
            above(*(around(each) for each in behind.values())),
        ),
        (
            ", ".join(f"{_said(after[name]['repeats'])} ({name})" for name in (LETTERS, PRINTED, HELD))
            + f"; untrained letters {_said(before[LETTERS]['repeats'])}; root mean square of the profiles: "
            + ", ".join(f"{_said(after[name]['amplitude'])} ({name})" for name in (LETTERS, PRINTED, HELD))
            + f"; untrained letters {_said(before[LETTERS]['amplitude'])}",
            verdict([_without_structure(after[LETTERS], after[HELD])]),
        ),
        (
            f"{_said(behind[HELD])} after training, {_said(behind[HELD] - fell)} before; difference {_said(fell)}",
            above(around(fell)),
        ),
        (
            ", ".join(f"{_said(values)} ({name})" for name, values in near.items()),
            below(*map(around, near.values()), level=GOOD),
        ),
        (
            "rank correlation of level and loss of accuracy: "
            + ", ".join(f"{_said(values)} ({name})" for name, values in worse.items()),
            above(*(around(values) for values in worse.values())),
        ),
        (
            "rank correlation of similarity and accuracy: "
            + ", ".join(f"{_said(values)} ({name})" for name, values in together.items()),
            above(*(around(values) for values in together.values())),
        ),
    ]  # fmt: skip
    return [Claim(claim, words, holds) for claim, (words, holds) in zip(CLAIMS, measured, strict=True)]


def tables(found: list[dict[str, Any]], setting: Setting) -> list[Table]:
    """Correlations, sets, levels and digits."""
    correlations = Table(
        f"Spearman's correlation of similarity and right answers of printed digits, and with the ranks of others held "
        f"fixed: mean and 95 % over {len(found)} networks",
        ("over", "similarity", "plain", *(f"given the {name}" for name in GIVEN), "given margin and confidence"),
        [
            (place.removeprefix("over "), name, *(
                _said(_correlations(found, place, name, given)) for given in ("plain", *GIVEN, "both")
            ))
            for place in ("over classes", "over images")
            for name in SIMILARITIES
        ],
    )  # fmt: skip
    keys = ("nearest", "own", "foreign", "mean", "repeats", "amplitude", "distance", "confidence")
    sets = Table(
        f"Similarity to training digits ({setting.seen} of each): mean ± standard error over networks",
        ("network", "images", "nearest class", "own class", "most similar other class", "all classes",
         "profiles of halves correlate", "root mean square of profiles", "projection distance", "confidence"),
        [
            (state, name, *(
                pair([one["sets"][state][name][key] for one in found]) if key in found[0]["sets"][state][name] else None
                for key in keys
            ))
            for state in ("trained", "untrained")
            for name in SETS
        ],
    )  # fmt: skip
    measures = ("accuracy", "nearest", "own", "distance", MARGIN, CONFIDENCE, "pixels")
    levels = Table(
        "Away from the training domain: mean ± standard error over networks",
        ("family", "level", "accuracy", "similarity to the nearest class", "to the own class", "projection distance",
         "margin", "confidence", "similarity to the nearest class, pixels"),
        [
            (name, f"{level:g}", *(pair([one["families"][name][level][m] for one in found]) for m in measures))
            for name in FAMILIES
            for level in found[0]["families"][name]
        ],
    )  # fmt: skip
    classes = Table(
        f"Printed digits ({setting.printed} of each): mean ± standard error over networks",
        ("digit", "accuracy", *SIMILARITIES),
        [
            (c, *(pair([one["printed"]["classes"][m][c] for one in found]) for m in ("right", *SIMILARITIES)))
            for c in range(len(found[0]["printed"]["classes"]["right"]))
        ],
    )
    course = Table(
        "While they learn: accuracies after so many steps, mean ± standard error over networks",
        ("steps", "held-out digits", "printed digits", *map(str, range(CLASSES))),
        [
            (step, pair([one["course"][step][HELD] for one in found]), pair(right.mean(1)), *map(pair, right.T))
            for step in found[0]["course"]
            for right in [np.array([one["course"][step][PRINTED] for one in found])]
        ],
    )
    return [correlations, classes, course, sets, levels]


def numbers(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of every network: correlations, means of digits, sets and levels."""
    return {
        "train accuracy": [one["train accuracy"] for one in found],
        "held-out accuracy": [one["held accuracy"] for one in found],
        "printed accuracy": [_printed_accuracy(one) for one in found],
        "correlations": [
            {place: one["printed"][place] for place in ("over classes", "over images")} for one in found
        ],
        "course": [{str(step): values for step, values in one["course"].items()} for one in found],
        "digits": [{k: v.tolist() for k, v in one["printed"]["classes"].items()} for one in found],
        "sets": [one["sets"] for one in found],
        "families": [
            {
                name: {f"{level:g}": values for level, values in levels.items()}
                for name, levels in one["families"].items()
            }
            for one in found
        ],
        "profiles": [{name: values.tolist() for name, values in one["profiles"].items()} for one in found],
    }  # fmt: skip


def figures(found: list[dict[str, Any]], setting: Setting, seed: int) -> dict[str, Any]:
    """Similarities and accuracies of printed digits, letters, and what is further away."""
    from genkernel.plots import extrapolation as plots

    meta = {"seed": f"{seed} to {seed + len(found) - 1}", "dtype": "float32"}
    first = found[0]["images"]
    classes = {name: np.stack([one["printed"]["classes"][name] for one in found]) for name in ("right", OWN, ANSWERED)}
    profile = {name: np.mean([one["profiles"][name] for one in found], 0) for name in (PRINTED, LETTERS)}
    return {
        "extrapolation": plots.printed_digits(
            profile[PRINTED], classes["right"], {OWN: classes[OWN], ANSWERED: classes[ANSWERED]}, meta
        ),
        "extrapolation-beyond": plots.correlations(
            {
                place.removeprefix("over "): {
                    name: {given: _correlations(found, place, name, given) for given in ("plain", *GIVEN)}
                    for name in SIMILARITIES
                }
                for place in ("over classes", "over images")
            },
            meta,
        ),
        "extrapolation-images": plots.between_images(found[0]["kernel"], letter_names(), meta | {"seed": seed}),
        "extrapolation-course": plots.over_training(
            {
                step: {name: np.array([one["course"][step][name] for one in found]) for name in (HELD, PRINTED)}
                for step in found[0]["course"]
            },
            meta,
        ),
        "extrapolation-letters": plots.letters(
            profile, letter_names(),
            {state: {name: {key: [one["sets"][state][name][key] for one in found] for key in ("nearest", "repeats")}
                     for name in SETS} for state in ("trained", "untrained")},
            meta,
        ),
        "extrapolation-domain": plots.away(
            {
                name: {
                    level: {m: [one["families"][name][level][m] for one in found] for m in
                            ("accuracy", "nearest", "own", CONFIDENCE)}
                    for level in levels
                }
                for name, levels in found[0]["families"].items()
            },
            {name: [images[0, 0].numpy() for images, _ in _of_one_digit(first.families[name])] for name in FAMILIES},
            meta,
        ),
    }  # fmt: skip


def _of_one_digit(levels: dict[float, Any], digit: int = 4) -> list[tuple[Any, Any]]:
    return [(images[labels == digit], labels[labels == digit]) for images, labels in levels.values()]


def _printed_accuracy(one: dict[str, Any]) -> float:
    return float(one["printed"]["images"]["right"].mean())


def _correlations(found: list[dict[str, Any]], place: str, name: str, given: str) -> Array:
    return np.array([one["printed"][place][name][given] for one in found])


def _at(found: list[dict[str, Any]], family: str, level: float) -> Array:
    return np.array([one["families"][family][level]["accuracy"] for one in found])


def _over_levels(found: list[dict[str, Any]], family: str, measure: str) -> Array:
    """Of every network: rank correlation of accuracy with a measure, or with the place of the level."""
    result = []
    for one in found:
        levels = list(one["families"][family].values())
        values = list(range(len(levels))) if measure == "level" else [each[measure] for each in levels]
        result.append(rank_correlation(values, [each["accuracy"] for each in levels]))
    return np.array(result)


def _said(values: Array) -> str:
    """A mean with its interval; networks of which there is no number are left out."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "n/a"
    low, high = around(known)
    ends = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{known.mean():.3f}{ends}".replace("-", "−")


def _without_structure(letters: dict[str, Array], held: dict[str, Array]) -> bool | None:
    """Whether profiles do not repeat, or are faint beside those of held-out digits."""
    repeats = is_below(around(letters["repeats"]), ALIKE)
    faint = is_below(around(letters["amplitude"] / held["amplitude"]), FAINT)
    return True if repeats or faint else False if repeats is False and faint is False else None


def _digits(found: list[int]) -> str:
    return ", ".join(map(str, found)) or "none"

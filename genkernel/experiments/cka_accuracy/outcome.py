"""Rank correlations of alignment with accuracy, over trainings and over architectures, and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.cka_accuracy.found import Course
from genkernel.experiments.cka_accuracy.setting import Setting
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.rank_correlation import rank_correlation
from genkernel.experiments.replicates import above, around, pair

Array = NDArray[np.float64]
Courses = Mapping[str, Sequence["Course"]]

KERNELS = ("trace, training images", "trace, held-out images", "sum of logits, training images",
           "sum of logits, held-out images")  # fmt: skip
HELD, SEEN = KERNELS[1], KERNELS[0]


def resampled(
    statistic: Callable[..., float], columns: Sequence[Array], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of a statistic over architectures, by the bootstrap.

    Args:
        statistic: of the columns.
        columns: one number per architecture each ``[a]``.
        resamples: draws with replacement; those without a value are left out.
        seed: of the draws.

    Returns:
        Percentiles; nan where there are fewer than four architectures, or most draws have no value.
    """
    count = len(columns[0])
    if count < 4:
        return math.nan, math.nan
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        rows = draw.integers(0, count, count)
        values.append(statistic(*(column[rows] for column in columns)))
    found = np.array([v for v in values if not math.isnan(v)])
    if len(found) < resamples / 2:
        return math.nan, math.nan
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def report(outcome: Outcome, found: Courses, setting: Setting, seed: int) -> None:
    """Add tables, claims, figures and numbers.

    Args:
        found: architecture → one course per seed; empty without data.
    """
    if not found:
        outcome.claims += claims({}, setting, seed)
        return
    over = across(found, setting, seed)
    within = courses(found, setting.steps)
    outcome.claims += claims({"across": over, "within": within, "found": found}, setting, seed)
    outcome.tables += [_architectures(found, within), _across(over, setting.seeds)]
    outcome.numbers = {
        "architectures": {
            name: {
                "parameters": each[0].parameters,
                "cka": [one.trace.tolist() for one in each],
                "ends": {kernel: [one.ends[kernel].tolist() for one in each] for kernel in KERNELS},
                "accuracy": [one.accuracy.tolist() for one in each],
                "loss": [one.loss.tolist() for one in each],
                "correlations": {what: values.tolist() for what, values in within[name].items()},
            }
            for name, each in found.items()
        },
        "across": over,
    }
    from genkernel.plots.cka_accuracy import alignment_and_accuracy

    outcome.figures["cka-accuracy"] = alignment_and_accuracy(
        setting.steps,
        {name: np.array([one.trace for one in each]) for name, each in found.items()},
        {name: np.array([one.accuracy for one in each]) for name, each in found.items()},
        {name: np.array([one.ends[SEEN] for one in each]) for name, each in found.items()},
        {title: over[key] for title, key in _SHOWN.items()},
        {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float32"},
    )


_SHOWN = {
    "CKA, training images": f"{SEEN}, end",
    "CKA, held-out images": f"{HELD}, end",
    "… given the training loss": f"{HELD}, end, given the loss",
    "CKA before training": f"{HELD}, start",
    "− training loss": "training loss",
    "number of parameters": "parameters",
}


def across(found: Courses, setting: Setting, seed: int) -> dict[str, dict[str, Any]]:
    """Rank correlations with the final accuracy over architectures.

    Returns:
        What is correlated → ``"value"`` (of means over seeds), ``"interval"`` (bootstrap over architectures) and
        ``"seeds"`` (of every seed by itself).
    """

    def means(of: Callable[[Course], float]) -> Array:
        return np.array([np.mean([of(one) for one in each]) for each in found.values()])

    def each(of: Callable[[Course], float]) -> list[Array]:
        return [np.array([of(courses[k]) for courses in found.values()]) for k in range(setting.seeds)]

    def entry(statistic: Callable[..., float], *of: Callable[[Course], float]) -> dict[str, Any]:
        columns = [means(one) for one in of]
        return {
            "value": statistic(*columns),
            "interval": resampled(statistic, columns, setting.resamples, seed),
            "seeds": [statistic(*values) for values in zip(*(each(one) for one in of), strict=True)],
        }

    def accuracy(course: Course) -> float:
        return float(course.accuracy[-1])

    def learned(course: Course) -> float:
        return -float(course.loss[-1])

    table: dict[str, dict[str, Any]] = {}
    for kernel in KERNELS:
        for moment, place in (("end", -1), ("start", 0)):
            table[f"{kernel}, {moment}"] = entry(rank_correlation, _aligned(kernel, place), accuracy)
        table[f"{kernel}, end, given the loss"] = entry(rank_correlation, _aligned(kernel, -1), accuracy, learned)
    table["training loss"] = entry(rank_correlation, learned, accuracy)
    table["parameters"] = entry(rank_correlation, lambda course: float(course.parameters), accuracy)
    for kernel in (SEEN, HELD):
        table[f"{kernel}, more than the training loss"] = entry(
            lambda cka, good, loss: rank_correlation(cka, good) - abs(rank_correlation(loss, good)),
            _aligned(kernel, -1),
            accuracy,
            learned,
        )
    return table


def _aligned(kernel: str, place: int) -> Callable[[Course], float]:
    return lambda course: float(course.ends[kernel][place])


def courses(found: Courses, steps: Sequence[int]) -> dict[str, dict[str, Array]]:
    """Of every architecture, over its training: rank correlations of CKA and of a clock with accuracy ``[seeds]``.

    Of values, and of differences between moments: two values that both rise correlate whatever their cause.
    """
    clock = np.log1p(np.asarray(steps, dtype=np.float64))
    table: dict[str, dict[str, Array]] = {}
    for name, each in found.items():
        table[name] = {
            "values": np.array([rank_correlation(one.trace, one.accuracy) for one in each]),
            "differences": np.array([rank_correlation(np.diff(one.trace), np.diff(one.accuracy)) for one in each]),
            "clock": np.array([rank_correlation(np.diff(clock), np.diff(one.accuracy)) for one in each]),
            "rise": np.array([one.trace[-1] - one.trace[0] for one in each]),
            "after the peak": np.array([one.trace[-1] - one.trace.max() for one in each]),
        }
    return table


def _architectures(found: Courses, within: Mapping[str, Mapping[str, Array]]) -> Table:
    return Table(
        f"Architectures; means of {len(next(iter(found.values())))} seeds ± standard errors, CKA of the trace kernel",
        ("architecture", "parameters", "training loss", "accuracy", "CKA before, held out", "CKA after, held out",
         "CKA after, training images", "rank correlation over the training", "of differences", "… of a clock"),
        [
            (
                name,
                each[0].parameters,
                pair([one.loss[-1] for one in each]),
                pair([one.accuracy[-1] for one in each]),
                pair([one.trace[0] for one in each]),
                pair([one.trace[-1] for one in each]),
                pair([one.ends[SEEN][-1] for one in each]),
                *(pair(within[name][what]) for what in ("values", "differences", "clock")),
            )
            for name, each in found.items()
        ],
    )  # fmt: skip


def _across(over: Mapping[str, Mapping[str, Any]], seeds: int) -> Table:
    return Table(
        "Rank correlation with the final accuracy, over architectures (of means over seeds; 95 % by the bootstrap over "
        "architectures; then of every seed by itself)",
        ("of", "value", "95 %", *(f"seed {k + 1}" for k in range(seeds))),
        [(name, one["value"], said(one["interval"]), *one["seeds"]) for name, one in over.items()],
    )


def said(interval: tuple[float, float]) -> str:
    """An interval in words."""
    return "n/a" if math.isnan(interval[0]) else f"[{interval[0]:.2f}, {interval[1]:.2f}]".replace("-", "−")


def claims(measured: Mapping[str, Any], setting: Setting, seed: int) -> list[Claim]:
    """What correlations say: 95 % intervals over architectures, each of which counts once."""
    texts = (
        "alignment with the labels tracks training progress across architectures (Guo, He, Morel, abstract: over a "
        "training CKA on held-out images has a rank correlation with the accuracy above 0, in the mean over "
        "architectures)",
        "it does so more closely than a clock (ours: of differences between moments, beside those of the logarithm of "
        "steps)",
        "CKA correlates with final accuracy across architectures (section 6), on held-out images",
        "… on the training images, without any labels beyond those that were learned",
        "it tells something that the training loss does not (ours: partial rank correlation, held-out images)",
        "it tells more than the training loss does (ours: rank correlation minus that of the loss, training and "
        "held-out images)",
        "the untrained kernel's alignment already tells the final accuracy (ours, held-out images)",
    )
    if not measured:
        missing = "not measured: data= names a folder with fashion-mnist.npz"
        return [Claim(text, missing, "undecided") for text in texts]
    over, within = measured["across"], measured["within"]

    def per_architecture(what: str) -> Array:
        return np.array([_mean(values[what]) for values in within.values()])

    def spoken(key: str) -> str:
        one = over[key]
        return f"{one['value']:.2f} {said(one['interval'])}".replace("-", "−")

    values, rise, late = (per_architecture(what) for what in ("values", "rise", "after the peak"))
    closer = per_architecture("differences") - per_architecture("clock")
    closer = closer[~np.isnan(closer)]
    words = (
        f"rank correlation {pair(values)} over {len(values)} architectures, least {np.nanmin(values):.2f}; CKA rises "
        f"by {pair(rise)}, in {int((rise > 0).sum())} of {len(rise)}, and ends {pair(-late)} below its highest value",
        f"differences of CKA {pair(per_architecture('differences'))}, clock {pair(per_architecture('clock'))}; one "
        f"minus the other {pair(closer)}",
        f"trace {spoken(f'{HELD}, end')}; sum of logits {spoken(f'{KERNELS[3]}, end')}",
        f"trace {spoken(f'{SEEN}, end')}; sum of logits {spoken(f'{KERNELS[2]}, end')}",
        f"trace {spoken(f'{HELD}, end, given the loss')}; sum of logits "
        f"{spoken(f'{KERNELS[3]}, end, given the loss')}; the loss itself {spoken('training loss')}",
        f"training images {spoken(f'{SEEN}, more than the training loss')}; held-out images "
        f"{spoken(f'{HELD}, more than the training loss')}",
        f"trace {spoken(f'{HELD}, start')}; sum of logits {spoken(f'{KERNELS[3]}, start')}; number of parameters "
        f"{spoken('parameters')}",
    )
    holds = (
        above(around(values[~np.isnan(values)])),
        above(around(closer)),
        above(*(over[f"{kernel}, end"]["interval"] for kernel in (HELD, KERNELS[3]))),
        above(*(over[f"{kernel}, end"]["interval"] for kernel in (SEEN, KERNELS[2]))),
        above(*(over[f"{kernel}, end, given the loss"]["interval"] for kernel in (HELD, KERNELS[3]))),
        above(*(over[f"{kernel}, more than the training loss"]["interval"] for kernel in (SEEN, HELD))),
        above(*(over[f"{kernel}, start"]["interval"] for kernel in (HELD, KERNELS[3]))),
    )
    return [Claim(*one) for one in zip(texts, words, holds, strict=True)]


def _mean(values: Array) -> float:
    """Of those that are known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan

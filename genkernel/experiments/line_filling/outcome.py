"""Tables and claims of the study of filling lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from genkernel.experiments.line_filling.found import Trained
from genkernel.experiments.line_filling.setting import Setting
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import around, is_above, is_below, pair, share

SHAPE, WIDE, BETWEEN = "exact structure", "wider convolution", "convolutions between"
OTHERS = ("exact structure, GELU", "exact structure, |x|")
RANDOM = "random"
ROUNDING = 1e-12  # of sums of a few float64
LOW = 0.05  # share of wrong places that counts as a low error
EASY = 4  # lengths up to here are the short ones: ours, the paper's bound is lost
MOST = 0.5  # a share of starts above which a structure converges, by the 95 % interval over starts


def report(outcome: Outcome, setting: Setting, exact: dict[str, list[float]], found: list[Trained], seed: int) -> None:
    """Fill an outcome from all trainings."""
    from genkernel.plots.line_filling import line_filling

    outcome.tables += [_verified(setting, exact), _trainings(setting, found)]
    outcome.claims += _claims(setting, exact, found)
    outcome.numbers.update({
        "exact": exact,
        "trained": [
            {
                "structure": one.structure, "start": one.start, "length": one.length, "ones": one.ones,
                "parameters": one.parameters, "squares": one.squares.tolist(), "wrong": one.wrong.tolist(),
            }
            for one in found
        ],
    })  # fmt: skip
    starts = {(one.structure, one.length, one.ones): _found(one) for one in found if one.start == RANDOM}
    noises = [(float(one.start), *_found(one)) for one in found if one.start != RANDOM]
    curves = {
        one.structure: (one.ones, one.wrong.numpy())
        for one in found
        if one.start == RANDOM and one.length == setting.detailed and one.structure not in OTHERS
    }  # the last of each structure: the largest number of ones
    outcome.figures["line-filling"] = line_filling(starts, noises, curves, setting.detailed, {"seed": seed})


def right(one: Trained) -> int:
    """How many replicates have every place of all tested sequences right, with any number of ones."""
    return int((one.wrong.max(0).values == 0).sum())


def _found(one: Trained) -> tuple[float, float, float]:
    """Share of starts that end right everywhere, and its 95 % interval."""
    return right(one) / len(one.wrong[0]), *_interval([one])


def elsewhere(one: Trained) -> Any:
    """Share of wrong places at numbers of ones that were not trained on ``[R]``."""
    others = [k for k in range(len(one.wrong)) if k != one.ones]
    return one.wrong[others].mean(0).numpy()


def _verified(setting: Setting, exact: dict[str, list[float]]) -> Table:
    return Table(
        "The network with weights by hand: largest error over all sequences of a length",
        ("non-linearity", *(f"n = {n} ({2**n})" for n in setting.verified)),
        [(name, *values) for name, values in exact.items()],
    )


def _trainings(setting: Setting, found: list[Trained]) -> Table:
    return Table(
        f"Trainings, {setting.replicates} starts each: places right after rounding, on {setting.tested} sequences with "
        "every number of ones",
        ("structure", "start", "n", "ones", "weights", "all right on trained k", "all right on every k",
         "wrong places on trained k, median", "on other k, median", "squared error on trained k, median"),
        [
            (one.structure, one.start if one.start == RANDOM else f"exact + {one.start:g}", one.length, one.ones,
             one.parameters, int((one.wrong[one.ones] == 0).sum()), right(one),
             float(np.median(one.wrong[one.ones].numpy())), float(np.median(elsewhere(one))),
             float(np.median(one.squares[one.ones].numpy())))
            for one in found
        ],
    )  # fmt: skip


def _claims(setting: Setting, exact: dict[str, list[float]], found: list[Trained]) -> list[Claim]:
    random = [one for one in found if one.structure == SHAPE and one.start == RANDOM]
    others = [one for one in found if one.structure in OTHERS]
    short = [one for one in random if one.length <= EASY]
    long = [one for one in random if one.length > EASY]
    noisy = [one for one in found if one.start != RANDOM]
    wide = [one for one in found if one.structure == WIDE]
    between = [one for one in found if one.structure == BETWEEN]
    here = ", ".join(map(str, sorted({one.length for one in long}))) or "none"
    near = [one.wrong[one.ones].numpy() for one in between]
    more = [elsewhere(one) - own for one, own in zip(between, near, strict=True)]
    return [
        Claim(
            "two linear operations and a non-linearity per pairwise sum, doubled log₂ n times, fill exactly "
            "(Courtois et al., section 6.1)",
            f"largest error over all sequences of {', '.join(map(str, setting.verified))} places: "
            + ", ".join(f"{max(values):.0e} ({name})" for name, values in exact.items()),
            verdict(max(values) < ROUNDING for values in exact.values()),
        ),
        Claim(
            "from random weights this structure never finds the exact solution, short sequences aside (same section; "
            f"how short is lost: here n = {here}, of none of which a start finds it)",
            "right everywhere: " + _counts(long) + _at_most(long),
            verdict(_never(long)),
        ),
        Claim(
            "for short sequences it converges without help, for any number of nonzero coordinates (same section; here "
            f"most starts, for n up to {EASY})",
            "right everywhere: " + _counts(short),
            verdict(is_above(_interval([one]), MOST) for one in short),
        ),
        Claim(
            "it converges from the exact weights with noise (same section; how much is lost: here most starts, for "
            f"noise below the weights' size of 1, n = {setting.detailed})",
            "right everywhere: "
            + ", ".join(f"{right(one)} of {setting.replicates} (noise {one.start:g})" for one in noisy),
            verdict(is_above(_interval([one]), MOST) for one in noisy if float(one.start) < 1),
        ),
        Claim(
            "with a wider first convolution it stops converging for any n and any number of ones (same section; here "
            "no start of any n finds the exact solution)",
            "right everywhere: " + _counts(wide) + _at_most(wide),
            verdict(_never(wide)),
        ),
        Claim(
            "with more convolutions in between it converges to a solution of low error that is not the exact one: "
            f"errors rise with other numbers of ones (same section; low: below {LOW:.0%} of places)",
            "wrong places, means: "
            + "; ".join(
                f"{pair(own)} on {one.ones} ones as trained, {pair(own + rise)} on others (right everywhere: "
                f"{right(one)} of {setting.replicates})"
                for one, own, rise in zip(between, near, more, strict=True)
            ),
            verdict([
                *(is_below(around(own), LOW) for own in near), *(is_above(around(rise)) for rise in more),
                *(is_below(_interval([one]), MOST) for one in between),
            ]),
        ),
        Claim(
            "so a structure that holds the exact solution does not make training find it (same section; here fewer "
            "than half of the starts, for every n)",
            f"random starts that end right everywhere: {sum(right(one) for one in random)} of "
            f"{setting.replicates * len(random)}, all of them different; share by length: "
            + ", ".join(f"{share:.1%} (n = {n})" for n, share in _by_length(random).items()),
            verdict(is_below(_interval(group), MOST) for group in _lengths(random)),
        ),
        Claim(
            "nor do other non-linearities that can do it, GELU and |x|, make it do so (ours; fewer than half of the "
            "starts, for either and every n)",
            "right everywhere: " + _counts(others),
            verdict(
                is_below(_interval(group), MOST)
                for name in OTHERS
                for group in _lengths([one for one in others if one.structure == name])
            ),
        ),
    ]  # fmt: skip


def _lengths(group: list[Trained]) -> list[list[Trained]]:
    """The cases of each length."""
    return [[one for one in group if one.length == n] for n in sorted({one.length for one in group})]


def _interval(group: list[Trained]) -> tuple[float, float]:
    """95 % interval of the share of starts that end right everywhere."""
    return share(sum(right(one) for one in group), sum(len(one.wrong[0]) for one in group))


def _never(group: list[Trained]) -> list[bool]:
    """Of every length, whether no start ends right everywhere."""
    return [not any(right(one) for one in each) for each in _lengths(group)]


def _at_most(group: list[Trained]) -> str:
    """Which share the lengths without a success leave open, in words."""
    without = [one for each in _lengths(group) if not any(right(one) for one in each) for one in each]
    if not without:
        return ""
    count = sum(len(one.wrong[0]) for one in without)
    named = ", ".join(str(each[0].length) for each in _lengths(without))
    return f"; n = {named} together 0 of {count}, which leaves shares up to {share(0, count)[1]:.1%}"


def _counts(group: list[Trained]) -> str:
    named = len({one.structure for one in group}) > 1
    return ", ".join(
        f"{right(one)} of {len(one.wrong[0])} (n = {one.length}, {one.ones} {'one' if one.ones == 1 else 'ones'}"
        + (f", {one.structure.rpartition(', ')[2]})" if named and one.structure in OTHERS else ")")
        for one in group
    )


def _by_length(group: list[Trained]) -> dict[int, float]:
    return {
        each[0].length: sum(right(one) for one in each) / sum(len(one.wrong[0]) for one in each)
        for each in _lengths(group)
    }

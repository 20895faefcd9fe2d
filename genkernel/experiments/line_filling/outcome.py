"""Tables and claims of the study of filling lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.experiments.line_filling.setting import Setting
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict

if TYPE_CHECKING:
    from genkernel.experiments.line_filling.experiment import Trained

SHAPE, WIDE, BETWEEN = "exact structure", "wider convolution", "convolutions between"
OTHERS = ("exact structure, GELU", "exact structure, |x|")
RANDOM = "random"
ROUNDING = 1e-12  # of sums of a few float64
LOW = 0.05  # share of wrong places that counts as a low error
EASY = 4  # lengths up to here are the short ones


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
    starts = {
        (one.structure, one.length, one.ones): (right(one), len(one.wrong[0])) for one in found if one.start == RANDOM
    }
    noises = [(float(one.start), right(one), len(one.wrong[0])) for one in found if one.start != RANDOM]
    curves = {
        one.structure: (one.ones, one.wrong.numpy())
        for one in found
        if one.start == RANDOM and one.length == setting.detailed and one.structure not in OTHERS
    }  # the last of each structure: the largest number of ones
    outcome.figures["line-filling"] = line_filling(starts, noises, curves, setting.detailed, {"seed": seed})


def right(one: Trained) -> int:
    """How many replicates have every place of all tested sequences right, with any number of ones."""
    return int((one.wrong.max(0).values == 0).sum())


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
    random = [one for one in found if one.structure in (SHAPE, *OTHERS) and one.start == RANDOM]
    short = [one for one in random if one.length <= EASY]
    long = [one for one in random if one.length > EASY]
    noisy = [one for one in found if one.start != RANDOM]
    wide = [one for one in found if one.structure == WIDE]
    between = [one for one in found if one.structure == BETWEEN]
    most = max(max(values) for values in exact.values())
    near, far = (
        [float(np.median(v)) for v in group]
        for group in ([one.wrong[one.ones].numpy() for one in between], [elsewhere(one) for one in between])
    )
    return [
        Claim(
            "two linear operations and a non-linearity per pairwise sum, doubled log₂ n times, fill exactly "
            "(Courtois et al., section 6.1)",
            f"largest error over all sequences of {', '.join(map(str, setting.verified))} places: "
            + ", ".join(f"{max(values):.0e} ({name})" for name, values in exact.items()),
            verdict([most < ROUNDING]),
        ),
        Claim(
            f"from random weights this structure never finds the exact solution (same section; here n above {EASY})",
            "right everywhere: " + _counts(long),
            "no" if any(right(one) for one in long) else "yes" if long else "undecided",
        ),
        Claim(
            f"for short sequences it converges without help, for any number of nonzero coordinates (same section; here "
            f"n up to {EASY})",
            "right everywhere: " + _counts(short),
            _rate(short),
        ),
        Claim(
            f"it converges from the exact weights with noise (same section; n = {setting.detailed})",
            "right everywhere: "
            + ", ".join(f"{right(one)} of {setting.replicates} (noise {one.start:g})" for one in noisy),
            _noise(noisy),
        ),
        Claim(
            "with a wider first convolution it stops converging for any n and any number of ones (same section)",
            "right everywhere: " + _counts(wide),
            "no" if any(right(one) for one in wide) else "yes" if wide else "undecided",
        ),
        Claim(
            "with more convolutions in between it converges to a solution of low error that is not the exact one: "
            "errors rise with other numbers of ones (same section)",
            "wrong places, medians: "
            + "; ".join(
                f"{a:.2%} on {one.ones} ones as trained, {b:.2%} on others (right everywhere: {right(one)} of "
                f"{setting.replicates})"
                for one, a, b in zip(between, near, far, strict=True)
            ),
            verdict([
                *(a < LOW for a in near), *(b > a for a, b in zip(near, far, strict=True)),
                *(right(one) < setting.replicates / 2 for one in between),
            ]),
        ),
        Claim(
            "so a structure that holds the exact solution does not make training find it (same section)",
            f"random starts of the exact structure that end right everywhere: {sum(right(one) for one in random)} of "
            f"{setting.replicates * len(random)}; share by length: "
            + ", ".join(f"{share:.0%} (n = {n})" for n, share in _by_length(random).items()),
            "yes" if all(right(one) < setting.replicates / 2 for one in long) else "no",
        ),
    ]  # fmt: skip


def _rate(group: list[Trained]) -> str:
    """ "yes" where every case has nine starts in ten right, "partly" where some have most of them right, else "no"."""
    if not group:
        return "undecided"
    shares = [right(one) / len(one.wrong[0]) for one in group]
    return "yes" if min(shares) >= 0.9 else "partly" if max(shares) > 0.5 else "no"


def _noise(group: list[Trained]) -> str:
    """ "yes" where some noise leaves nine starts in ten right: how much noise, the text does not say."""
    if not group:
        return "undecided"
    shares = [right(one) / len(one.wrong[0]) for one in group]
    return "yes" if max(shares) >= 0.9 else "partly" if max(shares) > 0 else "no"


def _counts(group: list[Trained]) -> str:
    named = len({one.structure for one in group}) > 1
    return ", ".join(
        f"{right(one)} of {len(one.wrong[0])} (n = {one.length}, {one.ones} ones"
        + (f", {one.structure.rpartition(', ')[2]})" if named and one.structure in OTHERS else ")")
        for one in group
    )


def _by_length(group: list[Trained]) -> dict[int, float]:
    lengths = sorted({one.length for one in group})
    return {n: float(np.mean([right(one) / len(one.wrong[0]) for one in group if one.length == n])) for n in lengths}

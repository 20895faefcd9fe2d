"""Tables and claims of the study of invariances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from genkernel.experiments.invariances.found import Averages, Reading
from genkernel.experiments.invariances.networks import (
    ATTENTION,
    AUGMENTED,
    BOTH_WAYS,
    CASES,
    CAUSAL,
    CIRCULAR,
    DEEP_SET,
    DENSE,
    DENSE_AUGMENTED,
    DENSE_AVERAGED,
    DENSE_SET,
    EVEN,
    FLAT,
    NORMED,
    ONE_WAY,
    PER_PIXEL,
    POOLED,
    POSITIONS,
    STRIDED,
    ZEROS,
)
from genkernel.experiments.invariances.setting import Setting
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, below, pair
from genkernel.experiments.slopes import slope

EXACT = 1e-12  # of the kernel, relative: rounding in float64
BROKEN = 1e-6  # from which on a deviation cannot be rounding: the invariance is lost
LEARNED = 0.1  # of deviations: at most this part is left where augmentation gives the kernel a symmetry

Readings = Mapping[str, Sequence["Reading"]]


def report(outcome: Outcome, found: Readings, means: Averages, setting: Setting, seed: int) -> None:
    """Add tables, claims, figures and numbers.

    Args:
        found: case → one reading per seed.
        means: over starts.
    """
    from genkernel.plots.invariances import deviations

    outcome.tables += [_cases(found), _means(means)]
    outcome.claims += claims(found, means)
    outcome.numbers = {
        "cases": {
            name: {
                "symmetry": CASES[name].symmetry,
                **{
                    moment: {what: _values(each, moment, what) for what in ("one", "both", "output")}
                    for moment in ("untrained", "trained")
                },
                "accuracy": [one.accuracy for one in each],
                "moved": [one.moved for one in each],
            }
            for name, each in found.items()
        },
        "averages": {"starts": list(means.starts), "one": means.one.tolist(), "both": means.both.tolist()},
    }
    outcome.figures["invariances"] = deviations(
        {name: (CASES[name].symmetry, outcome.numbers["cases"][name]) for name in found},
        EXACT,
        means.starts,
        {"one side": means.one, "both sides": means.both},
        {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"},
    )


def _values(each: Sequence[Reading], moment: str, what: str) -> list[float]:
    return [asdict(getattr(one, moment))[what] for one in each]


def _cases(found: Readings) -> Table:
    """Deviations below rounding are written as what they are bounded by."""
    rows: list[tuple[Any, ...]] = []
    for name, each in found.items():
        rows.append((
            CASES[name].symmetry,
            name,
            *(_size(_values(each, moment, what)) for moment in ("untrained", "trained") for what in ("one", "both")),
            _size(_values(each, "trained", "output")),
            pair([one.accuracy for one in each]),
            pair([one.moved for one in each]),
        ))  # fmt: skip
    return Table(
        "Deviations relative to the kernel, the largest over transformations (means of networks ± standard errors, or "
        "the largest where it is rounding), and accuracies of the task",
        ("symmetry", "network", "K(Tx, x′) untrained", "K(Tx, Tx′) untrained", "K(Tx, x′) trained",
         "K(Tx, Tx′) trained", "output trained", "accuracy", "accuracy on Tx"),
        rows,
    )  # fmt: skip


def _size(values: Sequence[float]) -> str:
    return _tiny(max(values)) if max(values) <= EXACT else pair(values)


def _tiny(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _means(means: Averages) -> Table:
    return Table(
        f"{DENSE}: deviation of the mean kernel of untrained networks under one shift (± standard errors)",
        ("starts in the mean", "K(Tx, x′)", "K(Tx, Tx′)"),
        [(n, pair(means.one[:, k]), pair(means.both[:, k])) for k, n in enumerate(means.starts)],
    )


def claims(found: Readings, means: Averages) -> list[Claim]:
    """What deviations say; exactness is of every network, sizes are means with 95 % intervals over networks."""
    moments = ("untrained", "trained")

    def largest(names: Sequence[str], what: str = "one") -> float:
        return max(max(_values(found[name], moment, what)) for name in names for moment in moments)

    def exact(names: Sequence[str], what: str = "one") -> str:
        return verdict(max(_values(found[n], m, what)) <= EXACT for n in names for m in moments)

    def lost(names: Sequence[str], what: str = "one") -> str:
        """Whether none of them is invariant: "yes" where all intervals are above :data:`BROKEN`."""
        ends = [around(np.array(_values(found[n], m, what)) - BROKEN) for n in names for m in moments]
        return above(*ends)

    def sizes(names: Sequence[str], what: str = "one") -> str:
        return "; ".join(f"{n} {_size(_values(found[n], 'untrained', what))} → "
                         f"{_size(_values(found[n], 'trained', what))}" for n in names)  # fmt: skip

    falls = {side: [slope(means.starts, row) for row in getattr(means, side)] for side in ("one", "both")}
    left = {
        name: np.array(_values(found[name], "trained", "one")) / np.array(_values(found[plain], "trained", "one"))
        for name, plain in ((DENSE_AUGMENTED, DENSE), (AUGMENTED, ONE_WAY))
    }
    answers = {
        name: pair([round(one.moved - one.accuracy, 9) for one in found[name]])
        for name in (CIRCULAR, ZEROS, STRIDED, FLAT, DENSE, DENSE_AUGMENTED, DENSE_AVERAGED)
    }
    steady = [np.array([one.accuracy - one.moved for one in found[name]]) for name in (FLAT, DENSE)]
    return [
        Claim(
            "kernels inherit translation invariance from convolutional networks (Guo, He, Morel, section 6): exactly, "
            "where padding is circular and pixels are averaged, before and after training",
            f"largest deviation of K(Tx, x') of {len(found[CIRCULAR])} networks each: "
            f"{_tiny(largest([CIRCULAR, NORMED]))} ({CIRCULAR}; {NORMED})",
            exact([CIRCULAR, NORMED]),
        ),
        Claim(
            "… and what attention is invariant to, permutations of tokens, from transformers without positions (after "
            "section 6), and from deep sets",
            f"largest deviation {_tiny(largest([ATTENTION, DEEP_SET]))}",
            exact([ATTENTION, DEEP_SET]),
        ),
        Claim(
            "usual convolutional networks inherit it as well (ours: zero padding, a stride, max pooling, or flattened "
            "pixels)",
            sizes([ZEROS, STRIDED, POOLED, FLAT]),
            _opposite(lost([ZEROS, STRIDED, POOLED, FLAT])),
        ),
        Claim(
            "with a stride of two what is left is the invariance to even shifts (ours)",
            f"even shifts {_tiny(largest([EVEN]))}; all shifts {sizes([STRIDED])}",
            exact([EVEN]),
        ),
        Claim(
            "an equivariant output is enough for K(Tx, Tx') = K(x, x'), and not for K(Tx, x') = K(x, x') (ours)",
            f"{PER_PIXEL}: both sides {_tiny(largest([PER_PIXEL], 'both'))}, one side {sizes([PER_PIXEL])}",
            verdict([exact([PER_PIXEL], "both") == "yes", lost([PER_PIXEL]) == "yes"]),
        ),
        Claim(
            "positions and causal masks take the invariance to permutations away (ours)",
            sizes([POSITIONS, CAUSAL, DENSE_SET]),
            lost([POSITIONS, CAUSAL, DENSE_SET]),
        ),
        Claim(
            "a network without the symmetry, averaged over the group, is invariant, and so is its own kernel (ours: it "
            "takes no symmetric layer)",
            f"averaged: output {_tiny(largest([DENSE_AVERAGED, BOTH_WAYS], 'output'))}, kernel "
            f"{_tiny(largest([DENSE_AVERAGED, BOTH_WAYS]))}; not averaged: {sizes([DENSE, ONE_WAY])}",
            verdict([
                exact([DENSE_AVERAGED, BOTH_WAYS]) == "yes", exact([DENSE_AVERAGED, BOTH_WAYS], "output") == "yes",
                lost([DENSE, ONE_WAY]) == "yes",
            ]),
        ),
        Claim(
            "training on transformed samples gives the kernel the symmetry (ours: at most a tenth of the deviation of "
            "the network that never saw them is left)",
            "; ".join(f"{name} {_size(_values(found[name], 'trained', 'one'))}, {pair(values)} of that without"
                      for name, values in left.items()),
            _below(left, LEARNED),
        ),
        Claim(
            "a fully connected network has the symmetry in the mean over starts, of both sides alone (ours: its "
            "deviation falls like one over the root of their number, that of one side does not)",
            f"slopes: both sides {pair(falls['both'])}, one side {pair(falls['one'])}",
            _falls(falls),
        ),
        Claim(
            "it matters for answers: networks whose kernels are not invariant lose accuracy on shifted images (ours; "
            f"{FLAT}, {DENSE})",
            "accuracy on shifted minus that on images as learned: " + "; ".join(f"{n} {v}" for n, v in answers.items()),
            above(*(around(values) for values in steady)),
        ),
    ]  # fmt: skip


def _opposite(found: str) -> str:
    return {"yes": "no", "no": "yes"}.get(found, found)


def _below(ratios: Mapping[str, np.ndarray], level: float) -> str:
    return below(*(around(values) for values in ratios.values()), level=level)


def _falls(slopes: Mapping[str, Sequence[float]]) -> str:
    """Intervals over replicates: within a tenth of −1/2 on both sides, above −1/10 on one side."""
    (low, high), (least, _) = around(slopes["both"]), around(slopes["one"])
    if np.isnan(low) or np.isnan(least):
        return "undecided"
    return verdict([low > -0.6 and high < -0.4, least > -0.1])

"""Tables and claims of the study of sequences with peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up, verdict
from genkernel.experiments.replicates import above, around, is_above, pair
from genkernel.experiments.two_peaks.setting import Case, Setting
from genkernel.experiments.two_peaks.task import Parts

GOOD = 0.99  # accuracy that counts as right everywhere
CLEAR = 0.9  # a share that counts as nearly all
FAILS = 0.05  # accuracy lost from seen to unseen sequences that counts as a failure
MEASURES = ("nearest", "one shared", "regions", "first neighbour", "regression")
PLACES = ("both left", "one in either half", "both right")
Compared = dict[str, dict[Case, list[dict[str, float]]]]


def report(
    outcome: Outcome,
    setting: Setting,
    fits: list[dict[str, float]],
    kernels: list[dict[str, Any]],
    compared: Compared,
    parts: dict[Case, list[Parts]],
    seed: int,
) -> None:
    """Fill an outcome from all that was measured."""
    from genkernel.plots.tangent_embedding import tangent_planes
    from genkernel.plots.two_peaks import two_peaks

    outcome.tables += _tables(setting, fits, kernels, compared, parts)
    outcome.claims += [*_pair_claims(setting, fits, kernels), *_more_claims(compared), *_part_claims(parts)]
    outcome.numbers.update({
        "fits": fits,
        "kernels": [{k: v for k, v in one.items() if k not in ("maps", "places")} for one in kernels],
        "compared": {
            name: [{"peaks": case[0], "samples": case[1], "seeds": rows} for case, rows in cases.items()]
            for name, cases in compared.items()
        },
        "recorded": [
            {"peaks": case[0], "samples": case[1], "seeds": [_plain(one) for one in each]}
            for case, each in parts.items()
        ],
    })  # fmt: skip
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    outcome.figures["two-peaks"] = two_peaks(
        {name: _pairs(kernels, name) for name in ("untrained", "trained")},
        {
            name: {case: [row["unseen"] for row in rows] for case, rows in cases.items()}
            for name, cases in compared.items()
        },
        {case: np.array([p.margin[:-1] for p in each]) for case, each in parts.items()},
        {case: {key: [float(getattr(p, key)) for p in each] for key in ("unseen", "sharing", "none")}
         for case, each in parts.items()},
        CLEAR,
        meta,
    )  # fmt: skip
    outcome.figures["two-peaks-map"] = tangent_planes(
        {name: kernels[0]["maps"][name] for name in ("untrained", "trained")},
        kernels[0]["places"],
        PLACES,
        {"seed": seed, "dtype": "float64"},
        columns=2,
        note="t-SNE of tangent features; two peaks in the same half: class 0",
    )


def _tables(
    setting: Setting,
    fits: list[dict[str, float]],
    kernels: list[dict[str, Any]],
    compared: Compared,
    parts: dict[Case, list[Parts]],
) -> list[Table]:
    chance = kernels[0]["chance"]
    near = Table(
        f"Two peaks, {setting.seeds} seeds: what is near (means ± standard errors). Networks: "
        f"{pair([f['seen'] for f in fits])} of seen and {pair([f['unseen'] for f in fits])} of unseen sequences right",
        ("similarity", f"{setting.neighbours} nearest share one peak", "as many nearest as there are such",
         f"{setting.neighbours} nearest from the same place",
         "unseen right by the nearest seen one", "unseen right by kernel regression"),
        [(name, *(pair([one[name][m] for one in kernels]) for m in MEASURES))
         for name in ("pixels", "untrained", "trained")],
    )  # fmt: skip
    near.rows.append(("chance", chance["one shared"], chance["one shared"], chance["regions"], None, None))
    pairs = Table(
        "Mean normalised kernel of pairs of sequences with two peaks",
        (
            "kernel",
            "none shared, same label",
            "none shared, other label",
            "one shared, same label",
            "one shared, other label",
        ),
        [(name, *(pair(v) for v in _pairs(kernels, name).T)) for name in ("untrained", "trained")],
    )
    accuracy = Table(
        f"Accuracy on seen and unseen sequences, {setting.case_seeds} seeds (means ± standard errors)",
        ("optimizer", "peaks", "training sequences", "seen", "unseen", "mean loss"),
        [
            (name, *case, pair([r["seen"] for r in rows]), pair([r["unseen"] for r in rows]),
             float(np.mean([r["loss"] for r in rows])))
            for name, cases in compared.items()
            for case, rows in cases.items()
        ],
    )  # fmt: skip
    apart = Table(
        f"Adam taken apart on {setting.followed} unseen sequences: contributions times the sign that is right, means "
        f"of {setting.recorded_seeds} seeds; the output before training and the rows sum to the output after it",
        ("peaks", "training sequences", "from", "such sequences", "sum", "each, same label", "each, other label",
         "right by them alone"),
        [row for case, each in parts.items() for row in _apart(case, each)],
    )  # fmt: skip
    return [near, pairs, accuracy, apart]


def _apart(case: Case, each: Sequence[Parts]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [
        (
            *case, f"{k} shared", float(np.mean([p.counts[k] for p in each])), pair([p.margin[k] for p in each]),
            float(np.nanmean([p.each[0, k] for p in each])), float(np.nanmean([p.each[1, k] for p in each])),
            float(np.mean([p.alone[k] for p in each])),
        )
        for k in range(case[0])
    ]  # fmt: skip
    start = [p.margin[-1] for p in each]
    rows.append((*case, "before training", None, pair(start), None, None, None))
    return rows


def _pairs(kernels: list[dict[str, Any]], name: str) -> np.ndarray:
    """Mean cosines ``[seeds, 4]``: none shared and one, each with the same label and the other."""
    return np.array([
        [one[name]["pairs"][label][k] for k in (0, 1) for label in ("same label", "other label")] for one in kernels
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------ claims


def _pair_claims(setting: Setting, fits: list[dict[str, float]], kernels: list[dict[str, Any]]) -> list[Claim]:
    seen, unseen = ([f[key] for f in fits] for key in ("seen", "unseen"))
    value = {name: {m: np.array([one[name][m] for one in kernels]) for m in MEASURES}
             for name in ("pixels", "untrained", "trained")}  # fmt: skip
    maps = {name: [one[name]["map"] for one in kernels if "map" in one[name]] for name in ("untrained", "trained")}
    chance = kernels[0]["chance"]
    split = {name: _pairs(kernels, name) for name in ("untrained", "trained")}
    nearer = {name: v[:, 2] - v[:, 3] for name, v in split.items()}
    gained = nearer["trained"] - nearer["untrained"]
    made = {m: value["trained"][m] - value["untrained"][m] for m in ("nearest", "one shared")}
    spread = [a - b for a, b in zip(maps["trained"], maps["untrained"], strict=True)]
    lost = np.array(unseen) - value["pixels"]["first neighbour"]
    ahead = np.array(unseen) - value["untrained"]["regression"]
    return [
        Claim(
            "with two peaks full-batch gradient descent reaches 100 % on seen and unseen sequences (Courtois et al., "
            f"section 6.3; here above {GOOD:.0%})",
            f"{pair(seen)} and {pair(unseen)}; {sum(s == 1 and u == 1 for s, u in zip(seen, unseen, strict=True))} of "
            f"{setting.seeds} networks are right everywhere",
            above(around(seen), around(unseen), level=GOOD),
        ),
        Claim(
            "no nearest neighbour among inputs solves it: equal distances, different labels (same section)",
            f"unseen sequences right by the nearest inputs: {pair(value['pixels']['first neighbour'])}; by the nearest "
            f"in the trained kernel {pair(value['trained']['first neighbour'])}, in the untrained one "
            f"{pair(value['untrained']['first neighbour'])}; by the network {pair(unseen)}",
            above(around(lost)),
        ),
        Claim(
            "the t-SNE of tangent features splits into three places: both peaks left, one in either half, both right "
            f"(same section; here above {CLEAR:.0%} of the nearest in the map, and more than untrained)",
            f"{setting.neighbours} nearest in the map from the same place: {pair(maps['trained'])}, untrained "
            f"{pair(maps['untrained'])}, chance {kernels[0]['map chance']:.3f}",
            verdict([is_above(around(maps["trained"]), CLEAR), is_above(around(spread))]),
        ),
        Claim(
            "the nearest sequences in the normalised kernel are those that share exactly one peak (same section; here "
            f"above {CLEAR:.0%} of the nearest {setting.neighbours}, and of as many as there are such)",
            f"of the {setting.neighbours} nearest {pair(value['trained']['nearest'])}, of as many nearest as there are "
            f"such {pair(value['trained']['one shared'])}; chance {chance['one shared']:.3f}",
            above(*(around(value["trained"][m]) for m in ("nearest", "one shared")), level=CLEAR),
        ),
        Claim(
            "that is due to training (a control, ours)",
            f"untrained {pair(value['untrained']['nearest'])} and {pair(value['untrained']['one shared'])}, inputs 1 "
            f"and 1; trained minus untrained {pair(made['nearest'])} and {pair(made['one shared'])}",
            above(*(around(v) for v in made.values())),
        ),
        Claim(
            "what training adds is the label: of sequences that share one peak, those of the same label come nearer "
            "than the others (ours)",
            f"difference of the mean normalised kernel: untrained {pair(nearer['untrained'])}, trained "
            f"{pair(nearer['trained'])}",
            above(around(gained)),
        ),
        Claim(
            "the rule takes a kernel that was learned: regression with the untrained kernel misses unseen sequences "
            "that the network has right (ours)",
            f"unseen right: untrained kernel {pair(value['untrained']['regression'])}, trained kernel "
            f"{pair(value['trained']['regression'])}, inputs {pair(value['pixels']['regression'])}",
            above(around(ahead)),
        ),
    ]  # fmt: skip


def _more_claims(compared: Compared) -> list[Claim]:
    more = {name: {case: rows for case, rows in cases.items() if case[0] > 2} for name, cases in compared.items()}
    lost = {case: [r["seen"] - r["unseen"] for r in rows] for case, rows in more["SGD"].items()}
    mended = {case: [r["unseen"] for r in rows] for case, rows in more["Adam"].items()}
    both = [case for case in more["SGD"] if case in more["Adam"]]
    gain = {
        case: [b["unseen"] - a["unseen"] for a, b in zip(more["SGD"][case], more["Adam"][case], strict=True)]
        for case in both
    }
    return [
        Claim(
            "with more than two peaks gradient descent does not keep its accuracy outside of the training set (same "
            f"section; here it loses more than {FAILS})",
            "seen minus unseen: " + _by_case(lost),
            above(*(around(v) for v in lost.values()), level=FAILS),
        ),
        Claim(
            f"Adam mends this (same section; here above {GOOD:.0%} of unseen sequences, for every number of them seen)",
            "unseen right with Adam: " + _by_case(mended),
            above(*(around(v) for v in mended.values()), level=GOOD),
        ),
        Claim(
            "it is the optimizer that mends it, with the same training sequences (ours)",
            "unseen right, Adam minus gradient descent: " + _by_case(gain),
            above(*(around(v) for v in gain.values())),
        ),
    ]  # fmt: skip


def _part_claims(parts: dict[Case, list[Parts]]) -> list[Claim]:
    gap = max(p.gap for each in parts.values() for p in each)
    good = {case: [p for p in each if p.unseen >= CLEAR] for case, each in parts.items()}
    ahead = {case: [_sharing(p) - float(p.margin[0]) for p in draws] for case, draws in good.items() if draws}
    return [
        Claim(
            "there is no formula for Adam (same section); recorded, the contributions sum to the change of the outputs "
            "(Guo, He & Morel, theorem 3.7; here exactly, up to the quadrature)",
            f"largest gap of {sum(len(each) for each in parts.values())} trainings, relative: {gap:.1e}",
            adds_up(gap),
        ),
        Claim(
            "a training sequence moves an unseen one of its label the more the more peaks they share (ours)",
            "contribution of each, by peaks in common: "
            + "; ".join(
                f"{_case(case)}: " + ", ".join(pair([p.each[0, k] for p in each]) for k in range(case[0]))
                for case, each in parts.items()
            ),
            above(
                *(
                    around([p.each[0, k + 1] - p.each[0, k] for p in each])
                    for case, each in parts.items()
                    for k in range(case[0] - 1)
                )
            ),
        ),
        Claim(
            "where unseen sequences are right, training sequences that share a peak with them have made them so, more "
            "than those that share none (ours)",
            f"draws with {CLEAR:.0%} of unseen sequences right, and their sums of contributions towards the right "
            "sign: " + "; ".join(f"{_case(case)}: {_sums(draws, len(parts[case]))}" for case, draws in good.items()),
            above(*(around(v) for v in ahead.values())),
        ),
    ]


def _sharing(one: Parts) -> float:
    """Contributions of all training sequences that share a peak, towards the right sign."""
    return float(one.margin[1:-1].sum())


def _sums(draws: list[Parts], count: int) -> str:
    """Of the draws that are right, among so many: contributions of sequences that share a peak and of others."""
    words = f"{len(draws)} of {count} draws"
    if draws:
        share, none = ([_sharing(p) for p in draws], [float(p.margin[0]) for p in draws])
        words += f", sharing {pair(share)}, not {pair(none)}, difference {pair(np.subtract(share, none))}"
    return words


def _case(case: Case) -> str:
    return f"{case[0]} peaks, {case[1]}"


def _by_case(values: dict[Case, list[float]]) -> str:
    return "; ".join(f"{pair(v)} ({_case(case)})" for case, v in values.items())


def _plain(one: Parts) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(one).items()}

"""Tables and claims of the study of linear machines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from genkernel.experiments.linear_machines.setting import Setting
from genkernel.experiments.linear_machines.task import LINEAR, NETWORKS, OPTIMIZERS, OTHERS
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, is_above, is_within, pair
from genkernel.experiments.slopes import WITHIN, slope

EXACT = 1e-12  # rounding of some hundred steps in float64, with a wide margin
SLOW = 0.2  # of 2/λ: below it the order of the gap in the step size is read off
OUTSIDE = 1e-8  # relative distance from a span that is no rounding
SMOOTH = NETWORKS[:2]
HOMOGENEOUS = NETWORKS[3]
CLASSES = ("separable", "separable, rest", "separable, permuted")


def report(outcome: Outcome, setting: Setting, rows: list[dict[str, Any]], made: dict[str, bool], seed: int) -> None:
    """Fill an outcome from what was measured with each seed."""
    from genkernel.plots.linear_machines import linear_machines

    gaps = {name: np.array([row["gaps"][name] for row in rows]) for name in (*LINEAR, *OTHERS)}
    found = {
        when: {
            name: {key: np.array([row["networks"][name][when][key] for row in rows], dtype=np.float64)
                   for key in rows[0]["networks"][name][when]}
            for name in NETWORKS
        }
        for when in ("untrained", "trained")
    }  # fmt: skip
    outcome.tables += _tables(setting, rows, gaps, found, made)
    outcome.claims += _formula_claims(setting, rows, gaps) + _last_layer_claims(found, made)
    outcome.numbers.update({
        "gaps": {name: values.tolist() for name, values in gaps.items()},
        "optimizers": [row["optimizers"] for row in rows],
        "kernels": [
            {name: {k: row["cosines"][name][k] for k in ("kernel", "moved", "off", "off_most")} for name in LINEAR[:2]}
            for row in rows
        ],
        "networks": {
            when: {name: {key: v.tolist() for key, v in values.items()} for name, values in group.items()}
            for when, group in found.items()
        },
        "one_sine": made,
    })  # fmt: skip
    cosines = rows[0]["cosines"]
    outcome.figures["linear-machines"] = linear_machines(
        setting.speeds,
        {name: (gaps[name], name in LINEAR) for name in gaps},
        cosines["similarity"],
        {name: cosines[name]["cosine"] for name in LINEAR[:2]},
        {name: (values["outside"], values["outside, intercept"]) for name, values in found["trained"].items()},
        {when: {name: [v[c].mean() for c in CLASSES] for name, v in group.items()} for when, group in found.items()},
        {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"},
    )


def _tables(
    setting: Setting, rows: list[dict[str, Any]], gaps: dict[str, Any], found: dict[str, Any], made: dict[str, bool]
) -> list[Table]:
    formula = Table(
        f"What the discrete formula misses, relative to the change of the outputs: median of {setting.seeds} seeds; "
        "step sizes as parts of 2/λ, where descent on a linear machine begins to diverge",
        ("machine", *(f"{speed:g}" for speed in setting.speeds), *list(OPTIMIZERS)[1:]),
        [
            (name, *(float(v) for v in np.median(gaps[name], axis=0)),
             *(float(np.median([row["optimizers"][name][o] for row in rows])) if name in LINEAR else None
               for o in list(OPTIMIZERS)[1:]))
            for name in gaps
        ],
    )  # fmt: skip
    spans = Table(
        "Networks with a linear last layer on a disk and the circle around it, trained. f − ⟨w, φ⟩: with the last "
        "layer's own weights; distances from the span of the other layers' features, relative to f",
        ("network", "parameters", "all points right (seeds)", "f − ⟨w, φ⟩, largest", "from the span of the rest",
         "the same with an intercept"),
        [
            (name, rows[0]["networks"][name]["parameters"], int((v["accuracy"] == 1).sum()),
             float(v["identity"].max()), _spread(v["outside"]), _spread(v["outside, intercept"]))
            for name, v in found["trained"].items()
        ],
    )  # fmt: skip
    classes = Table(
        f"Seeds of {setting.seeds} with linearly separable tangent features ({setting.points} points)",
        ("network", "", "all features", "without the last layer", "permuted labels"),
        [
            (name, when, *(int(found[when][name][c].sum()) for c in CLASSES))
            for name in NETWORKS
            for when in ("untrained", "trained")
        ],
    )
    classes.rows.append(("one sine, by hand", "right everywhere", *(int(made[k]) for k in ("all", "without")), None))
    return [formula, spans, classes]


def _formula_claims(setting: Setting, rows: list[dict[str, Any]], gaps: dict[str, Any]) -> list[Claim]:
    most = {name: float(np.nan_to_num(gaps[name], nan=math.inf).max()) for name in LINEAR}
    others = [float(row["optimizers"][n][o]) for row in rows for n in LINEAR for o in row["optimizers"][n]]
    slow = [i for i, speed in enumerate(setting.speeds) if speed <= SLOW]
    rates = [setting.speeds[i] for i in slow]
    middle = {name: np.median(gaps[name][:, slow], axis=0) for name in OTHERS}
    slopes = {name: [slope(rates, v.tolist()) for v in gaps[name][:, slow]] for name in OTHERS}
    plain = [row["cosines"][LINEAR[0]] for row in rows]
    biased = [row["cosines"][LINEAR[1]] for row in rows]
    rounding = max(max(one["kernel"], one["moved"]) for one in plain)
    apart = max(one["off_most"] for one in plain)
    return [
        Claim(
            "where the machine is linear in its weights the remainder disappears and the discrete formula is exact, at "
            "any step size (Courtois et al., section 4.1)",
            f"largest gap over {setting.seeds} seeds and step sizes from {min(setting.speeds):g} to "
            f"{max(setting.speeds):g} of 2/λ: " + ", ".join(f"{v:.0e} ({name})" for name, v in most.items()),
            verdict(value < EXACT for value in most.values()),
        ),
        Claim(
            "and with mini-batches, momentum and Adam (ours)",
            f"largest gap: {max(others):.0e}",
            verdict([max(others) < EXACT]),
        ),
        Claim(
            "it takes a machine linear in its weights, not in its inputs: two linear layers in a row miss O(η), as a "
            f"network with GELU does (ours): slopes within {WITHIN:g} of 1",
            "; ".join(
                f"{name}: {middle[name][0]:.1e} at {rates[0]:g} of 2/λ, {middle[name][-1]:.1e} at {rates[-1]:g} "
                f"(medians), slope {pair(slopes[name])}"
                for name in OTHERS
            ),
            verdict(is_within(around(np.array(s) - 1), WITHIN) for s in slopes.values()),
        ),
        Claim(
            "the kernel of linear regression is x · x', whatever the weights, and its normalised version is the cosine "
            "similarity (section 4.1)",
            f"largest difference of kernels {rounding:.0e}, of cosines {apart:.0e}",
            verdict([rounding < EXACT, apart < EXACT]),
        ),
        Claim(
            "with a bias it is not: the kernel is x · x' + 1, and cosines are those of (x, 1) (ours)",
            f"kernel minus x · x' minus 1: at most {max(one['kernel'] for one in biased):.0e}; normalised kernel and "
            f"cosine similarity differ by {pair([one['off'] for one in biased])} in the mean over pairs, by "
            f"{pair([one['off_most'] for one in biased])} at most",
            verdict([
                max(one["kernel"] for one in biased) < EXACT,
                is_above(around([one["off"] for one in biased])),
            ]),
        ),
    ]  # fmt: skip


def _last_layer_claims(found: dict[str, Any], made: dict[str, bool]) -> list[Claim]:
    trained, untrained = found["trained"], found["untrained"]
    identity = max(float(v["identity"].max()) for group in found.values() for v in group.values())
    perfect = {name: v["accuracy"] == 1 for name, v in trained.items()}
    count = sum(int(p.sum()) for p in perfect.values())
    right = sum(int(v["right"][perfect[name]].sum()) for name, v in trained.items())
    machines = sum(int(v["separable"][perfect[name]].sum()) for name, v in trained.items())
    rest = sum(int(v["separable, rest"][perfect[name]].sum()) for name, v in trained.items())
    distance = {name: trained[name]["outside"] for name in NETWORKS}
    moved = {name: trained[name]["outside, intercept"] for name in NETWORKS}
    rise = {name: trained[name]["separable"] - untrained[name]["separable"] for name in NETWORKS}
    before = {name: untrained[name]["separable"] for name in NETWORKS}
    permuted = float(np.mean([v["separable, permuted"] for group in found.values() for v in group.values()]))
    return [
        Claim(
            "a network with a linear last layer is a linear function of its own tangent features (section 4.2): f = "
            "⟨w, φ⟩ with the last layer's weights and bias, and zeros for the others",
            f"largest difference, relative to f, untrained and trained: {identity:.0e}",
            verdict([identity < EXACT]),
        ),
        Claim(
            "so, where it is right everywhere, its tangent features are linearly separable (section 4.2)",
            f"{count} trained networks are right on all points: that w separates in {right}, a linear programme finds "
            f"a hyperplane in {machines}",
            verdict([right == count, machines == count]) if count else "undecided",
        ),
        Claim(
            "nothing says so of the features without the last layer (ours): f is not in their span (smooth networks), "
            "and they need not be separable",
            "distance of f from the span, relative, the least and the most: "
            + ", ".join(f"{_spread(distance[name])} ({name})" for name in SMOOTH)
            + f"; one sine, right everywhere by construction: separable {_yes(made['all'])} with the last layer, "
            f"{_yes(made['without'])} without; of the trained networks above {rest} of {count} still are",
            verdict([
                *(bool(distance[name].min() > OUTSIDE) for name in SMOOTH), made["all"] and not made["without"]
            ]),
        ),
        Claim(
            "biases matter (ours): without any, every layer of a ReLU network has weights with f = ⟨w, φ⟩ (Euler), and "
            "taking the last one away changes nothing; with biases f is in the span of the others but for the "
            "last bias",
            f"distance from the span of the others: {_spread(distance[HOMOGENEOUS])} without biases, "
            f"{_spread(distance['ReLU'])} with, {_spread(moved['ReLU'])} with and an intercept, where GELU has "
            f"{_spread(moved['GELU'])} and tanh {_spread(moved['tanh'])}",
            verdict([
                bool(distance[HOMOGENEOUS].max() < OUTSIDE), bool(distance["ReLU"].max() > OUTSIDE),
                bool(moved["ReLU"].max() < OUTSIDE), bool(min(moved["GELU"].min(), moved["tanh"].min()) > OUTSIDE),
            ]),
        ),
        Claim(
            "separable tangent features are due to the training (a control, ours): of every kind of network more have "
            "them after it than before",
            "separable before any training: "
            + ", ".join(f"{int(v.sum())} of {len(v)} ({name})" for name, v in before.items())
            + "; the rise of that share: "
            + ", ".join(f"{pair(v)} ({name})" for name, v in rise.items())
            + f"; permuted labels, which no network was trained on: {permuted:.0%}",
            above(*(around(v) for v in rise.values())),
        ),
    ]  # fmt: skip


def _spread(values: Any) -> str:
    """The least and the most."""
    low, high = f"{float(np.min(values)):.0e}", f"{float(np.max(values)):.0e}"
    return low if low == high else f"{low} to {high}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"

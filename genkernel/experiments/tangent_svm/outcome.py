"""Tables, claims and figures of the study of linear machines on tangent features."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.replicates import above, around, below, pair
from genkernel.experiments.tangent_svm.setting import TASKS, Setting
from genkernel.experiments.tangent_svm.task import (
    HARD,
    MACHINES,
    NETWORK,
    RBF,
    REST,
    TANGENT,
    TUNED,
    UNTRAINED,
    UNTRAINED_REST,
    USUAL,
    WRONG,
    Answers,
)

Array = NDArray[np.float64]

CLOSE = 0.03  # of the square on the wrong side: a boundary that matches closely
MATTERS = 0.01  # of the square: a mean difference that is surely smaller is none
GAINED = 0.05  # accuracy in-sample on permuted labels: what is surely less was not gained
CIRCLE, ELLIPSE = TASKS
SHOWN = (TANGENT, UNTRAINED, RBF, TUNED)  # machines whose boundaries are drawn


def told(outcome: Outcome, found: dict[str, Answers], setting: Setting, seed: int) -> Outcome:
    """Add tables, claims, figures and numbers."""
    from genkernel.plots import tangent_svm as plots

    for task, one in found.items():
        outcome.tables.append(_scores(task, one, setting))
    outcome.tables += [_constants(found), _permuted(found)]
    outcome.claims += _claims(found)
    meta = {"seed": seed, "dtype": "float64"}
    many = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    outcome.figures["tangent-svm"] = plots.boundaries(
        {
            task: (one.points, one.labels, one.truth, {name: one.maps[name] for name in SHOWN},
                   {name: float(one.scores[name].area[0]) for name in MACHINES})
            for task, one in found.items()
        },
        meta, f"{setting.samples} training points",
    )  # fmt: skip
    outcome.figures["tangent-svm-areas"] = plots.areas(
        {task: {name: one.scores[name].area for name in MACHINES} for task, one in found.items()},
        CLOSE, many, f"{setting.samples} training points · mean and 95 % over {setting.seeds} seeds",
    )  # fmt: skip
    outcome.numbers |= {
        task: {
            "machines": {name: {m: v.tolist() for m, v in asdict(s).items()} for name, s in one.scores.items()},
            "permuted": {name: {m: v.tolist() for m, v in each.items()} for name, each in one.permuted.items()},
            "training loss": [v.tolist() for v in one.fitted],
            "constants": one.constants,
            "chosen at an end of the list": one.at_edge,
            "solved": one.solved,
        }
        for task, one in found.items()
    }
    return outcome


def _scores(task: str, one: Answers, setting: Setting) -> Table:
    return Table(
        f"{task.capitalize()}, half-axes {TASKS[task][0]:g} and {TASKS[task][1]:.3g}: mean ± standard error over "
        f"{setting.seeds} seeds; areas in parts of the square",
        ("machine", "in-sample accuracy", "held-out accuracy", "area on the wrong side", "area unlike the network's"),
        [
            (name, pair(s.in_sample), pair(s.held_out), pair(s.area), None if name == NETWORK else pair(s.from_network))
            for name, s in one.scores.items()
        ],
    )  # fmt: skip


def _constants(found: dict[str, Answers]) -> Table:
    def spread(values: list[float]) -> str:
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        return low if low == high else f"{low} to {high}"

    rows = []
    for task, one in found.items():
        for name in (TANGENT, UNTRAINED, REST, UNTRAINED_REST, WRONG, TUNED):
            chosen, edges = one.constants[name], one.at_edge[name]
            gammas = [c["gamma"] for c in chosen if "gamma" in c]
            rows.append((
                task, name, spread([c["C"] for c in chosen]), spread(gammas) if gammas else None,
                f"{sum(bool(e) for e in edges)} of {len(edges)}",
            ))  # fmt: skip
    return Table(
        "Constants chosen on points of their own: least and most over seeds, and seeds whose choice ends the list",
        ("task", "machine", "C", "gamma", "at an end of the list"),
        rows,
    )


def _permuted(found: dict[str, Answers]) -> Table:
    return Table(
        f"Permuted labels: accuracy of a linear machine in tangent space with C = {HARD:g} (held out from it, not from "
        "the network)",
        ("task", "network", "loss of the network", "in-sample", "held out"),
        [
            (task, name, pair(one.fitted[1]) if name == "trained on them" else None, pair(each["in-sample"]),
             pair(each["held out"]))
            for task, one in found.items()
            for name, each in one.permuted.items()
        ],
    )  # fmt: skip


def _claims(found: dict[str, Answers]) -> list[Claim]:
    def area(task: str, name: str) -> Array:
        return found[task].scores[name].area

    def more(name: str, than: str) -> dict[str, Array]:
        return {task: area(task, name) - area(task, than) for task in found}

    def said(values: dict[str, Array]) -> str:
        return ", ".join(f"{pair(v)} ({task})" for task, v in values.items())

    def each(name: str) -> str:
        return said({task: area(task, name) for task in found})

    usual, chosen = more(RBF, TANGENT), more(TUNED, TANGENT)
    before, wrong = more(UNTRAINED, TANGENT), more(WRONG, TANGENT)
    rest, rest_before = more(REST, TANGENT), more(UNTRAINED_REST, REST)
    network = more(NETWORK, TANGENT)
    apart = {task: one.scores[TANGENT].from_network for task, one in found.items()}
    noise = {task: one.permuted["trained on them"]["in-sample"] for task, one in found.items()}
    quiet = {task: one.permuted["untrained"]["in-sample"] for task, one in found.items()}
    return [
        Claim(
            "the boundary of a linear machine on trained tangent features closely matches circle and ellipse (Guo, He "
            f"& Morel, section 5.2, figure 3): less than {CLOSE:g} of the square on the wrong side",
            f"area {each(TANGENT)}; with C = 1 {each(USUAL)}",
            below(*(around(area(task, TANGENT)) for task in found), level=CLOSE),
        ),
        Claim(
            "the RBF machine on the points is competitive on the circle (same section): with the usual constants no "
            f"more than {MATTERS:g} of the square worse",
            f"RBF minus tangent {pair(usual[CIRCLE])}; RBF {pair(area(CIRCLE, RBF))}",
            below(around(usual[CIRCLE]), level=MATTERS),
        ),
        Claim(
            "on the ellipse the RBF machine is less well aligned (same section), with the usual constants",
            f"RBF minus tangent {pair(usual[ELLIPSE])}; RBF {pair(area(ELLIPSE, RBF))}; that is more than on the "
            f"circle by {pair(usual[ELLIPSE] - usual[CIRCLE])}",
            above(around(usual[ELLIPSE])),
        ),
        Claim(
            "it is so as well when width and penalty of the RBF machine are chosen, in the same way as the penalty of "
            "the linear machine (ours)",
            f"chosen RBF minus tangent {said(chosen)}; chosen RBF {each(TUNED)}; minus tangent with C = 1 "
            + said(more(TUNED, USUAL)),
            above(around(chosen[ELLIPSE])),
        ),
        Claim(
            "training makes the tangent features so (same section): those of the untrained network serve worse",
            f"untrained minus trained {said(before)}; untrained {each(UNTRAINED)}",
            above(*(around(v) for v in before.values())),
        ),
        Claim(
            "… training on these labels does: features of networks trained on permuted labels serve worse (ours)",
            f"trained on permuted minus trained {said(wrong)}; minus untrained {said(more(WRONG, UNTRAINED))}",
            above(*(around(v) for v in wrong.values())),
        ),
        Claim(
            "it hangs on the last layer, in whose span the output lies by construction (Courtois et al., section 4.2): "
            "without its block features serve worse",
            f"without minus with {said(rest)}; without it, untrained minus trained {said(rest_before)}",
            above(*(around(v) for v in rest.values())),
        ),
        Claim(
            "the linear machine draws the boundary of the network (after Courtois et al., section 5.1): they differ on "
            f"less than {MATTERS:g} of the square",
            f"they differ on {said(apart)}; the network's wrong area minus the machine's {said(network)}",
            below(*(around(v) for v in apart.values()), level=MATTERS),
        ),
        Claim(
            "separability in-sample that training adds is evidence of structure (THEORY §8): training on permuted "
            f"labels adds less than {GAINED:g}",
            f"C = {HARD:g}: trained on them {said(noise)}, untrained {said(quiet)}; held out "
            + said({task: one.permuted["trained on them"]["held out"] for task, one in found.items()}),
            below(*(around(noise[task] - quiet[task]) for task in found), level=GAINED),
        ),
    ]  # fmt: skip

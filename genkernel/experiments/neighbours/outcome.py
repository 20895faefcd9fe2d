"""What the study of neighbours comes to: tables, claims, figures and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from genkernel.experiments.neighbours.claims import claims
from genkernel.experiments.neighbours.found import Found
from genkernel.experiments.neighbours.setting import ANCHORS, OPTIMIZERS, PARTNERS, SAME, SGD
from genkernel.experiments.neighbours.tables import tables
from genkernel.experiments.neighbours.training import HALF, SIDE, Course, euclidean_nearest
from genkernel.experiments.outcome import Outcome


def told(outcome: Outcome, found: Found) -> Outcome:
    """Add tables, claims, figures and numbers."""
    outcome.tables += tables(found)
    outcome.claims += claims(found)
    _drawn(outcome, found)
    outcome.numbers |= {
        "chance": found.chance,
        "moments": list(found.setting.moments),
        "tried": {f"{loss}, {o}": {str(r): v for r, v in each.items()} for (loss, o), each in found.tried.items()},
        "courses": {f"{loss}, {o}": _plain(c) for (loss, o), c in found.courses.items()},
        "same rates": [_plain(c) for c in found.matched],
    }
    return outcome


def _plain(c: Course) -> dict[str, Any]:
    names = ("loss", "accuracy", "purity", "within", "between", "pairs", "anchored")
    return {"optimizer": c.optimizer, "rate": c.rate} | {n: getattr(c, n).tolist() for n in names} | {
        "at the end": {name: v.tolist() for name, v in c.at_end.items()}
    }  # fmt: skip


def _drawn(outcome: Outcome, found: Found) -> None:
    from genkernel.plots import neighbours as plots

    setting = found.setting
    meta = {"seed": found.seed, "dtype": "float64"}
    many = {"seed": f"{found.seed} to {found.seed + setting.seeds - 1}", "dtype": "float64"}
    x, labels = found.task.x[:, 0].numpy(), (found.task.y[:, 0] > 0).long().numpy()
    anchors = np.array([place for place, _ in ANCHORS.values()])
    classes = [c for _, c in ANCHORS.values()]
    loss = setting.losses[0]
    euclidean = euclidean_nearest(found.task.x[:, 0], setting.neighbours)
    sgd = found.courses[loss, SGD]
    shown = [0, len(setting.moments) // 2, len(setting.moments) - 1]
    columns = {"Euclidean": (euclidean, sgd.regions[-1])} | {
        f"kernel, step {setting.moments[t]}": (sgd.nearest[t], sgd.regions[t]) for t in shown
    }
    note = f"{loss} loss, rate chosen by training loss"
    outcome.figures["neighbours"] = plots.nearest_of_anchors(
        columns, x, labels, anchors, classes, (HALF, SIDE), meta, f"SGD, {note}"
    )
    optimizers = {
        f"{o}\n(rate {found.courses[loss, o].rate:g})": (
            found.courses[loss, o].nearest[-1], found.courses[loss, o].regions[-1]
        )
        for o in OPTIMIZERS
    }  # fmt: skip
    outcome.figures["neighbours-optimizers"] = plots.nearest_of_anchors(
        optimizers, x, labels, anchors, classes, (HALF, SIDE), meta, f"at the end, {loss} loss"
    )
    curves = {key: c.pairs for key, c in found.courses.items()}
    outcome.figures["neighbours-pairs"] = plots.pairs_over_training(
        curves, setting.moments, list(PARTNERS), list(SAME), many
    )
    first = next(iter(found.courses.values()))
    outcome.figures["neighbours-course"] = plots.courses(
        {key: {"purity": c.purity, "contrast": c.contrast, "loss": c.loss} for key, c in found.courses.items()},
        setting.moments, float(first.at_end["Euclidean"].mean()), found.chance, setting.neighbours, many,
    )  # fmt: skip

"""Tables of the study of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from genkernel.experiments.neighbours.found import Found, detours
from genkernel.experiments.neighbours.measures import at_level, mean_over_steps
from genkernel.experiments.neighbours.setting import MOMENTUM, PARTNERS, SGDM
from genkernel.experiments.neighbours.training import Course
from genkernel.experiments.outcome import Table
from genkernel.experiments.replicates import pair


def tables(found: Found) -> list[Table]:
    """In the order of reading."""
    return [_ends(found), _pairs(found), _speeds(found), _same_rates(found), _rates(found)]


def _ends(found: Found) -> Table:
    setting = found.setting
    first = next(iter(found.courses.values()))
    table = Table(
        f"Share of the {setting.neighbours} nearest with the own label, mean over points, ± standard errors over "
        f"{setting.seeds} seeds. Chance {found.chance:.3f}; Euclidean {pair(first.at_end['Euclidean'])}, on fresh "
        f"points {pair(first.at_end['Euclidean, fresh'])}",
        ("loss", "optimizer (rate)", "training loss", "accuracy", "kernel", "kernel, fresh points",
         "kernel, no last layer", "cosines of a class", "of two classes"),
        [("–", "untrained", None, pair(first.accuracy[:, 0]), pair(first.purity[:, 0]),
          pair(first.at_end["untrained, fresh"]), pair(first.at_end["untrained, without last layer"]),
          pair(first.within[:, 0]), pair(first.between[:, 0]))],
    )  # fmt: skip
    for (loss, optimizer), c in found.courses.items():
        table.rows.append((
            loss, f"{optimizer} ({c.rate:g})", pair(c.loss[:, -1]), pair(c.accuracy[:, -1]), pair(c.purity[:, -1]),
            pair(c.at_end["fresh"]), pair(c.at_end["without last layer"]), pair(c.within[:, -1]),
            pair(c.between[:, -1]),
        ))  # fmt: skip
    return table


def _pairs(found: Found) -> Table:
    first = next(iter(found.courses.values()))
    names = list(PARTNERS)[1:]
    rows: list[tuple[Any, ...]] = [("–", "untrained", *(pair(first.pairs[:, 0, 1 + j]) for j in range(len(names))))]
    rows += [
        (loss, optimizer, *(pair(c.pairs[:, -1, 1 + j]) for j in range(len(names))))
        for (loss, optimizer), c in found.courses.items()
    ]
    return Table("K̃(x0, x) of x0 = (1, 0) on the circle, at the end", ("loss", "optimizer", *names), rows)


def _speeds(found: Found) -> Table:
    levels = found.setting.levels
    rows = []
    for (loss, optimizer), c in found.courses.items():
        start = float(c.loss[:, 0].mean())
        rows.append((
            loss, optimizer, pair(mean_over_steps(c.contrast, found.setting.moments)), pair(c.contrast[:, -1]),
            *(_reached(c, level * start) for level in levels), pair(detours(c)),
        ))  # fmt: skip
    return Table(
        "Contrast (mean cosine of pairs of one class minus that of pairs of two): over equal steps, at the end, and "
        "where the training loss first falls to a part of its start; detours of K̃(x0, x), mean of four points",
        ("loss", "optimizer", "mean over steps", "at the end", *(f"at {level:g} of the loss" for level in levels),
         "detour"),
        rows,
    )  # fmt: skip


def _reached(c: Course, level: float) -> str | None:
    values = at_level(c.loss, c.contrast, level)
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return pair(known) + ("" if len(known) == len(values) else f" ({len(known)} of {len(values)})")


def _same_rates(found: Found) -> Table:
    return Table(
        f"SGD with and without momentum at related rates, {found.setting.losses[0]} loss",
        ("optimizer", "rate", "rate / (1 - momentum)", "training loss", "contrast, mean over steps", "at the end"),
        [
            (c.optimizer, c.rate, c.rate / (1 - MOMENTUM if c.optimizer == SGDM else 1), pair(c.loss[:, -1]),
             pair(mean_over_steps(c.contrast, found.setting.moments)), pair(c.contrast[:, -1]))
            for c in found.matched
        ],
    )  # fmt: skip


def _rates(found: Found) -> Table:
    return Table(
        f"Learning rates: training loss at the end, {found.setting.tuning_seeds} seeds of their own",
        ("loss", "optimizer", "rates: losses", "chosen"),
        [
            (loss, o, ", ".join(f"{r:g}: {v:.2g}" for r, v in tried.items()), f"{found.courses[loss, o].rate:g}")
            for (loss, o), tried in found.tried.items()
        ],
    )  # fmt: skip

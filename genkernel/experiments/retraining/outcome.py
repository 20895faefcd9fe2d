"""Predictions held against trainings: correlations, tables, and what they say of the claims."""

from __future__ import annotations

from typing import Any

import numpy as np

from genkernel.experiments.outcome import Claim, Table, adds_up, verdict
from genkernel.experiments.rank_agreement import Agreement, agreement, attainable, chance, difference
from genkernel.experiments.replicates import above
from genkernel.experiments.retraining.predictions import (
    DAMPING,
    DAMPINGS,
    EARLY,
    LAST,
    LATER,
    OURS,
    OUTPUTS,
    TRACIN,
    TRACIN_P,
    TRAK,
    TRUTHS,
    Array,
    Predicted,
    Truth,
    forecast,
    influence_name,
)
from genkernel.experiments.retraining.task import Setting

ATTAINABLE, CHANCE = "attainable", "chance"
OF_SIZE = 1.25  # factor within which predicted and actual changes are of one size
AS_GOOD, HALF = 0.95, 0.5  # shares of the attainable correlation

Results = dict[str, dict[str, dict[str, Any]]]


def compare(runs: list[Predicted], actual: Truth, setting: Setting, seed: int) -> Results:
    """Kind of change → output (and the mean test loss) → method → agreement of means over the batch orders.

    Rows of methods have, beside the numbers of an :class:`Agreement`, ``beyond``: by how much contributions rank better
    (difference, low, high), and ``one_run``: the Spearman of single orders. That of ``attainable`` is what knowing the
    expectation over orders would reach.
    """
    found: Results = {}
    for kind in TRUTHS:
        own = {
            method: np.stack([forecast(one, method, kind, actual.halves) for one in runs]) for method in runs[0].groups
        }
        effects = actual.effects[kind]
        found[kind] = {output: _rows(own, effects, o, setting, seed) for o, output in enumerate(OUTPUTS)}
        losses = {method: said[..., :1].mean(2, keepdims=True) for method, said in own.items()}
        found[kind]["mean loss"] = _rows(losses, effects[..., :1].mean(2, keepdims=True), 0, setting, seed)
    return found


def _rows(own: dict[str, Array], effects: Array, output: int, setting: Setting, seed: int) -> dict[str, Any]:
    """Method → numbers, of predictions and effects ``[S, U, Q, outputs]``."""
    each = effects[..., output]
    mean, draws = each.mean(0), {"seed": seed, "resamples": setting.resamples}
    ours = own[OURS][..., output].mean(0)
    found: dict[str, Any] = {}
    for method, predicted in own.items():
        said = predicted[..., output]
        row: dict[str, Any] = dict(agreement(said.mean(0), mean, **draws).numbers())
        if method != OURS:
            row["beyond"] = difference(ours, said.mean(0), mean, **draws)
        if method != TRAK:  # whose predictions are of all runs together
            alone = [agreement(a, b, resamples=0).spearman for a, b in zip(said, each, strict=True)]
            row["one_run"] = float(np.mean(alone))
        found[method] = row
    found[CHANCE] = chance(mean, seed=seed, draws=max(10, setting.resamples // 2)).numbers()
    nan = float("nan")
    found[ATTAINABLE] = Agreement(attainable(each), nan, nan, nan, nan, nan, *mean.shape).numbers()
    return found


def shown(results: dict[str, Results]) -> list[str]:
    """Methods of the main figure, in order."""
    names = {method for found in results.values() for method in found["groups"]["margin"]}
    wanted = (
        OURS,
        LATER,
        TRACIN,
        TRACIN_P,
        LAST,
        influence_name(DAMPING),
        influence_name(1.0),
        TRAK,
        CHANCE,
        ATTAINABLE,
    )
    return [name for name in wanted if name in names]


def tables(results: dict[str, Results], setting: Setting) -> list[Table]:
    """Every correlation; dampings of influence functions in a table of their own."""
    rows: list[tuple[Any, ...]] = []
    aside: list[tuple[Any, ...]] = []
    for name, found in results.items():
        for kind, outputs in found.items():
            for output, methods in outputs.items():
                for method, row in methods.items():
                    beyond = "{:.2f} [{:.2f}, {:.2f}]".format(*row["beyond"]) if "beyond" in row else None
                    (aside if "λ" in method else rows).append((
                        name, TRUTHS[kind], output, method, row["spearman"], row["low"], row["high"], row["pearson"],
                        row["slope"], row["size"], beyond, row.get("one_run"),
                    ))  # fmt: skip
    columns = (
        "optimizer", "change", "output", "prediction", "Spearman", "2.5 %", "97.5 %", "Pearson", "slope", "size",
        "contributions are better by", "Spearman, one run",
    )  # fmt: skip
    return [
        Table(
            f"What was predicted against what trainings came to, means over {setting.orders} batch orders: mean over "
            f"{setting.queries} queries of correlations over groups, classes or subsets; bootstrap over these; slope "
            "of actual on predicted; size of predicted over actual; 'attainable': what knowing the expectation over "
            "batch orders would reach",
            columns, rows,
        ),
        Table("Influence functions by damping λ, in units of the mean eigenvalue of Gauss-Newton", columns, aside),
    ]  # fmt: skip


def claims(results: dict[str, Results], gap: float, setting: Setting) -> list[Claim]:
    """What was put to the test, decided by margins: differences count where their intervals leave out 0."""

    def row(name: str, kind: str, method: str = OURS) -> dict[str, Any]:
        found: dict[str, Any] = results[name][kind]["margin"][method]
        return found

    def said(kind: str, method: str = OURS, only: str = "") -> str:
        names = [name for name in results if name.startswith(only) and method in results[name][kind]["margin"]]
        return ", ".join(
            f"{one['spearman']:.2f} [{one['low']:.2f}, {one['high']:.2f}] ({name})"
            for name in names
            for one in [row(name, kind, method)]
        )

    def listed(kind: str, key: str, method: str = OURS) -> str:
        return ", ".join(f"{row(name, kind, method)[key]:.2g} ({name})" for name in results)

    rivals = [
        (name, method)
        for name in results
        for method in (TRACIN, TRACIN_P, LAST, TRAK)
        if method in results[name]["halves"]["margin"]
    ]
    best = {name: max(DAMPINGS, key=lambda d: row(name, "halves", influence_name(d))["spearman"]) for name in results}
    share = {name: row(name, "groups")["spearman"] / row(name, "groups", ATTAINABLE)["spearman"] for name in results}
    trainings = len(results) * setting.orders * (setting.groups + 1)
    apart = [
        not 1 / OF_SIZE < row(name, "groups")["size"] < OF_SIZE
        or row(name, "groups")["high"] < row(name, "groups", ATTAINABLE)["spearman"]
        for name in results
    ]
    found = [
        Claim(
            "contributions of all samples add up to what the outputs changed by (replayed tapes)",
            f"largest gap {gap:.1e} of the change",
            adds_up(gap),
        ),
        Claim(
            "a contribution is conditional on the path and on the preconditioner, not the effect of a deletion "
            "(THEORY §3.2)",
            f"Spearman with what {trainings} trainings say of leaving a random group out: {said('groups')}; "
            f"attainable: {listed('groups', 'spearman', ATTAINABLE)}; "
            f"contributions are {listed('groups', 'size')} times as large as effects; slope of effects on them "
            f"{listed('groups', 'slope')}, of classes {listed('classes', 'slope')}, of small changes of weight "
            f"{listed('less', 'slope')}",
            verdict(apart),
        ),
        Claim(
            "contributions rank the deletions of random groups nonetheless, as well as can be had",
            "; ".join(f"{100 * value:.0f} % of the attainable Spearman ({n})" for n, value in share.items()),
            verdict(True if v > AS_GOOD else False if v < HALF else None for v in share.values()),
        ),
        Claim(
            "contributions predict trainings on half of the groups (LDS) better than TracIn-CP, the last weights and "
            "TRAK's formula",
            f"LDS of margins: contributions {said('halves')}; "
            + "; ".join(f"{rival} {said('halves', rival)}" for rival in dict.fromkeys(rival for _, rival in rivals)),
            above(*(row(name, "halves", rival)["beyond"][1:] for name, rival in rivals)),
        ),
        Claim(
            f"… and better than influence functions of the last weights, with the best of {len(DAMPINGS)} dampings",
            f"damping fixed at {DAMPING:g} mean eigenvalues: {said('halves', influence_name(DAMPING))}; best: "
            + ", ".join(
                f"{row(n, 'halves', influence_name(d))['spearman']:.2f} (λ = {d:g}, {n})" for n, d in best.items()
            ),
            above(*(row(n, "halves", influence_name(d))["beyond"][1:] for n, d in best.items())),
        ),
        Claim(
            "Adam's first steps, whose second moments are of a few batches alone, spoil the prediction (a conjecture "
            "of ours: P enlarges what cancels within a batch)",
            f"LDS of margins: {said('halves', OURS, 'Adam')}; with the first {EARLY:.0%} of the steps left out: "
            f"{said('halves', LATER, 'Adam')}",
            above(
                *(
                    (-high, -low)
                    for name in results
                    if name.startswith("Adam")
                    for _, low, high in [row(name, "halves", LATER)["beyond"]]
                )
            ),
        ),
    ]  # fmt: skip
    lengths = list(dict.fromkeys(name.partition(", ")[2] for name in results))
    if len(lengths) > 1:
        pairs = [
            (row(name, "halves"), row(f"{kind}, {lengths[-1]}", "halves"))
            for name in results
            for kind, _, length in [name.partition(", ")]
            if length == lengths[0]
        ]
        found.append(
            Claim(
                "the longer the training, the less contributions say of trainings on other data (ours)",
                f"LDS of margins: {said('halves')}",
                verdict(True if b["high"] < a["low"] else False if b["low"] > a["high"] else None for a, b in pairs),
            )
        )
    return found

"""What the trainings of the study of the effective Gram matrix come to: tables, figures, and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.effective_gram.measures import (
    DATA,
    FEW,
    HALF,
    OTHERS,
    OWN,
    POOLED,
    SOURCES,
    TRAIN,
    Measured,
    OverDraws,
    Setting,
    few_left_out,
    gap_of_others,
    predictions,
)
from genkernel.experiments.effective_gram.ranks import ranks as ranks_of
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.replicates import around

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

CLOSE = 0.1  # a relative error that counts as accurate
SAME = 0.02  # one that is left of an identity by steps of finite size and kinks
MOST, HALF_OF = 0.9, 0.5  # shares of cases that speak for a statement, or do not


def outcome(
    measured: Sequence[Measured],
    over_draws: Sequence[OverDraws],
    setting: Setting,
    settings: dict[str, Any],
    seed: int,
) -> Outcome:
    """All of it."""
    rows = [row(one, setting, seed) for one in measured]
    ranks = ranks_of(rows, seed, setting.resamples)
    correlations = [correlation(one) for one in over_draws]
    claims = _claims(rows, ranks, correlations)
    return Outcome(
        name="effective-gram",
        settings=settings,
        claims=claims,
        tables=[_losses(rows), _sources(rows), _ranking(ranks), _alignment(rows, setting), _draws(correlations)],
        figures=_figures(measured, rows, over_draws, correlations, setting, seed),
        numbers={"cases": rows, "ranks": ranks, "over_draws": correlations},
    )


def row(measured: Measured, setting: Setting, seed: int) -> dict[str, Any]:
    """The numbers of one case: losses at the ``times``, errors by source, alignment."""
    case = measured.case
    marks = [max(1, round(share * setting.steps)) for share in setting.times]
    found = predictions(measured)
    own = found[OWN]
    losses = {name: _over_draws(measured, values, marks) for name, values in _by_run(measured, found).items()}
    actual, predicted = losses["test"]["by_draw"], losses[OWN]["by_draw"]
    apart = predicted[:, -1] - actual[:, -1]
    errors = {
        source: [float(abs(a[-1] - b[-1]) / abs(b[-1])) for a, b in pairs.values()] for source, pairs in found.items()
    }
    errors[FEW] = [few_left_out(run, seed) for run in measured.runs.values()]
    others = gap_of_others(measured)
    if others:
        errors[OTHERS] = [abs(a - b) / abs(b) for a, b in others.values()]
    alignment = list(measured.alignment.values())
    return {
        "name": case.name,
        "task": case.task.name,
        "kind": case.kind,
        "n": case.n,
        "left_out": case.left_out or case.n,
        "lr": measured.lr,
        "losses": {
            name: {"mean": part["mean"].tolist(), "stderr": part["stderr"].tolist()} for name, part in losses.items()
        },
        "gap": float(np.mean([pair[1][-1] for pair in own.values()])),
        "error": float(apart.mean() / actual[:, -1].mean()),
        "error_stderr": float(_stderr(apart) / actual[:, -1].mean()),
        "single": {name: _single(losses, name) for name in losses if name != "test"},
        "errors": {name: {"median": float(np.median(e)), "largest": float(np.max(e))} for name, e in errors.items()},
        "quadratic": float(max(abs(q / float(measured.runs[d, 0].gap[-1]) - 1) for d, q in measured.quadratic.items())),
        "propagator": float(max(measured.propagator.values())),
        "lower_share": [[float(at.lower_share) for at in one] for one in alignment],
        "random": [*alignment[0][-1].random_interval],
        "shuffled": [float(one.lower_share) for one in measured.shuffled.values()],
        "matched": [float(alignment[k][-1].lower_share) for k in measured.shuffled],
        "top_share": [float(one[-1].top_share) for one in alignment],
        "top_gap_share": [float(one[-1].top_gap_share) for one in alignment],
        "random_top_gap_share": [float(one[-1].random_top_gap_share) for one in alignment],
        "gap_ratio": [float(one[-1].gap_ratio) for one in alignment],
        "shuffled_gap_ratio": [float(one.gap_ratio) for one in measured.shuffled.values()],
    }


def _by_run(measured: Measured, found: dict[str, Any]) -> dict[str, dict[tuple[int, int], Array]]:
    """Test loss and what is said of it, by run and step; the other half of the samples is no prediction for all."""
    runs = measured.runs
    said: dict[str, dict[tuple[int, int], Array]] = {"test": {}, TRAIN: {}}
    for key, run in runs.items():
        assert run.test_losses is not None
        said["test"][key] = run.test_losses.numpy()
        said[TRAIN][key] = run.train_losses.numpy()
    for source in (OWN, DATA, POOLED):
        if source in found:
            said[source] = {key: runs[key].train_losses.numpy() + pair[0] for key, pair in found[source].items()}
    return said


def _over_draws(measured: Measured, values: dict[tuple[int, int], Array], marks: Sequence[int]) -> dict[str, Array]:
    """Means over seeds by training set ``[D, times]``, and their mean and standard error."""
    draws = sorted({draw for draw, _ in values})
    by_draw = np.stack([np.mean([v[marks] for (d, _), v in values.items() if d == draw], 0) for draw in draws])
    each = np.stack([values[key][marks] for key in sorted(values)])
    return {"each": each, "by_draw": by_draw, "mean": by_draw.mean(0), "stderr": _stderr(by_draw)}


def _single(losses: dict[str, dict[str, Array]], name: str) -> float:
    """The median over runs of the relative error of what is said of the test loss at the end."""
    test = losses["test"]["each"][:, -1]
    return float(np.median(np.abs(losses[name]["each"][:, -1] - test) / test))


def _stderr(values: Array) -> Any:
    return values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(values.shape[1:], np.nan)


def correlation(one: OverDraws) -> dict[str, Any]:
    """Means and Pearson's correlation of predicted and actual gaps over training sets.

    Intervals are 95 %: of means by Student's t, of the correlation by Fisher's z.
    """
    from scipy.stats import pearsonr

    found = pearsonr(one.predicted, one.actual)
    low, high = found.confidence_interval(0.95)
    apart, test = one.predicted - one.actual, float(one.test.mean())
    return {
        "name": one.case.name,
        "draws": len(one.predicted),
        "correlation": float(found.statistic),
        "low": float(low),
        "high": float(high),
        "predicted": float(one.predicted.mean()),
        "predicted_stderr": float(_stderr(one.predicted)),
        "actual": float(one.actual.mean()),
        "actual_stderr": float(_stderr(one.actual)),
        "predicted_interval": [*around(one.predicted)],
        "actual_interval": [*around(one.actual)],
        "bias": float(apart.mean() / test),
        "bias_stderr": float(_stderr(apart) / test),
        "bias_interval": [end / test for end in around(apart)],
        "each": [one.predicted.tolist(), one.actual.tolist()],
    }


# --------------------------------------------------------------------------------------- claims


def mostly(parts: Iterable[bool]) -> str:
    """ "yes" if nine tenths of the cases say so, "no" if at most half do, "partly" between, "undecided" of none."""
    found = list(parts)
    if not found:
        return "undecided"
    share = sum(found) / len(found)
    return "yes" if share >= MOST else "no" if share <= HALF_OF else "partly"


def sure(shown: Sequence[bool], nominal: Sequence[bool]) -> str:
    """As :func:`mostly`, where cases that only lack precision speak against nothing.

    Args:
        shown: cases that say so beyond their standard errors.
        nominal: cases that say so by their means.
    """
    strict, loose = mostly(shown), mostly(nominal)
    if strict == "yes" or loose in ("no", "undecided"):
        return loose
    return "undecided" if strict == "no" else "partly"


def signs(intervals: Sequence[tuple[float, float]]) -> str:
    """ "yes" if all intervals are above zero, "partly" if some are, "undecided" if all hold zero, else "no"."""
    if not intervals or any(end != end for ends in intervals for end in ends):
        return "undecided"
    above, below = [low > 0 for low, _ in intervals], [high < 0 for _, high in intervals]
    if any(above):
        return "yes" if all(above) else "partly"
    return "no" if any(below) else "undecided"


def within(intervals: Sequence[tuple[float, float]], bound: float) -> str:
    """ "yes" if all intervals are within ±bound, "no" if all are outside, "undecided" if all are on an end."""
    inside = [-bound <= low and high <= bound for low, high in intervals]
    outside = [high < -bound or low > bound for low, high in intervals]
    if not any(inside) and not any(outside):
        return "undecided"
    return "yes" if all(inside) else "no" if all(outside) else "partly"


def _claims(
    rows: Sequence[dict[str, Any]], ranks: dict[str, Any], correlations: Sequence[dict[str, Any]]
) -> list[Claim]:
    count = len(rows)
    whole = [one for one in rows if one["left_out"] == one["n"]]
    identity = _medians(whole, OWN)
    single = [one["single"][OWN] for one in rows]
    close = [error <= CLOSE for error in single]
    gained = [one["single"][OWN] < one["single"][TRAIN] for one in rows]
    biases: list[tuple[float, float]] = [tuple(one["bias_interval"]) for one in correlations]
    pooled = [one for one in rows if POOLED in one["errors"]]
    accurate = [one["errors"][POOLED]["median"] <= CLOSE for one in pooled]
    beats_few = [one["errors"][POOLED]["median"] < one["errors"][FEW]["median"] for one in pooled]
    beats_others = [one["errors"][POOLED]["median"] < one["errors"][OTHERS]["median"] for one in pooled]
    lower = [np.array(one["lower_share"]) for one in rows]
    above = [all(around(share)[0] > 0.5 for share in part.T) for part in lower]
    nominal = [bool((share.mean(0) > 0.5).all()) for share in lower]
    mixed = [one for one in rows if one["shuffled"]]
    more = [min(one["matched"]) > max(one["shuffled"]) for one in mixed]
    ratios = [float(np.mean(one["gap_ratio"])) for one in rows]
    slower = [around(one["gap_ratio"])[1] < 1 for one in rows]
    return [
        Claim(
            "the quadratic form r(0)ᵀ K r(0), with the contraction factor of its own leave-one-out trainings, is their "
            f"gap (THEORY §10; a test of consistency: within {SAME:.0%} in nine tenths of the cases)",
            f"relative differences at the end, medians of {len(whole)} cases where every sample was left out: "
            f"{_range(identity)}",
            mostly(error <= SAME for error in identity),
        ),
        Claim(
            "this analysis can predict the test loss accurately (Yang and Chaudhari, abstract): of a single training "
            "set, with the contraction factor of its own leave-one-out trainings, which makes it leave-one-out "
            f"cross-validation (median error within {CLOSE:.0%} in nine tenths of the cases)",
            f"{sum(close)} of {count} cases; medians {_range(single)}; nearer than the train loss in {sum(gained)} "
            f"(train loss: {_range([one['single'][TRAIN] for one in rows])})",
            mostly(close),
        ),
        Claim(
            "it does in the mean over training sets, which is what it estimates (THEORY §10): the 95 % interval of "
            f"the mean error (Student's t) is within {CLOSE:.0%} of the test loss",
            "; ".join(
                f"{one['name']}: {100 * one['bias']:+.1f} % [{100 * low:+.1f} %, {100 * high:+.1f} %] over "
                f"{one['draws']}, every one with its own initialisation"
                for one, (low, high) in zip(correlations, biases, strict=True)
            ),
            within(biases, CLOSE),
        ),
        Claim(
            "it predicts the gap where the contraction factor comes from other data sets of the kind (ours: a "
            f"prediction in the narrower sense, median error within {CLOSE:.0%} of the leave-one-out gap)",
            f"{sum(accurate)} of {len(pooled)} cases; medians {_range(_medians(pooled, POOLED))} pooled over the other "
            f"sets, {_range(_medians(pooled, DATA))} from one, {_range(_medians(rows, HALF))} between halves of one "
            "set's samples",
            mostly(accurate),
        ),
        Claim(
            "and says more of the gap than leaving out five samples",
            f"smaller median error in {sum(beats_few)} of {len(pooled)} cases ({FEW}: {_range(_medians(pooled, FEW))})",
            mostly(beats_few),
        ),
        Claim(
            "and more than the gap that the other data sets have, without any form",
            f"smaller median error in {sum(beats_others)} of {len(pooled)} cases ({OTHERS}: "
            f"{_range(_medians(pooled, OTHERS))})",
            mostly(beats_others),
        ),
        _rank_claim(ranks),
        Claim(
            "the residual predominantly lies in the subspace with the smallest eigenvalues (Yang and Chaudhari, "
            "abstract): more than half of ‖r(0)‖² in the lower half of the spectrum at every one of the times, by "
            "95 % intervals over training sets (Student's t) with one initialisation; a random direction has half",
            f"{sum(above)} of {count} cases ({sum(nominal)} by their means); shares at the end "
            f"{_range([float(share[:, -1].mean()) for share in lower], percent=False)}",
            sure(above, nominal),
        ),
        Claim(
            "more so than with shuffled labels: every share above all of the same training sets with shuffled "
            "labels, from the same initialisation",
            f"{sum(more)} of {len(mixed)} cases; shuffled "
            f"{_range([float(np.mean(one['shuffled'])) for one in mixed], percent=False)}",
            mostly(more),
        ),
        Claim(
            "the gap accumulates slowly along the residual (Yang and Chaudhari, abstract): less than along random "
            "directions of its length, by 95 % intervals over training sets (Student's t) with one initialisation",
            f"{sum(slower)} of {count} cases ({sum(ratio < 1 for ratio in ratios)} by their means); ratios "
            f"{_range(ratios, percent=False)}; shuffled labels "
            f"{_range([float(np.mean(one['shuffled_gap_ratio'])) for one in mixed], percent=False)}",
            sure(slower, [ratio < 1 for ratio in ratios]),
        ),
        Claim(
            "it follows the test gap of the individual training set (THEORY §10 says not: it estimates an expectation "
            "over data sets): a positive correlation over training sets",
            "; ".join(
                f"{one['name']}: {one['correlation']:.2f} [{one['low']:.2f}, {one['high']:.2f}] over {one['draws']}"
                for one in correlations
            ),
            signs([(one["low"], one["high"]) for one in correlations]),
        ),
    ]


def _rank_claim(ranks: dict[str, Any]) -> Claim:
    """Whether it orders cases, and better than the train loss does."""
    said = []
    for name in (OWN, POOLED):
        if name in ranks:
            one = ranks[name]
            said.append(
                f"{name}: {one['spearman']:.2f} [{one['low']:.2f}, {one['high']:.2f}], {one['more']:.2f} "
                f"[{one['more_low']:.2f}, {one['more_high']:.2f}] more than the train loss"
            )
    return Claim(
        "train loss and form order data sets and networks by their test loss better than the train loss does "
        "(Spearman over cases, mean over the times, basic bootstrap over tasks)",
        f"{'; '.join(said)}; the train loss {ranks[TRAIN]['spearman']:.2f}; {ranks[TRAIN]['tasks']} tasks",
        signs([(ranks[name]["more_low"], ranks[name]["more_high"]) for name in (OWN, POOLED) if name in ranks]),
    )


def _medians(rows: Iterable[dict[str, Any]], source: str) -> list[float]:
    return [one["errors"][source]["median"] for one in rows if source in one["errors"]]


def _range(values: Sequence[float], percent: bool = True) -> str:
    """ "3 % to 9 %, median 5 %"."""
    if not values:
        return "not measured"

    def number(v: float) -> str:
        return f"{100 * v:.2g} %" if percent and v < 1 else f"{100 * v:.0f} %" if percent else f"{v:.2f}"

    return f"{number(min(values))} to {number(max(values))}, median {number(float(np.median(values)))}"


# --------------------------------------------------------------------------------------- tables


def _losses(rows: Sequence[dict[str, Any]]) -> Table:
    def pair(one: dict[str, Any], name: str) -> str:
        part = one["losses"].get(name)
        return "–" if part is None else f"{part['mean'][-1]:.4f} ± {part['stderr'][-1]:.4f}"

    return Table(
        "Losses at the end, means ± standard errors over training sets. Predicted: train loss + r(0)ᵀ K r(0) with the "
        "contraction factor of the same trainings, or of all other data sets",
        (
            "case", "left out", "train", "predicted, own", "predicted, others", "test", "error of own", "± s.e.",
            "of a single set",
        ),
        [
            (
                one["name"], one["left_out"], pair(one, TRAIN), pair(one, OWN), pair(one, POOLED), pair(one, "test"),
                f"{100 * one['error']:+.0f} %", f"{100 * one['error_stderr']:.0f} %",
                f"{100 * one['single'][OWN]:.0f} %",
            )
            for one in rows
        ],
    )  # fmt: skip


def _sources(rows: Sequence[dict[str, Any]]) -> Table:
    names = (*SOURCES, FEW, OTHERS)
    return Table(
        "Error of the gap at the end, relative to the leave-one-out gap: median over runs, by where the contraction "
        "factor comes from; the last two have none",
        ("case", *names),
        [
            (one["name"], *(f"{100 * e['median']:.1f} %" if (e := one["errors"].get(name)) else None for name in names))
            for one in rows
        ],
    )


def _ranking(ranks: dict[str, Any]) -> Table:
    return Table(
        "Rank correlation over cases with the test loss, mean over the times; differences to the train loss by the "
        "paired bootstrap over tasks",
        ("said by", "Spearman", "2.5 %", "97.5 %", "more than the train loss", "2.5 %", "97.5 %"),
        [
            (
                "train loss alone" if name == TRAIN else f"train loss + form, {name}",
                *(one.get(key) for key in ("spearman", "low", "high", "more", "more_low", "more_high")),
            )
            for name, one in ranks.items()
        ],
    )


def _alignment(rows: Sequence[dict[str, Any]], setting: Setting) -> Table:
    shares = {one["name"]: np.array(one["lower_share"]) for one in rows}
    return Table(
        "Share of ‖r(0)‖² in the lower half of the spectrum of K after a part of the steps, and more at the end: means "
        "over training sets with one initialisation, 95 % at the end by Student's t. Gap ratio: over the mean of "
        "random directions of the same length",
        (
            "case", *(f"{share:.0%} of the steps" for share in setting.times), "95 %", "random directions, 95 %",
            "shuffled labels", "gap share of the top 3", "… random", "gap ratio", "95 %", "… shuffled",
            "propagator's error",
        ),
        [
            (
                one["name"], *shares[one["name"]].mean(0).tolist(), _ends(shares[one["name"]][:, -1]),
                f"{one['random'][0]:.2f} to {one['random'][1]:.2f}", _mean(one["shuffled"]),
                _mean(one["top_gap_share"]), _mean(one["random_top_gap_share"]), _mean(one["gap_ratio"]),
                _ends(one["gap_ratio"]), _mean(one["shuffled_gap_ratio"]), f"{one['propagator']:.0e}",
            )
            for one in rows
        ],
    )  # fmt: skip


def _draws(correlations: Sequence[dict[str, Any]]) -> Table:
    return Table(
        "Predicted (own contraction factor) and actual gaps of single training sets at the end",
        (
            "case", "sets", "mean predicted", "± s.e.", "mean actual", "± s.e.", "error / test loss", "95 %",
            "correlation", "2.5 %", "97.5 %",
        ),
        [
            (
                *(one[key] for key in ("name", "draws", "predicted", "predicted_stderr", "actual", "actual_stderr")),
                f"{100 * one['bias']:+.1f} %",
                "{:+.1f} % to {:+.1f} %".format(*(100 * v for v in one["bias_interval"])),
                *(one[key] for key in ("correlation", "low", "high")),
            )
            for one in correlations
        ],
    )  # fmt: skip


def _ends(values: Any) -> str:
    """The 95 % interval of the mean over training sets."""
    return "{:.2f} to {:.2f}".format(*around(values))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


# -------------------------------------------------------------------------------------- figures


def _figures(
    measured: Sequence[Measured],
    rows: Sequence[dict[str, Any]],
    over_draws: Sequence[OverDraws],
    correlations: Sequence[dict[str, Any]],
    setting: Setting,
    seed: int,
) -> dict[str, Figure]:
    from genkernel.plots import effective_gram as plots

    meta = {"seed": seed, "dtype": "float64"}
    shown = [one for one in measured if one.case.kind in ("tanh", "CNN") and one.case.n <= setting.n][:6]
    labels = [f"after {100 * share:g} % of the steps" if share < 1 else "at the end" for share in setting.times]
    return {
        "effective-gram-predicted": plots.predicted_and_actual(rows, OWN, TRAIN, labels, meta),
        "effective-gram-sources": plots.errors_by_source(rows, [*SOURCES, FEW, OTHERS], CLOSE, meta),
        "effective-gram-curves": plots.curves({one.case.name: _curves(one) for one in shown}, meta),
        "effective-gram-alignment": plots.alignment(rows, meta),
        "effective-gram-draws": plots.over_draws(correlations, meta),
    }


def _curves(measured: Measured) -> dict[str, tuple[Array, Array]]:
    """Name → mean and standard error over training sets, by step."""
    runs = measured.runs
    every: dict[str, dict[tuple[int, int], Array]] = _by_run(measured, predictions(measured))
    every["loo"] = {key: (run.train_losses + run.gap).numpy() for key, run in runs.items()}
    steps = range(len(next(iter(runs.values())).train_losses))
    names = {"test": "test loss", TRAIN: "train loss", "loo": "train + leave-one-out gap"}
    names |= {OWN: "train + form, own c̄", POOLED: "train + form, c̄ of other data sets"}
    found = {}
    for key, label in names.items():
        if key in every:
            part = _over_draws(measured, every[key], list(steps))
            found[label] = (part["mean"], part["stderr"])
    return found

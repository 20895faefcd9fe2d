"""Figures of the collapse study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.collapse import statistics
from genkernel.experiments.collapse.interventions import ARMS, mean_cells
from genkernel.experiments.collapse.statistics import Area, Run
from genkernel.gan.indicators import INDICATORS
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.experiments.collapse.study import Record, Study

Array = NDArray[np.float64]

KINDS = {
    "kernel": style.BLUE,
    "drive": style.VERMILION,
    "geometry": style.GREEN,
    "baseline": style.GREY,
}
ARM_COLOURS = dict(zip(ARMS, (style.INK, style.VERMILION, style.BLUE, style.GREY), strict=True))
COURSES = ("occupancy_dominance", "raw_coherence", "kernel_effective_rank", "kernel_mean", "log_volume", "score")


def kind(record: Record) -> str:
    """``"kernel"``, ``"drive"``, ``"geometry"`` or ``"baseline"``."""
    known = INDICATORS.get(record.name)
    return "baseline" if known is None or known.baseline else known.group


@style.house
def areas(study: Study) -> Figure:
    """Areas under the ROC curve of every indicator for the three questions, with intervals over runs."""
    panels = (
        ("end", "at the end\n"),
        ("ahead", "500 steps\nahead"),
        ("ahead_matched", "ahead, equal\noccupancy"),
        ("towards_matched", "outcome, equal\noccupancy"),
    )
    records = sorted(study.records, key=lambda r: r.end.value if math.isfinite(r.end.value) else -1)
    places = np.arange(len(records))
    figure = style.new_figure(0.95 + 0.185 * len(records), width=7.4)
    every = figure.subplots(1, len(panels), sharey=True)
    for axes, (name, words) in zip(every, panels, strict=True):
        axes.axvline(0.5, color=style.MUTED, linewidth=0.8)
        for place, record in zip(places, records, strict=True):
            found: Area = getattr(record, name)
            if not math.isfinite(found.value):
                continue
            colour = KINDS[kind(record)]
            if math.isfinite(found.low):
                axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(found.value, place, "o", color=colour, markersize=4)
        axes.set_title(words, fontsize=9)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    every[0].set_yticks(places, [r.label for r in records], fontsize=8)
    every[0].set_ylim(-0.7, len(records) - 0.3)
    for axes in every:
        axes.set_xlabel("area under the\nROC curve", fontsize=8)
    handles = [_mark(colour) for colour in KINDS.values()]
    every[0].legend(handles, list(KINDS), loc="upper left", fontsize=7.5, handletextpad=0.1, borderpad=0.2)
    first = study.records[0].end
    count = f"{first.positives} collapsed and {first.negatives} healthy runs, {study.drops} with a drop"
    style.footer(figure, {}, f"{count}; bars: 95 % intervals over runs; thresholds are from other seeds")
    return figure


@style.house
def roc_curves(runs: Sequence[Run], study: Study) -> Figure:
    """The ROC curve of every indicator: at the end, and ahead of a drop."""
    columns = 6
    rows = math.ceil(len(study.records) / columns)
    figure = style.new_figure(0.35 + 1.32 * rows, width=7.4)
    every = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, record in zip(every, study.records, strict=False):
        colour = KINDS[kind(record)]
        axes.plot([0, 1], [0, 1], color=style.RULE, linewidth=0.8)
        ahead_scores, ahead_marks, _ = statistics.ahead(runs, record.name, record.worse)
        end_scores, end_marks = statistics.at_the_end(runs, record.name, record.worse)
        for scores, marks, dash, width in (
            (end_scores, end_marks, "-", 1.6),
            (ahead_scores, ahead_marks, (0, (2, 1)), 1.2),
        ):
            x, y = _roc(scores, marks)
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, drawstyle="default")
        axes.set_title(_wrapped(record.label), fontsize=6.6, fontweight="normal", pad=3)
        axes.set_aspect("equal")
        axes.set_xticks([0, 1])
        axes.set_yticks([0, 1])
        axes.tick_params(labelsize=7)
        axes.text(0.97, 0.04, f"{record.end.value:.2f}\n{record.ahead.value:.2f}", transform=axes.transAxes, ha="right",
                  va="bottom", fontsize=6.5, color=style.MUTED)  # fmt: skip
    for axes in every[len(study.records) :]:
        axes.set_visible(False)
    for axes in every[(rows - 1) * columns :]:
        axes.set_xlabel("false positives", fontsize=7)
    for axes in every[::columns]:
        axes.set_ylabel("true positives", fontsize=7)
    style.footer(figure, {}, "solid: collapsed against healthy at the end; dashed: a drop within 500 steps; "
                 "numbers: areas, in this order")  # fmt: skip
    return figure


@style.house
def lead_times(study: Study) -> Figure:
    """How often each indicator gives a false alarm, how often it catches a drop, and how long before."""
    records = sorted(study.records, key=lambda r: r.alarms.early if math.isfinite(r.alarms.early) else -1)
    places = np.arange(len(records))
    figure = style.new_figure(0.9 + 0.185 * len(records), width=7.4)
    rates, leads = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.35))
    for place, record in zip(places, records, strict=True):
        colour, found = KINDS[kind(record)], record.alarms
        rates.plot([100 * found.early, 100 * found.caught], [place, place], color=colour, linewidth=1.2, alpha=0.6)
        rates.plot(100 * found.caught, place, "o", color=colour, markersize=4)
        rates.plot(100 * found.early, place, "o", color=colour, markersize=4, markerfacecolor="white")
        rates.plot(100 * found.false, place, "x", color=style.INK, markersize=4.5)
        if found.leads:
            shift = np.linspace(-0.22, 0.22, len(found.leads)) if len(found.leads) > 1 else np.zeros(1)
            leads.plot(sorted(found.leads), place + shift, ".", color=colour, markersize=3.5, alpha=0.7)
            leads.plot([found.median_lead] * 2, [place - 0.36, place + 0.36], color=style.INK, linewidth=1.4)
    rates.set_yticks(places, [r.label for r in records], fontsize=8)
    rates.set_ylim(-0.7, len(records) - 0.3)
    rates.set_xlim(-3, 103)
    rates.set_xlabel("% of runs")
    rates.set_title("● caught  ○ before the drop\n× false alarm", fontsize=8.5)
    leads.axvline(0, color=style.MUTED, linewidth=0.8)
    leads.set_xlabel("steps from alarm to drop")
    leads.set_title("lead of the alarms that catch\n", fontsize=8.5)
    first = study.records[0].alarms
    style.footer(figure, {}, f"{first.drops} runs with a drop, {first.healthy} healthy runs; thresholds from other "
                 "seeds: 2 % of healthy copies; three copies in a row make an alarm")  # fmt: skip
    return figure


@style.house
def courses(runs: Sequence[Run], names: Sequence[str] = COURSES) -> Figure:
    """Indicators over training, for runs that end healthy and runs that collapse from the start, and around a drop.

    On the left are only runs on the data set that has the most: lengths and levels differ between data sets.
    """
    figure = style.new_figure(0.5 + 1.12 * (len(names) + 1), width=7.4)
    every = figure.subplots(len(names) + 1, 2, sharex="col", sharey="row", squeeze=False)
    # faults that are planted later begin as healthy runs do
    data = Counter(run["data"] for run in runs).most_common(1)[0][0]
    natural = [run for run in runs if run["data"] == data and not run["recipe"].startswith("late")]
    groups = {
        "ends healthy": ([r for r in natural if statistics.outcome(r) == statistics.HEALTHY], style.BLUE),
        "ends collapsed": ([r for r in natural if statistics.outcome(r) == statistics.COLLAPSED], style.VERMILION),
    }
    dropped = [r for r in runs if not r["diverged"] and statistics.drop(r) is not None]
    for k, name in enumerate(["held", *names]):
        left, right = every[k]
        for words, (group, colour) in groups.items():
            if group:
                steps, bands = statistics.by_step(group, lambda r, n=name: _course(r, n))  # type: ignore[misc]
                _band(left, steps, bands, colour, f"{words} ({len(group)})")
        if dropped:
            offsets, bands = _around(dropped, name)
            _band(right, offsets, bands, style.PURPLE, f"loses its modes ({len(dropped)})")
            right.axvline(0, color=style.MUTED, linewidth=0.8)
        left.set_ylabel("modes held" if name == "held" else _wrapped(INDICATORS[name].label, 16), fontsize=7.5)
        for axes in (left, right):
            axes.tick_params(labelsize=7.5)
    every[0][0].legend(fontsize=7, loc="center right")
    every[0][1].legend(fontsize=7, loc="lower left")
    every[-1][0].set_xlabel("generator step")
    every[-1][1].set_xlabel("steps from the drop")
    style.footer(figure, {}, f"medians and quartiles over runs; left: {data}, without planted faults; right: all runs "
                 "that lose half of the modes they held; gaps: −∞")  # fmt: skip
    return figure


@style.house
def interventions(trials: Sequence[dict[str, Any]]) -> Figure:
    """Cells occupied under each arm of the intervention."""
    kinds = list(dict.fromkeys((t["data"], t["start"]) for t in trials))
    figure = style.new_figure(0.4 + 2.1 * len(kinds), width=7.4)
    every = figure.subplots(len(kinds), 2, squeeze=False, width_ratios=(1.5, 1))
    for (time, dots), (data, start) in zip(every, kinds, strict=True):
        group = [t for t in trials if (t["data"], t["start"]) == (data, start)]
        for arm in ARMS:
            mine = sorted((t for t in group if t["arm"] == arm), key=lambda t: t["seed"])
            if not mine:
                continue
            steps = np.array([row["step"] for row in mine[0]["rows"]], dtype=float)
            cells = np.array([[row["cells"] for row in t["rows"]] for t in mine])
            _band(time, steps, np.quantile(cells, [0.25, 0.5, 0.75], axis=0), ARM_COLOURS[arm], _arm(arm))
            place = ARMS.index(arm)
            found = [mean_cells(t) for t in mine]
            dots.plot(place + np.linspace(-0.15, 0.15, len(found)), found, "o", color=ARM_COLOURS[arm], markersize=3.2,
                      alpha=0.75)  # fmt: skip
            dots.plot([place - 0.28, place + 0.28], [np.median(found)] * 2, color=ARM_COLOURS[arm], linewidth=1.8)
        words = "from the first step" if start == "onset" else "a fault in a healthy run"
        time.set_title(f"{data}: {words}", fontsize=9)
        time.set_ylabel("effective number\nof cells", fontsize=8.5)
        time.set_xlabel("steps with the intervention")
        dots.set_xticks(
            range(len(ARMS)), ["nothing", "largest\ncluster", "random\ncluster", "random\nlatents"], fontsize=7
        )
        dots.set_ylabel("mean share of cells", fontsize=8.5)
        dots.set_ylim(0, None)
    every[0][0].legend(fontsize=7.5, title="taken out of every update", title_fontsize=7.5)
    count = len({t["seed"] for t in trials})
    words = "medians and quartiles; the rest of the update is scaled to its former length"
    style.footer(figure, {}, f"{count} seeds for every arm; {words}")
    return figure


def _arm(arm: str) -> str:
    return {"none": "nothing", "dominant": "largest cluster"}.get(arm, arm)


def _course(run: Run, name: str) -> Array:
    if name == "held":
        return np.array([row["held"] / row["modes"] for row in run["rows"]])
    return statistics.values(run, name)


def _around(runs: Sequence[Run], name: str, reach: int = 12) -> tuple[Array, Array]:
    """Quartiles at the same distance from the drop, in copies."""
    found = np.full((len(runs), 2 * reach + 1), math.nan)
    spacing = 1
    for k, run in enumerate(runs):
        at = statistics.drop(run)
        assert at is not None
        curve = _course(run, name)
        spacing = run["rows"][1]["step"] - run["rows"][0]["step"]
        for offset in range(-reach, reach + 1):
            if 0 <= at + offset < len(curve):
                found[k, offset + reach] = curve[at + offset]
    offsets = np.arange(-reach, reach + 1)
    full = (~np.isnan(found)).sum(0) >= max(1, len(runs) // 2)
    return offsets[full] * float(spacing), statistics.quartiles(found[:, full])


def _band(axes: Axes, x: Array, bands: Array, colour: str, label: str) -> None:
    axes.fill_between(x, bands[0], bands[2], color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, bands[1], color=colour, linewidth=1.4, label=label)


def _roc(scores: Sequence[Array], marks: Sequence[NDArray[np.bool_]]) -> tuple[Array, Array]:
    s, m = np.concatenate(list(scores)), np.concatenate(list(marks))
    s, m = s[~np.isnan(s)], m[~np.isnan(s)]
    if not m.any() or m.all():
        return np.array([0.0, 1.0]), np.array([math.nan, math.nan])
    cuts = np.concatenate([[np.inf], np.unique(s)[::-1]])
    return (
        np.array([float(np.mean(s[~m] >= cut)) for cut in cuts]),
        np.array([float(np.mean(s[m] >= cut)) for cut in cuts]),
    )


def _wrapped(text: str, width: int = 20) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _mark(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker="o", linestyle="", markersize=4)

"""The effective Gram matrix: predicted and actual test losses, where predictions fail, where the residual lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
_MARKS = {"linear": "s", "tanh": "o", "ReLU": "^", "CNN": "D"}
_LINES = {
    "test loss": (style.INK, "-"),
    "train loss": (style.GREY, "-"),
    "train + leave-one-out gap": (style.SKY, "-"),
    "train + form, own c̄": (style.BLUE, (0, (4, 2))),
    "train + form, c̄ of other data sets": (style.VERMILION, (0, (1.5, 1.5))),
}


@style.house
def predicted_and_actual(
    rows: Sequence[Mapping[str, Any]], said: str, train: str, labels: Sequence[str], meta: dict[str, Any]
) -> Figure:
    """Predicted against actual test loss, one panel per time, with the train loss alone beside it.

    Args:
        rows: one per case: ``task``, ``kind``, and ``losses`` (name → mean and stderr by time, with ``"test"``).
        said, train: names in ``losses``, of the prediction and of the train loss.
        labels: of the times.
        meta: for the footer.
    """
    figure = style.new_figure(3.9, width=2.4 * len(labels) + 0.6)
    panels = figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0]
    tints = _tints(rows)
    for k, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        for one in rows:
            test, ours, alone = (one["losses"][name] for name in ("test", said, train))
            look = {"color": tints[one["task"]], "marker": _MARKS[one["kind"]]}
            ends = [alone["mean"][k], ours["mean"][k]]
            axes.plot([test["mean"][k]] * 2, ends, color=look["color"], linewidth=0.7, alpha=0.35, zorder=1)
            axes.errorbar(
                test["mean"][k], ours["mean"][k], xerr=test["stderr"][k], yerr=ours["stderr"][k], linestyle="none",
                markersize=4.5, elinewidth=0.8, capsize=0, **look,
            )  # fmt: skip
            axes.plot(
                test["mean"][k], alone["mean"][k], linestyle="none", markersize=3.5, markerfacecolor="none",
                markeredgewidth=0.8, alpha=0.8, **look,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("test loss")
    panels[0].set_ylabel("predicted test loss")
    tests = [v for one in rows for v in one["losses"]["test"]["mean"]]
    said_values = [v for one in rows for name in (said, train) for v in one["losses"][name]["mean"]]
    low, high = 0.8 * min(tests), 1.25 * max(tests)
    bottom = max(0.8 * min(said_values), low / 30)
    for axes in panels:
        axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8, zorder=0.6)
        axes.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color=style.RULE, zorder=0.5)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, 1.25 * max(high, *said_values))
        _plain_ticks(axes, low, high, "x")
        _plain_ticks(axes, bottom, max(high, *said_values), "y")
    _legend(figure, rows, tints)
    style.footer(
        figure,
        meta,
        "filled: train loss + form, own c̄ · open: train loss alone · bars: s.e. over training sets · band: ±10 %",
    )
    return figure


@style.house
def errors_by_source(
    rows: Sequence[Mapping[str, Any]], sources: Sequence[str], close: float, meta: dict[str, Any]
) -> Figure:
    """Relative error of the gap by where the contraction factor comes from: a mark per case, a bar at the median.

    Args:
        rows: one per case: ``task``, ``kind``, ``errors`` (source → median).
        sources: from top to bottom.
        close: where a line is drawn.
        meta: for the footer.
    """
    figure = style.new_figure(0.55 * len(sources) + 1.5, width=6.8)
    axes = figure.subplots()
    tints = _tints(rows)
    floor = 1e-2  # percent: below it an error is that of an identity
    for place, source in enumerate(sources):
        found = [100 * one["errors"][source]["median"] for one in rows if source in one["errors"]]
        for k, one in enumerate(rows):
            if source in one["errors"]:
                shift = 0.72 * ((k + 0.5) / len(rows) - 0.5)  # of a case the same in every row
                axes.plot(
                    max(100 * one["errors"][source]["median"], floor), place + shift, marker=_MARKS[one["kind"]],
                    color=tints[one["task"]], markersize=4.2, linestyle="none",
                )  # fmt: skip
        if found:
            median = max(float(np.median(found)), floor)
            axes.plot([median] * 2, [place - 0.42, place + 0.42], color=style.INK, linewidth=1.4, alpha=0.8, zorder=1.5)
        if place:
            axes.axhline(place - 0.5, color=style.RULE, linewidth=0.6)
    axes.axvline(100 * close, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"≤ {value:g}" if value <= floor else f"{value:g}")
    axes.set_xlim(left=0.6 * floor)
    axes.set_yticks(
        range(len(sources)), [f"c̄: {name}" if k < len(sources) - 2 else name for k, name in enumerate(sources)]
    )
    axes.set_ylim(len(sources) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("error of the gap at the end (% of the gap)")
    _legend(figure, rows, tints)
    style.footer(
        figure, meta, f"mark: median over the runs of a case · bar: median of cases · dashed: {100 * close:.0f} %"
    )
    return figure


@style.house
def curves(panels: Mapping[str, Mapping[str, tuple[Array, Array]]], meta: dict[str, Any], columns: int = 3) -> Figure:
    """Losses along training, means over training sets, bands of a standard error; one panel per case.

    Args:
        panels: title → line → (mean, stderr) by step.
        meta: for the footer.
    """
    columns = 2 if len(panels) == 4 else min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(1.1 + 2.1 * rows, width=2.45 * columns + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        top = 0.0
        for name, (mean, stderr) in lines.items():
            colour, dashes = _LINES[name]
            steps = np.arange(len(mean))
            (handles[name],) = axes.plot(steps, mean, color=colour, linestyle=dashes, linewidth=1.4)
            if name in ("test loss", "train + form, c̄ of other data sets"):
                axes.fill_between(steps, mean - stderr, mean + stderr, color=colour, alpha=0.15, linewidth=0)
            if name == "test loss":
                top = float(mean.max())
        axes.set_ylim(0, 1.1 * top)
        axes.set_title(_broken(title), fontsize=8)
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("loss ½ ‖f − y‖²")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=7.5)
    style.footer(figure, meta, "means over training sets and seeds · bands: s.e. over training sets")
    return figure


@style.house
def alignment(rows: Sequence[Mapping[str, Any]], meta: dict[str, Any]) -> Figure:
    """Where the first residual lies and what the gap along it is, beside random directions and shuffled labels.

    Args:
        rows: one per case: ``name``, ``task``, ``kind``, ``lower_share`` [sets, times], ``random`` (low, high),
            ``shuffled``, ``gap_ratio``, ``shuffled_gap_ratio``.
        meta: for the footer.
    """
    figure = style.new_figure(0.25 * len(rows) + 1.6, width=8.0)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    for place, one in enumerate(rows):
        left.plot(one["random"], [place, place], color=style.RULE, linewidth=9, solid_capstyle="butt", zorder=1)
        shares = np.asarray(one["lower_share"], dtype=np.float64)[:, -1]
        for axes, true, mixed in (
            (left, shares, one["shuffled"]),
            (right, one["gap_ratio"], one["shuffled_gap_ratio"]),
        ):
            axes.plot(true, [place - 0.13] * len(true), "o", color=style.BLUE, markersize=3.6, alpha=0.75, zorder=3)
            axes.plot(
                mixed, [place + 0.17] * len(mixed), "D", color=style.VERMILION, markersize=3.8, markerfacecolor="none",
                zorder=3,
            )  # fmt: skip
        if place and one["task"] != rows[place - 1]["task"]:
            for axes in (left, right):
                axes.axhline(place - 0.5, color=style.MUTED, linewidth=0.5, alpha=0.6)
    left.axvline(0.5, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    right.axvline(1, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    left.set_yticks(range(len(rows)), [one["name"] for one in rows])
    left.tick_params(axis="y", labelsize=7.5)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlim(0, 1)
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(False, axis="y")
    left.set_xlabel("share of ‖r(0)‖² in the lower\nhalf of the spectrum of K")
    right.set_xlabel("r(0)ᵀ K r(0), relative to the mean of\nrandom directions of its length")
    handles = [
        _key("o", style.BLUE, True), _key("D", style.VERMILION, False), _bar(style.RULE), _dashes(),
    ]  # fmt: skip
    names = ["training sets", "shuffled labels", "random directions, 95 %", "random directions, mean"]
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=7.5)
    style.footer(figure, meta, "K at the end of training, of every training set its own · one initialisation per case")
    return figure


@style.house
def over_draws(correlations: Sequence[Mapping[str, Any]], meta: dict[str, Any]) -> Figure:
    """Predicted against actual gaps of single training sets, one panel per case.

    Args:
        correlations: ``name``, ``each`` (predicted, actual), ``predicted`` and ``actual`` with ``_interval``,
            ``correlation``, ``low``, ``high``.
        meta: for the footer.
    """
    figure = style.new_figure(3.7, width=3.2 * len(correlations))
    panels = figure.subplots(1, len(correlations), squeeze=False)[0]
    for axes, one in zip(panels, correlations, strict=True):
        predicted, actual = (np.asarray(v, dtype=np.float64) for v in one["each"])
        low, high = min(predicted.min(), actual.min(), 0.0), 1.08 * max(predicted.max(), actual.max())
        low = 1.08 * low
        axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8, zorder=0)
        axes.plot(actual, predicted, "o", color=style.BLUE, markersize=3.4, alpha=0.65)
        axes.errorbar(
            one["actual"], one["predicted"], xerr=_arms(one, "actual"), yerr=_arms(one, "predicted"),
            color=style.VERMILION, marker="s", markersize=4, elinewidth=1.2,
        )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        ticks = style.nice_ticks(low, high, 4)
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_xlabel("test loss − train loss")
        interval = f"r = {one['correlation']:.2f} [{one['low']:.2f}, {one['high']:.2f}]".replace("-", "\N{MINUS SIGN}")
        axes.text(0.04, 0.96, interval, transform=axes.transAxes, fontsize=8, va="top")
        axes.set_title(_broken(one["name"]), fontsize=8)
    panels[0].set_ylabel("r(0)ᵀ K r(0), own c̄")
    style.footer(figure, meta, "a dot per training set · square: means, 95 % (Student's t) · line: equal")
    return figure


def _arms(one: Mapping[str, Any], name: str) -> Array:
    """How far the interval of a mean reaches down and up ``[2, 1]``."""
    low, high = one[f"{name}_interval"]
    return np.array([[one[name] - low], [high - one[name]]])


def _broken(name: str) -> str:
    """A case's name in two lines: the data set, then the network."""
    task, _, rest = name.rpartition(", n = ")
    task, _, kind = task.rpartition(", ")
    return f"{task}\n{kind}, n = {rest}" if task else name


def _tints(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    tasks = list(dict.fromkeys(one["task"] for one in rows))
    return {task: _COLOURS[k % len(_COLOURS)] for k, task in enumerate(tasks)}


def _key(mark: str, colour: str, filled: bool) -> Any:
    from matplotlib.lines import Line2D

    face = colour if filled else "none"
    return Line2D([], [], color=colour, marker=mark, linestyle="none", markersize=4.5, markerfacecolor=face)


def _bar(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=7)


def _dashes() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))


def _legend(figure: Figure, rows: Sequence[Mapping[str, Any]], tints: Mapping[str, str]) -> None:
    """Colours are data sets, marks are networks."""
    kinds = [kind for kind in _MARKS if any(one["kind"] == kind for one in rows)]
    handles = [_key("o", tint, True) for tint in tints.values()] + [_key(_MARKS[k], style.MUTED, True) for k in kinds]
    names = [*tints, *kinds]
    figure.legend(handles, names, loc="outside upper center", ncols=min(5, len(names)), fontsize=7.5, columnspacing=1.2)


def _plain_ticks(axes: Any, low: float, high: float, which: str) -> None:
    """1, 2, 5 per decade, without powers of ten."""
    values = [m * 10.0**e for e in range(-6, 4) for m in (1, 2, 5)]
    kept = [v for v in values if low <= v <= high]
    if len(kept) > 6:
        kept = [v for v in kept if f"{v:e}"[0] == "1"]
    getattr(axes, f"set_{which}ticks")(kept, [f"{v:g}" for v in kept])
    getattr(axes, f"set_{which}ticks")([], minor=True)

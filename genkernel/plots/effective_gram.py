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
            axes.errorbar(
                test["mean"][k], ours["mean"][k], xerr=test["stderr"][k], yerr=ours["stderr"][k], linestyle="none",
                markersize=4.5, elinewidth=0.8, capsize=0, **look,
            )  # fmt: skip
            axes.plot(
                test["mean"][k], alone["mean"][k], linestyle="none", markersize=3.5, markerfacecolor="none",
                markeredgewidth=0.7, alpha=0.55, **look,
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
        axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8, zorder=0)
        axes.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color=style.RULE, zorder=0)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, 1.25 * max(high, *said_values))
        _plain_ticks(axes, low, high, "x")
        _plain_ticks(axes, bottom, max(high, *said_values), "y")
    _legend(figure, rows, tints)
    style.footer(
        figure,
        meta,
        "filled: train loss + form, own c̄ · open: train loss alone · bars: s.e. over training sets · grey: ±10 %",
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
    figure = style.new_figure(0.42 * len(sources) + 1.5, width=6.6)
    axes = figure.subplots()
    tints = _tints(rows)
    for place, source in enumerate(sources):
        found = [(one, one["errors"][source]["median"]) for one in rows if source in one["errors"]]
        for k, (one, error) in enumerate(found):
            shift = 0.5 * ((k + 0.5) / len(found) - 0.5)
            axes.plot(
                100 * max(error, 1e-5), place + shift, marker=_MARKS[one["kind"]], color=tints[one["task"]],
                markersize=4.2, linestyle="none",
            )  # fmt: skip
        if found:
            median = 100 * float(np.median([error for _, error in found]))
            axes.plot([median, median], [place - 0.36, place + 0.36], color=style.INK, linewidth=1.8)
    axes.axvline(100 * close, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(
        range(len(sources)), [f"c̄: {name}" if k < len(sources) - 2 else name for k, name in enumerate(sources)]
    )
    axes.set_ylim(len(sources) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel("error of the gap at the end (% of the gap)")
    _legend(figure, rows, tints)
    style.footer(figure, meta, f"mark: median over the runs of a case · bar: median of cases · dashed: {close:.0%}")
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
    """Share of the first residual in the lower half of the spectrum, beside random directions and shuffled labels.

    Args:
        rows: one per case: ``name``, ``task``, ``kind``, ``lower_share`` [sets, times], ``random`` (low, high),
            ``shuffled``.
        meta: for the footer.
    """
    figure = style.new_figure(0.25 * len(rows) + 1.35, width=6.4)
    axes = figure.subplots()
    for place, one in enumerate(rows):
        axes.plot(one["random"], [place, place], color=style.RULE, linewidth=7, solid_capstyle="butt", zorder=1)
        shares = np.asarray(one["lower_share"], dtype=np.float64)[:, -1]
        axes.plot(shares, np.full(len(shares), place), "o", color=style.BLUE, markersize=3.6, alpha=0.75, zorder=3)
        mixed = np.asarray(one["shuffled"], dtype=np.float64)
        axes.plot(
            mixed,
            np.full(len(mixed), place),
            "D",
            color=style.VERMILION,
            markersize=3.8,
            markerfacecolor="none",
            zorder=3,
        )
    axes.axvline(0.5, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [one["name"] for one in rows])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(False, axis="y")
    axes.set_xlabel("share of ‖r(0)‖² in the lower half of the spectrum of K")
    handles = [
        _key("o", style.BLUE, True), _key("D", style.VERMILION, False), _bar(style.RULE),
    ]  # fmt: skip
    names = ["training sets", "shuffled labels", "random directions, 95 %"]
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=7.5)
    style.footer(figure, meta, "K at the end of training, of every training set its own")
    return figure


@style.house
def over_draws(correlations: Sequence[Mapping[str, Any]], meta: dict[str, Any]) -> Figure:
    """Predicted against actual gaps of single training sets, one panel per case.

    Args:
        correlations: ``name``, ``each`` (predicted, actual), ``predicted`` and ``actual`` with ``_stderr``,
            ``correlation``, ``low``, ``high``.
        meta: for the footer.
    """
    figure = style.new_figure(3.5, width=3.0 * len(correlations))
    panels = figure.subplots(1, len(correlations), squeeze=False)[0]
    for axes, one in zip(panels, correlations, strict=True):
        predicted, actual = (np.asarray(v, dtype=np.float64) for v in one["each"])
        low, high = min(predicted.min(), actual.min(), 0.0), 1.08 * max(predicted.max(), actual.max())
        low = 1.08 * low
        axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8, zorder=0)
        axes.plot(actual, predicted, "o", color=style.BLUE, markersize=3.4, alpha=0.65)
        axes.errorbar(
            one["actual"], one["predicted"], xerr=2 * one["actual_stderr"], yerr=2 * one["predicted_stderr"],
            color=style.VERMILION, marker="s", markersize=5, elinewidth=1.2,
        )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        ticks = style.nice_ticks(low, high, 4)
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_xlabel("test loss − train loss")
        interval = f"r = {one['correlation']:.2f} [{one['low']:.2f}, {one['high']:.2f}]".replace("-", "\N{MINUS SIGN}")
        axes.set_title(f"{one['name']}\n{interval}", fontsize=8)
    panels[0].set_ylabel("r(0)ᵀ K r(0), own c̄")
    style.footer(figure, meta, "a dot per training set · square: means ± 2 s.e.")
    return figure


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

"""What contributions predict, against what happened; and what recording them costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Cloud = tuple[Array, Array]

_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE)
_DASHED: dict[str, Any] = {"color": style.MUTED, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}


# -------------------------------------------------------------------------------- retraining


@style.house
def retraining_scatter(
    clouds: Mapping[str, Mapping[str, Cloud]],
    titles: Mapping[str, str],
    results: Mapping[str, Any],
    method: str,
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """Predicted against actual changes of margins, one row per optimizer and one column per kind of change.

    Args:
        clouds: optimizer → kind → (predicted ``[U, m]``, actual ``[U, m]``).
        titles: kind → words.
        results: optimizer → kind → output → method → agreement, for the numbers in the panels.
        method: which prediction it is.
        meta, note: for the footer.
    """
    figure = style.new_figure(0.9 + 2.05 * len(clouds), width=2.05 * len(titles) + 0.4)
    grid = figure.subplots(len(clouds), len(titles), squeeze=False)
    optimizers = list(dict.fromkeys(name.partition(",")[0] for name in clouds))
    for row, (name, kinds) in zip(grid, clouds.items(), strict=True):
        color = _COLOURS[optimizers.index(name.partition(",")[0])]
        for axes, kind in zip(row, titles, strict=True):
            predicted, actual = (part - part.mean(0) for part in kinds[kind])
            _cloud(axes, predicted, actual, color)
            one = results[name][kind]["margin"][method]
            _corner(axes, f"ρ = {style.number(round(one['spearman'], 2))}\nslope {one['slope']:.2g}")
        row[0].set_ylabel(f"{name}\nactual change", color=style.INK)
    for axes, title in zip(grid[0], titles.values(), strict=True):
        axes.set_title(_wrapped(title, 24), fontsize=8.6, fontweight="normal")
    for axes in grid[-1]:
        axes.set_xlabel("sum of contributions")
    style.title(figure, "Contributions against what training without the data does to margins")
    style.footer(figure, meta, f"{note} · both centred per query · dashed: equal · ρ: mean Spearman over queries")
    return figure


@style.house
def retraining_bars(
    lengths: Mapping[str, Mapping[str, Any]],
    titles: Mapping[str, str],
    methods: Sequence[str],
    ours: str,
    hollow: str,
    meta: dict[str, Any],
    note: str = "",
    output: str = "margin",
) -> Figure:
    """Rank correlation of every prediction with what happened, with bootstrap intervals; a row per length of training.

    Args:
        lengths: length → optimizer → kind → output → method → agreement.
        titles: kind → words.
        methods: in reading order, from the top.
        ours, hollow: the method that stands out, and the one that is no prediction.
        meta, note: for the footer.
        output: of which output.
    """
    figure = style.new_figure(1.1 + (0.45 + 0.27 * len(methods)) * len(lengths), width=7.6)
    grid = figure.subplots(len(lengths), len(titles), sharey=True, sharex=True, squeeze=False)
    places = np.arange(len(methods))[::-1].astype(float)
    for row, (length, results) in zip(grid, lengths.items(), strict=True):
        for axes, kind in zip(row, titles, strict=True):
            for k, (name, found) in enumerate(results.items()):
                offset = 0.19 * (len(results) - 1 - 2 * k)
                _bars(axes, found[kind][output], methods, (ours, hollow), places + offset, _COLOURS[k], name)
            axes.axvline(0, color=style.GREY, linewidth=0.8)
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
        row[0].set_yticks(places, methods, fontsize=8)
        row[0].set_ylabel(length, fontweight="bold")
    for axes, title in zip(grid[0], titles.values(), strict=True):
        axes.set_title(_wrapped(title, 21), fontsize=8.6, fontweight="normal")
    for axes in grid[-1]:
        axes.set_xlim(-0.22, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_xlabel("Spearman", fontsize=8.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
    style.title(figure, "How well what is predicted ranks what happens")
    style.footer(figure, meta, f"{note} · {output}s, mean over queries · lines: 95 % of the bootstrap")
    return figure


def _bars(
    axes: Axes,
    found: Mapping[str, Any],
    methods: Sequence[str],
    marked: tuple[str, str],
    places: Array,
    color: str,
    name: str,
) -> None:
    """One optimizer's bars."""
    for method, place in zip(methods, places, strict=True):
        one = found.get(method)
        if one is None:
            continue
        ours, hollow = (method == other for other in marked)
        axes.barh(
            place, one["spearman"], height=0.34, linewidth=0.8, edgecolor=color, color="white" if hollow else color,
            alpha=1.0 if ours or hollow else 0.5, label=name if ours else None,
        )  # fmt: skip
        if np.isfinite(one["low"]):
            axes.hlines(place, one["low"], one["high"], color=style.INK, linewidth=0.9)


# ----------------------------------------------------------------------------------- what if

_FORECASTS = {
    "contributions": (style.BLUE, "o"),
    "interference": (style.VERMILION, "s"),
    "own weight": (style.GREY, "D"),
}


@style.house
def what_if(
    actual: Array,
    said: Mapping[str, Array],
    by_level: Mapping[str, Sequence[Mapping[str, float]]],
    against: Mapping[str, Mapping[str, float]],
    uniform: int,
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """Forecast against actual effects of other loss weightings, and how well each level's were ranked.

    Args:
        actual: changes of the losses ``[W, levels]``.
        said: forecast → ``[W, levels]``; the first two are drawn.
        by_level: forecast → agreement of every level.
        against: forecast → agreement over all levels, with ``overall``.
        uniform: the row of uniform weights, which effects are relative to.
        meta, note: for the footer.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    figure = style.new_figure(3.2, width=8.2)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    count = actual.shape[1]
    others = [k for k in range(len(actual)) if k != uniform]
    effects = 1e3 * (actual - actual[uniform])[others]
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, colormaps[style.SEQUENTIAL].N)
    shades = np.broadcast_to(np.arange(count), effects.shape)
    for axes, (name, rows) in zip(panels, list(said.items())[:2], strict=False):
        predicted = 1e3 * (rows - rows[uniform])[others]
        image = axes.scatter(
            predicted.ravel(), effects.ravel(), c=shades.ravel(), cmap=style.SEQUENTIAL, norm=norm, s=13,
            linewidths=0.4, edgecolors="white",
        )  # fmt: skip
        _on_all_scales(axes, predicted.ravel(), effects.ravel())
        axes.set_xlabel("forecast (10⁻³)")
        axes.set_title(f"by {name}", fontsize=9)
        _corner(axes, f"ρ = {style.number(round(against[name]['overall'], 2))}")
    panels[0].set_ylabel("actual effect on the loss (10⁻³)")
    bar = figure.colorbar(image, ax=panels[1], ticks=[0, count - 1], pad=0.02, aspect=30)
    bar.ax.set_yticklabels(["clean", "noise"], fontsize=7.5)
    bar.outline.set_linewidth(0.5)
    axes = panels[2]
    places = np.arange(count)
    for k, (name, found) in enumerate(by_level.items()):
        colour, mark = _FORECASTS[name]
        values = np.array([[one[key] for key in ("spearman", "low", "high")] for one in found]).T
        shift = 0.17 * (k - 1)
        axes.vlines(places + shift, values[1], values[2], color=colour, linewidth=0.9, alpha=0.6)
        label = f"{name} ({style.number(round(against[name]['spearman'], 2))})"
        axes.plot(places + shift, values[0], color=colour, marker=mark, linestyle="none", label=label)
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    axes.set_ylim(max(-1.05, axes.get_ylim()[0]), 1.05)
    axes.set_xticks(places)
    axes.set_xlabel("noise level (0: clean)")
    axes.set_ylabel("Spearman over weightings")
    axes.set_title("level by level (mean above)", fontsize=9)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=7.5, handletextpad=0.1
    )
    style.title(figure, "Other loss weightings, foreseen and seen")
    style.footer(
        figure, meta, f"{note} · effects relative to uniform weights · dashed: equal · lines: 95 % of the bootstrap"
    )
    return figure


# ------------------------------------------------------------------------------------- costs

Measured = Sequence[tuple[int, int, int, Mapping[str, Any]]]


@style.house
def path_costs(
    times: Measured,
    memory: Measured,
    base: tuple[int, int],
    overheads: Mapping[str, Mapping[str, float]],
    stored: Mapping[str, float],
    goal: float,
    large: tuple[int, int, int],
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """Time and memory of recordings, overhead of tapes, storage of a large run.

    Args:
        times, memory: (G, m, P, what was measured).
        base: G and m around which one at a time changes.
        overheads: network → extra time of a tape, ``measured`` and ``long``.
        stored: what is stored → bytes.
        goal: of the overhead.
        large: parameters and steps of the large run, and the steps between two copies of it.
        meta, note: for the footer.
    """
    parameters, steps, every = f"{large[0] / 1e6:g} M", f"{large[1]:,}".replace(",", " "), large[2]
    figure = style.new_figure(5.6, width=8.2)
    (left, right), (lower, last) = figure.subplots(2, 2, height_ratios=(1.15, 1))
    _growth(left, times, base, lambda row: row["factor"])
    left.set_ylabel("time of the loop (its own = 1)")
    left.axhline(1, **_DASHED)
    left.set_title("recording: time", fontsize=9.5)
    rows = [one for one in memory if one[3]["extra_bytes"] is not None]
    for count in sorted({P for _, _, P, _ in rows}):
        own = sorted((G, row["extra_bytes"] / 1e6) for G, m, P, row in rows if count == P and m == base[1])
        color = _COLOURS[sorted({P for _, _, P, _ in rows}).index(count) % len(_COLOURS)]
        right.plot(*zip(*dict(own).items(), strict=True), color=color, marker="o", label=f"P = {count / 1e6:.2g} M")
        G = np.array(sorted({G for G, _ in own}))
        right.plot(G, (2 * G + 2) * count * 4 / 1e6, **(_DASHED | {"color": color}), marker="_" if len(G) == 1 else "")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks(sorted({G for G, _, _, _ in rows}), [str(G) for G in sorted({G for G, _, _, _ in rows})])
    right.minorticks_off()
    right.set_xlabel("groups G")
    right.set_ylabel("extra peak memory (MB)")
    right.set_title("recording: memory", fontsize=9.5)
    right.plot([], [], **(_DASHED | {"color": style.INK}), label="(2 G + 2) P")
    right.legend(fontsize=7.5)
    places = np.arange(len(overheads))[::-1].astype(float)
    for key, shift, color, label in (
        ("measured", 0.18, style.SKY, "a copy every few steps, as run (time on the wall)"),
        ("long", -0.18, style.BLUE, f"a copy every {every} steps, N = {steps} (hooks by their own clock)"),
    ):
        values = [100 * one[key] for one in overheads.values()]
        lower.barh(places + shift, values, height=0.34, color=color, label=label, linewidth=0)
        for place, value in zip(places + shift, values, strict=True):
            lower.annotate(f"{value:.1f} %", (max(value, 0), place), xytext=(3, 0), textcoords="offset points",
                           va="center", fontsize=7)  # fmt: skip
    lower.axvline(100 * goal, **_DASHED)
    lower.set_yticks(places, [_wrapped(name, 22) for name in overheads], fontsize=7)
    lower.set_xscale("symlog", linthresh=3, linscale=0.6)
    top = max(100 * one[key] for one in overheads.values() for key in ("measured", "long"))
    lower.set_xlim(min(0, *(100 * one[k] for one in overheads.values() for k in ("measured", "long"))), 4 * max(top, 3))
    ticks = [v for v in (0, 3, 10, 30, 100, 300) if v <= 2 * max(top, 3)]
    lower.set_xticks(ticks, [str(v) for v in ticks])
    lower.minorticks_off()
    lower.set_xlabel(f"extra time of a tape (%; goal {100 * goal:g})")
    lower.set_title("taping: time", fontsize=9.5)
    lower.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.35, -0.26))
    lower.grid(False, axis="y")
    places = np.arange(len(stored))[::-1].astype(float)
    sizes = np.array([value / 1e12 for value in stored.values()])
    colors = [style.VERMILION, style.VERMILION, style.SKY, style.BLUE, style.GREY]
    last.barh(places, sizes, height=0.6, color=colors[: len(sizes)], linewidth=0)
    for place, value in zip(places, sizes, strict=True):
        last.annotate(
            f"{value:.2g} TB", (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    last.set_xscale("log")
    last.set_xlim(sizes.min() / 3, sizes.max() * 8)
    last.set_yticks(places, [_wrapped(name, 22) for name in stored], fontsize=7)
    last.set_xlabel("TB")
    last.set_title(f"storage: {parameters}, {steps} steps", fontsize=9.5)
    last.grid(False, axis="y")
    style.title(figure, "What recording, taping and storing cost")
    style.footer(figure, meta, note)
    return figure


def _growth(axes: Axes, rows: Measured, base: tuple[int, int], of: Callable[[Mapping[str, Any]], float]) -> None:
    """One line over groups and one over queries, at the size that most rows have."""
    sizes = [P for _, _, P, _ in rows]
    size = max(sizes, key=sizes.count)
    here = [(G, m, of(row)) for G, m, P, row in rows if size == P]
    over_groups = sorted((G, value) for G, m, value in here if m == base[1])
    over_queries = sorted((m, value) for G, m, value in here if base[0] == G)
    for points, color, mark, label in (
        (over_groups, style.BLUE, "o", f"over groups G (m = {base[1]})"),
        (over_queries, style.VERMILION, "s", f"over queries m (G = {base[0]})"),
    ):
        axes.plot(*zip(*points, strict=True), color=color, marker=mark, label=label)
    ticks = sorted({k for k, _ in (*over_groups, *over_queries)})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(k) for k in ticks])
    low, high = min(v for _, _, v in here), max(v for _, _, v in here)
    kept = [v for v in (1, 2, 5, 10, 20, 50, 100, 200) if 0.7 * min(low, 1) <= v <= 1.5 * high]
    axes.set_yticks(kept, [str(v) for v in kept])
    axes.minorticks_off()
    axes.set_xlabel(f"G or m (P = {size / 1e6:.2g} M)")
    axes.legend(fontsize=7.5)


# ------------------------------------------------------------------------------------- parts


def _cloud(axes: Axes, predicted: Array, actual: Array, color: str) -> None:
    x, y = predicted.ravel(), actual.ravel()
    many = x.size > 2000
    axes.scatter(x, y, s=3 if many else 5, color=color, alpha=0.2 if many else 0.4, linewidths=0, rasterized=True)
    _within(axes, x, y)


def _within(axes: Axes, x: Array, y: Array) -> None:
    """Limits around all but the farthest points, zero lines, and where both are equal."""
    for limits, v in ((axes.set_xlim, x), (axes.set_ylim, y)):
        low, high = (float(e) for e in np.quantile(v, [0.002, 0.998]))
        margin = 0.12 * max(high - low, 1e-12)
        limits(low - margin, high + 2 * margin)  # room for the numbers above
    axes.axline((0, 0), slope=1, **_DASHED)
    axes.axhline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=7.5)


def _on_all_scales(axes: Axes, x: Array, y: Array) -> None:
    """Axes that are linear up to the typical effect and logarithmic beyond, and where both are equal.

    A few effects, and most forecasts, are many times as large as the typical effect.
    """
    from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

    typical = float(np.median(np.abs(y[y != 0]))) if np.any(y) else 1.0
    threshold = 10.0 ** round(np.log10(typical))
    for v, axis, scale, limits in (
        (x, axes.xaxis, axes.set_xscale, axes.set_xlim),
        (y, axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        scale("symlog", linthresh=threshold)
        top = (10 if axis is axes.yaxis else 3) * max(threshold, float(np.abs(v).max()))  # room for the number above
        limits(-top, top)
        decades = round(np.log10(top / threshold))
        axis.set_major_locator(SymmetricalLogLocator(base=10.0 ** max(1, -(-decades // 2)), linthresh=threshold))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}".replace("-", "−")))
    far = min(axes.get_xlim()[1], axes.get_ylim()[1])
    line = np.concatenate([-np.geomspace(far, threshold, 50), np.geomspace(threshold, far, 50)])
    axes.plot(line, line, **_DASHED)
    axes.axhline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.tick_params(labelsize=7.5)


def _corner(axes: Axes, text: str) -> None:
    axes.annotate(
        text, (0.03, 0.97), xycoords="axes fraction", ha="left", va="top", fontsize=8, color=style.INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
    )  # fmt: skip


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return textwrap.fill(text, width)

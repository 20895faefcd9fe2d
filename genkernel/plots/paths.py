"""Where outputs came from: contributions of groups of samples to what a network says, along its training.

Contributions are drawn along a direction of the outputs: that of the query's whole change by default, so that
positive (blue) parts helped the change and negative (red) ones were against it; or that of one output, which blue
parts raised and red ones lowered. They have the units of the outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, path_axes, style
from genkernel.plots.group_maps import group_map_figures
from genkernel.plots.path_axes import SIGNED, Query, Rows
from genkernel.plots.stage_maps import stage_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.paths import PathDecomposition

__all__ = [
    "contribution_heat_map",
    "layer_map",
    "path_figures",
    "path_over_time",
    "shares",
    "stage_map",
    "waterfall",
]

LAYERS = 24  # layers with a column of their own


def path_figures(
    parts: PathDecomposition, queries: Sequence[int] = (0,), direction: Any = None, top: int = 8
) -> dict[str, Callable[[], Figure]]:
    """The figures that this decomposition can fill, by file name, in reading order; each is drawn when called.

    Args:
        queries: those that have figures of their own; names of all but the first end in their number.
        direction: as for :meth:`PathDecomposition.along`.
        top: sources with a bar or a line of their own.
    """
    found: dict[str, Callable[[], Figure]] = {}
    for place, query in enumerate(queries):
        if direction is None and not path_axes.has_changed(parts, query):
            continue
        tail = f"_{query}" if place else ""
        found[f"waterfall{tail}"] = partial(waterfall, parts, query, direction, top)
        if len(parts.net) > 1:
            found[f"over_time{tail}"] = partial(path_over_time, parts, query, direction, top)
        if not parts.net.any():  # maps would be blank
            continue
        found[f"contributions{tail}"] = partial(contribution_heat_map, parts, direction, query)
        if len(_layers(parts)) > 1:
            found[f"layers{tail}"] = partial(layer_map, parts, direction, query)
    changed = direction is not None or path_axes.has_changed(parts, "mean")
    if len(parts.final) > 1 and changed and parts.net.any():
        found["contributions_mean"] = partial(contribution_heat_map, parts, direction, "mean")
    if parts.gross.any():
        found["shares"] = partial(shares, parts)
    if "map" in parts.meta:
        found |= group_map_figures(parts)
    return found


# -------------------------------------------------------------------------- source × time


@style.house
def contribution_heat_map(parts: PathDecomposition, direction: Any = None, query: Query | None = None) -> Figure:
    """Contribution of each source in each window of training steps, with its net sum beside it.

    Where the recording has one window there is nothing over time: the net bars are drawn alone, and it is said.

    Args:
        parts: S sources, W windows.
        direction: of the outputs, as for :meth:`PathDecomposition.along`.
        query: its number; ``"mean"`` or None for the mean over all queries.

    Raises:
        InputError: there is no such query or direction.
    """
    query = "mean" if query is None else query
    values = path_axes.along(parts, query, direction)
    found = path_axes.rows(parts, np.abs(values).sum(0))
    cells = found.of(values.T)
    net, count = cells.sum(1), len(found.names)
    resolved = len(values) > 1
    body = path_axes.body_height(found)
    scale, said = path_axes.signed_scale(cells, found.data)
    figure = style.new_figure(body + (2.15 if resolved else 1.25))
    what = f"contribution {path_axes.direction_words(direction, query)}"
    heading = f"What each source did to f, and when: {path_axes.query_words(parts, query)}"
    if not resolved:
        axes = figure.subplots()
        _net_bars(axes, found, net, f"{what} (units of f)")
        axes.locator_params(axis="x", nbins=7)
        path_axes.name_rows(axes, found)
        axes.set_title(
            "one window of time was recorded, so there is no map over time", fontsize=7.6, fontweight="normal",
            color=style.MUTED,
        )  # fmt: skip
        style.title(figure, heading.replace(", and when", ""))
        path_axes.footer(figure, parts, path_axes.color_words(direction))
        return figure
    grid = figure.subplots(
        2, 2, sharex="col", sharey="row", width_ratios=(1, 0.26), height_ratios=(0.5, body), squeeze=False
    )
    (upper, corner), (axes, right) = grid
    corner.set_axis_off()
    edges = np.array(parts.edges, dtype=float)
    image = axes.pcolormesh(edges, np.arange(count + 1) - 0.5, cells, cmap=SIGNED, norm=scale)
    style.map_axes(axes)
    path_axes.set_off(axes, found)
    path_axes.step_axis(axes, parts.edges)
    _net_bars(right, found, net, "net")
    right.locator_params(axis="x", nbins=3)
    right.xaxis.set_major_formatter(lambda value, _: style.number(value))
    right.tick_params(axis="y", labelleft=False, length=0)
    path_axes.name_rows(axes, found)
    path_axes.sum_bars(upper, edges, values.sum(1))
    path_axes.color_bar(figure, image, list(grid.flat), f"{what} per window (units of f)", said)
    style.title(figure, heading)
    path_axes.footer(figure, parts, path_axes.color_words(direction))
    return figure


def _net_bars(axes: Axes, found: Rows, net: np.ndarray, label: str) -> None:
    axes.barh(range(len(net)), net, color=found.colors(net), height=0.72, linewidth=0)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.grid(False, axis="y")
    axes.set_xlabel(label)
    axes.margins(x=0.08)


# ----------------------------------------------------------------------------- start → end


@style.house
def waterfall(parts: PathDecomposition, query: int = 0, direction: Any = None, top: int = 10) -> Figure:
    """From the output before training, source by source, to the output after it.

    The largest contributions come first and the rest is one bar. What the parts miss, the completeness gap, is a bar
    too.

    Args:
        direction: of the outputs, as for :meth:`PathDecomposition.along`; the output itself where there is one only.
        top: groups of samples with a bar of their own.

    Raises:
        InputError: there is no such query or direction.
    """
    given = direction
    direction, what = _shown_direction(parts, query, given)
    values = path_axes.along(parts, query, direction).sum(0)
    path = path_axes.outputs_along(parts, query, direction)
    found = path_axes.rows(parts, np.abs(values), top + 1, by_size=True)
    net = found.of(values)
    start, end = float(path[0]), float(path[-1])
    gap, change = end - start - float(net.sum()), end - start
    steps = np.append(net, gap)
    ends = start + np.cumsum(steps)
    ends[-1] = end
    begins = np.concatenate([[start], ends[:-1]])
    count = len(steps) + 2
    figure = style.new_figure(1.35 + 0.24 * count)
    axes = figure.subplots()
    # along the change blue helps it, also where the one output there is has fallen
    helps = -net if given is None and change < 0 else net
    colors = [*found.colors(helps), style.INK]
    places = np.arange(1, count - 1)
    axes.barh(places, ends - begins, left=begins, color=colors, height=0.66, linewidth=0)
    for place, value in zip(range(count - 1), [start, *ends], strict=True):  # from the end of a bar to the next one
        axes.plot([value, value], [place - 0.33 if place else place, place + 1.33 - (place == count - 2) * 0.33],
                  color=style.MUTED, linewidth=0.7)  # fmt: skip
    axes.plot([start, end], [0, count - 1], "D", color=style.INK, markersize=5.5, zorder=4)
    names = [path_axes.wrap(name) for name in found.names]
    axes.set_yticks(range(count), ["before training", *names, "gap", "after training"], fontsize=8)
    path_axes.dress_names(axes.get_yticklabels()[1:-1], [*found.data, False])
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.use_sticky_edges = False
    axes.margins(x=0.03)
    axes.set_xlabel(f"{what} (units of f)")
    relative = abs(gap / change) if change else float("nan")
    _columns(
        axes,
        ("value", "of the change"),
        [
            (path_axes.exact(start), ""),
            *((path_axes.with_sign(v), path_axes.percent(v / change if change else np.nan)) for v in steps),
            (path_axes.exact(end), ""),
        ],
    )
    style.title(figure, f"From start to end of training, source by source: {path_axes.query_words(parts, query)}")
    axes.set_title(
        f"change {path_axes.with_sign(change)}; {path_axes.gap_words(abs(gap), relative, 'it')}",
        fontsize=8, fontweight="normal", color=style.MUTED,
    )  # fmt: skip
    path_axes.footer(figure, parts, f"{path_axes.color_words(given)}, grey: not data", gap=False)
    return figure


def _shown_direction(parts: PathDecomposition, query: int, direction: Any) -> tuple[Any, str]:
    """The direction along which an output is drawn itself, and what the axis is called."""
    path_axes.check(parts, query, direction)
    if path_axes.is_scalar(parts) and (direction is None or direction == 0):
        return 0, "output f(x)"
    if isinstance(direction, int):
        return direction, f"output {direction} of f(x)"
    return direction, f"f(x) {path_axes.direction_words(direction, query)}"


def _columns(axes: Axes, heads: tuple[str, str], cells: list[tuple[str, str]]) -> None:
    """Two columns of numbers to the right of the bars."""
    across = axes.get_yaxis_transform()
    for column, (head, away) in enumerate(zip(heads, (46, 98), strict=True)):  # points
        axes.annotate(head, (1, 1), (away, 3), xycoords="axes fraction", textcoords="offset points", ha="right",
                      fontsize=6.8, color=style.MUTED)  # fmt: skip
        for place, cell in enumerate(cells):
            axes.annotate(cell[column], (1, place), (away, 0), xycoords=across, textcoords="offset points",
                          ha="right", va="center", fontsize=7.6)  # fmt: skip


# ------------------------------------------------------------------------------- over time


@style.house
def path_over_time(parts: PathDecomposition, query: int = 0, direction: Any = None, top: int = 6) -> Figure:
    """Cumulative contributions of the largest sources over training steps, and whether their sum is f.

    Black: what f did, measured at the edges of the windows; white dashes in it: the sum of all contributions. Below,
    the difference of the two.

    Args:
        direction: of the outputs, as for :meth:`PathDecomposition.along`; the output itself where there is one only.
        top: groups of samples with a line of their own, at most eight; the rest is one line.

    Raises:
        InputError: there is no such query or direction.
    """
    direction, what = _shown_direction(parts, query, direction)
    values = path_axes.along(parts, query, direction)
    path = path_axes.outputs_along(parts, query, direction)
    most = min(top, len(gan_style.PALETTE))
    cumulative = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])
    found = path_axes.rows(parts, np.abs(cumulative).max(0), most + 1, by_size=True)
    lines = found.of(cumulative.T)
    total, moved, edges = cumulative.sum(1), path - path[0], np.array(parts.edges, dtype=float)
    figure = style.new_figure(4.6)
    axes, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 0.2))
    dots = "o" if len(edges) <= 17 else None
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    colors = _line_colors(found)
    for values_of, (color, dashes) in zip(lines, colors, strict=True):
        axes.plot(
            edges, values_of, color=color, linestyle=dashes, marker=dots, markersize=2.6, linewidth=1.4, clip_on=False
        )
    axes.plot(edges, moved, color=style.INK, linewidth=2.6, marker=dots, markersize=4, clip_on=False)
    axes.plot(edges, total, color="white", linewidth=1, linestyle=(0, (2.5, 2.5)))
    path_axes.step_axis(lower, parts.edges)
    axes.tick_params(axis="x", labelbottom=False)
    axes.set_ylabel("change (units of f)")
    axes.set_title(f"{what}; white dashes: sum of all sources", fontsize=8, fontweight="normal", color=style.MUTED)
    _name_lines(axes, found, lines, colors, float(moved[-1]))
    gap = moved - total
    lower.axhline(0, color=style.GREY, linewidth=0.8)
    lower.plot(edges, gap, color=style.INK, linewidth=1.2, marker=dots, markersize=2.6, clip_on=False)
    lower.set_ylabel("f − sum", fontsize=8)
    lower.tick_params(axis="y", labelsize=7)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    lower.yaxis.get_offset_text().set_fontsize(7)
    lower.locator_params(axis="y", nbins=3)
    figure.align_ylabels()
    style.title(figure, f"Contributions over training: {path_axes.query_words(parts, query)}")
    path_axes.footer(figure, parts, "one window: straight lines" if len(values) == 1 else "")
    return figure


def _line_colors(found: Rows) -> list[tuple[str, Any]]:
    """Colours and dashes: of groups by rank, of the rest, of what is not data."""
    grey: list[Any] = ["-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5))]
    taken, colors = 0, []
    for place, (data, members) in enumerate(zip(found.data, found.members, strict=True)):
        if not data:
            colors.append((style.GREY, grey[(place - sum(found.data)) % len(grey)]))
        elif len(members) > 1:
            colors.append((style.MUTED, (0, (5, 1.5))))
        else:
            colors.append((gan_style.PALETTE[taken % len(gan_style.PALETTE)], "-"))
            taken += 1
    return colors


def _name_lines(axes: Axes, found: Rows, lines: np.ndarray, colors: list[tuple[str, Any]], whole: float) -> None:
    """Names at the right ends of lines, moved apart where these meet."""
    names = [path_axes.wrap(name) for name in found.names] + ["f itself"]
    apart = 0.078 if any("\n" in name for name in names) else 0.056
    ends = np.append(lines[:, -1], whole)
    low, high = axes.get_ylim()
    places = path_axes.spread(
        ends.tolist(), apart * (high - low), low + 0.02 * (high - low), high - 0.02 * (high - low)
    )
    across = axes.get_yaxis_transform()
    for name, end, place, color in zip(names, ends, places, [*(c for c, _ in colors), style.INK], strict=True):
        axes.plot([1.0, 1.035], [end, place], color=color, linewidth=0.7, transform=across, clip_on=False)
        axes.text(1.045, place, name, transform=across, va="center", fontsize=6.4 if "\n" in name else 7.4,
                  linespacing=1.0, color=color if color != style.GREY else style.MUTED,
                  fontweight="bold" if name == "f itself" else "normal")  # fmt: skip
    axes.set_ylim(low, high)


# ----------------------------------------------------------------------------------- shares


@style.house
def shares(parts: PathDecomposition) -> Figure:
    """Net, gross and signed share of each source, and how much of its gross part is left in the net one.

    Net: norms of what is left after training; gross: summed sizes of what was done on the way, to and fro; both as
    shares of all sources. Signed: the part of the change itself, which sums to 1. Bars are means over queries and
    lines the range over them.

    Raises:
        InputError: all contributions are zero.
    """
    net, gross, signed_parts = (t.numpy() for t in (parts.net_size(), parts.gross_size(), parts.signed()))
    if not gross.any():
        raise InputError("no source moved f: all contributions are zero, so none has a share")
    found = path_axes.rows(parts, gross.mean(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [
            ("net", "net share\n(%)", 100 * found.of(net / net.sum(0))),
            ("gross", "gross share\n(%)", 100 * found.of(gross / gross.sum(0))),
            ("signed", "signed share\n(%)", 100 * found.of(signed_parts)),
            ("cancellation", "net / gross\n(1: one way)", found.of(net) / found.of(gross)),
        ]
    count = len(found.names)
    figure = style.new_figure(1.5 + path_axes.body_height(found, 0.8))
    panels = figure.subplots(1, 4, sharey=True)
    for axes, (name, label, values) in zip(panels, columns, strict=True):
        mean, low, high = _over_queries(values)
        places = np.arange(count)
        if name == "cancellation":
            axes.hlines(places, low, high, color=style.RULE, linewidth=3)
            axes.scatter(mean, places, s=16, color=[style.INK if d else style.GREY for d in found.data], zorder=3)
            axes.set_xlim(-0.03, 1.03)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        else:
            color = {"net": style.SKY, "gross": style.ORANGE}.get(name)
            axes.barh(
                places, np.nan_to_num(mean), height=0.72, linewidth=0,
                color=found.colors(mean) if color is None else [color if d else style.GREY for d in found.data],
            )  # fmt: skip
            if values.shape[1] > 1:
                axes.hlines(places, low, high, color=style.INK, linewidth=0.8)
            _cut(axes, found, mean, low, high)
            axes.locator_params(axis="x", nbins=3)
            axes.axvline(0, color=style.GREY, linewidth=0.8)
        axes.set_xlabel(label, fontsize=8.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        path_axes.set_off(axes, found)
        if not np.isfinite(values).any():
            axes.set_xticks([0.0], [" "])
            axes.text(0.5, 0.5, "f did not\nchange", transform=axes.transAxes, ha="center", va="center", fontsize=8,
                      color=style.MUTED, backgroundcolor="white")  # fmt: skip
    path_axes.name_rows(panels[0], found)
    style.title(figure, "Net, gross and signed share of each source")
    queries = len(parts.final)
    lines = f"mean and range over {queries} queries" if queries > 1 else "one query"
    if not np.isfinite(signed_parts).any():
        lines += "; nothing changed"
    path_axes.footer(figure, parts, lines)
    return figure


def _cut(axes: Axes, found: Rows, mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The sum over many small groups does not press the bars of the large ones: it ends at the edge, with its value."""
    alone = [len(members) == 1 for members in found.members]
    if all(alone) or not np.isfinite(mean).all():
        return
    end = float(high[alone].max())
    rest = alone.index(False)
    if mean[rest] > 2 * end > 0:
        axes.set_xlim(min(0.0, float(low[alone].min())), 1.15 * end)
        axes.annotate(f"{mean[rest]:.0f} →", (1, rest), (-2, 0), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", ha="right", va="center", fontsize=6.6, color="white",
                      fontweight="bold")  # fmt: skip


def _over_queries(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, smallest and largest over the queries for which there is a number ``[R, m]`` → three of ``[R]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row without any number is NaN
        return np.nanmean(values, 1), np.nanmin(values, 1), np.nanmax(values, 1)


# ----------------------------------------------------------------------------------- layers


@style.house
def layer_map(parts: PathDecomposition, direction: Any = None, query: Query | None = None) -> Figure:
    """Contribution of each source through each layer, and what went through each layer in all.

    Args:
        direction: of the outputs, as for :meth:`PathDecomposition.along`.
        query: its number; ``"mean"`` or None for the mean over all queries.

    Raises:
        InputError: layers were not resolved, or there is no such query or direction.
    """
    if len(parts.layers) < 2:
        raise InputError("this decomposition has no layers to draw: record with layers=True")
    query = "mean" if query is None else query
    # layers in the place of windows, so that a direction means the same for both
    by_layer = replace(parts, net=parts.net.sum(0, keepdim=True).transpose(0, 2))
    kept = _layers(parts)
    values, names = _largest_layers(
        path_axes.along(by_layer, query, direction)[kept], path_axes.short_names([parts.layers[i] for i in kept], 30)
    )
    found = path_axes.rows(parts, np.abs(values).sum(0))
    cells = found.of(values.T)
    count = len(found.names)
    body = path_axes.body_height(found)
    wide = max(map(len, names)) * len(names) > 60  # letters that fit below the map
    depth = 0.045 * max(map(len, names)) if wide else 0.0
    figure = style.new_figure(body + depth + 2.05)
    upper, axes = figure.subplots(2, 1, sharex=True, height_ratios=(0.5, body))
    scale, said = path_axes.signed_scale(cells[:, : LAYERS - 1], found.data)
    largest, limit = float(np.abs(cells).max()), float(scale.vmax or 0)
    if largest > limit:  # the sum over small layers would make all others pale
        beyond = f"colours end at ±{path_axes.exact(limit, 2)}: {names[-1]} go to ±{path_axes.exact(largest, 2)}"
        said = f"{said}\n{beyond}" if said else beyond
    edges = np.arange(len(names) + 1) - 0.5
    image = axes.pcolormesh(edges, np.arange(count + 1) - 0.5, cells, cmap=SIGNED, norm=scale)
    style.map_axes(axes)
    path_axes.set_off(axes, found)
    path_axes.name_rows(axes, found)
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if wide else {}
    axes.set_xticks(
        range(len(names)), names, fontsize=7.2 if len(names) <= 16 else 6.4, **slanted,
    )  # fmt: skip
    axes.tick_params(axis="x", length=2)
    axes.set_xlabel("layer")
    path_axes.sum_bars(upper, edges, values.sum(1))
    label = f"contribution {path_axes.direction_words(direction, query)} (units of f)"
    path_axes.color_bar(figure, image, (upper, axes), label, said)
    style.title(figure, f"Through which layers each source worked: {path_axes.query_words(parts, query)}")
    path_axes.footer(figure, parts, path_axes.color_words(direction))
    return figure


def _layers(parts: PathDecomposition) -> list[int]:
    """Numbers of the layers to draw: buffers only where they did something."""
    return [i for i, name in enumerate(parts.layers) if name != "buffers" or parts.net[:, :, i].any()]


def _largest_layers(values: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Layers in their order ``[L, S]``, those that do least as one."""
    if len(names) <= LAYERS:
        return values, names
    ranked = np.argsort(-np.abs(values).sum(1), kind="stable")
    shown, rest = np.sort(ranked[: LAYERS - 1]), ranked[LAYERS - 1 :]
    return np.concatenate([values[shown], values[rest].sum(0)[None]]), [
        *(names[i] for i in shown),
        f"{len(rest)} other layers",
    ]

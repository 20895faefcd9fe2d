"""Arrays of a monitor along one axis over the steps: by noise level, class, cluster, sample or parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.monitor.trace import Array, Axis, Trace
from genkernel.plots import style
from genkernel.plots.gan_style import PALETTE
from genkernel.plots.monitor_course import (
    GAP,
    Course,
    course,
    entries,
    footer_facts,
    is_logarithmic,
    is_ordered,
    mark_alerts,
    mark_places,
    place_ticks,
    place_word,
    power,
    short_label,
    step_axis,
    value_scale,
)
from genkernel.plots.monitor_series import line
from genkernel.plots.path_axes import plain, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

WIDE = 7.0  # inches, of lines beside a heat map
ROW = 1.75
LINES = 32  # positions that have a line each
STACKED = 12  # positions up to which shares are stacked areas
SHARES = ("samples/occupancy", "samples/class_share", "transport/driving")  # they add up to one
AROUND_ONE = ("time/ratio",)  # ratios: one is the middle of the colours
MOST = 30  # parameters that are shown, of many
DECADES = 3.0  # of movement beyond which colours do not change
VECTORS = 2000  # cells from which a heat map is a bitmap in SVG files


@style.house
def by_place(trace: Trace, names: list[str], heading: str) -> Figure:
    """A row per array: a line per position on the left, and a heat map over step and position on the right.

    Shares that add up to one are stacked areas on the left. The strip beside a heat map has the colours of the lines.

    Args:
        names: of arrays along one and the same axis.
        heading: of the figure.
    """
    shown = course(trace)
    axis = trace.axes(names[0])[0]
    figure = style.new_figure(ROW * len(names) + 0.75, WIDE)
    grid = figure.subplots(len(names), 2, squeeze=False, sharex=True, gridspec_kw={"width_ratios": (1, 1.35)})
    colors = _colors(axis)
    for row, name in enumerate(names):
        values = entries(trace, name)
        last = row == len(names) - 1
        left, right = grid[row]
        _lines(left, trace, name, values, axis, shown, colors)
        _map(figure, right, trace, name, values, axis, shown, colors)
        for axes in (left, right):
            step_axis(axes, shown, label=last, ticks=last)
    style.title(figure, heading)
    style.footer(figure, footer_facts(trace), shown.note)
    return figure


@style.house
def parameters(trace: Trace, name: str) -> Figure:
    """How fast parameters move, or how large they are, over the steps, beside what is usual.

    Movement is relative to the median parameter at the same reading; of many parameters those are shown that stray
    most from their own median. Sizes are relative to the parameter's median over the readings; of many those are shown
    that are furthest from it in the end.
    """
    from matplotlib.colors import Normalize

    shown, (axis,) = course(trace), trace.axes(name)
    moving = name == "weights/moved"
    relative = relative_movement(entries(trace, name)) if moving else relative_size(entries(trace, name))
    middle = shown.reduce(relative)[0]
    rows = unusual(relative if moving else relative[-1:])
    figure = style.new_figure(max(2.3, 0.155 * len(rows) + 1.35), WIDE)
    axes = figure.subplots()
    largest = float(np.nanmax(np.abs(middle[:, rows]), initial=0.0))
    reach = float(np.clip(largest, 0.1, DECADES if moving else 1.0))
    image = _mesh(axes, shown, middle[:, rows].T, Normalize(-reach, reach), style.DIVERGING)
    part = Axis(axis.name, [axis.labels[row] for row in rows])
    mark_places(axes, name, part, shown, trace)
    axes.set_yticks(range(len(rows)), [plain(text) for text in short_names(part.labels, 46)], fontsize=6.3)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first layer on top
    axes.tick_params(axis="y", length=0)
    step_axis(axes, shown)
    ticks = _decades(reach)
    bar = figure.colorbar(
        image, ax=axes, ticks=ticks, aspect=28, pad=0.015, extend="both" if largest > reach else "neither"
    )
    bar.ax.set_yticklabels([_times(tick) for tick in ticks], fontsize=7)
    bar.outline.set_visible(False)
    if moving:
        bar.set_label("relative to the median parameter", fontsize=7.5)
        heading, which = "How fast parameters move", "change most"
    else:
        bar.set_label("relative to its own median", fontsize=7.5)
        heading, which = plain(name), "are furthest from their median in the end"
    few = "" if len(rows) == len(axis) else f": the {len(rows)} of {len(axis)} that {which}"
    style.title(figure, heading + few)
    style.footer(figure, footer_facts(trace), f"{shown.note}; no movement: at the lower end" if moving else shown.note)
    return figure


def relative_movement(moved: Array) -> Array:
    """log10 of movements ``[k, P]`` over the median parameter's at the same reading, within ±:data:`DECADES`.

    A parameter that does not move is at the lower end; NaN where nothing is known.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        pace = np.log10(np.where(moved > 0, moved, np.nan))
    usual = np.full((len(pace), 1), np.nan)
    for k, row in enumerate(pace):
        if np.isfinite(row).any():
            usual[k] = np.nanmedian(row)
    return np.where((moved == 0) & np.isfinite(usual), -DECADES, np.clip(pace - usual, -DECADES, DECADES))


def unusual(relative: Array, most: int = MOST) -> list[int]:
    """Columns of ``[k, P]`` that stray most from their own median, in order of their places; all where they are few.

    Where this does not tell them apart, as with a single row, those of the largest size.
    """
    if relative.shape[1] <= most:
        return list(range(relative.shape[1]))
    strays = np.zeros((2, relative.shape[1]))
    for j, column in enumerate(relative.T):
        column = column[np.isfinite(column)]
        if len(column):
            strays[:, j] = np.abs(column - np.median(column)).max(), np.abs(column).max()
    return sorted(np.lexsort((-strays[1], -strays[0]))[:most].tolist())


def relative_size(values: Array) -> Array:
    """log10 of values ``[k, P]`` over each column's own median; NaN for what is not positive.

    The first reading would be a worse measure: biases that begin at zero grow by any factor.
    """
    found = np.full(values.shape, np.nan)
    for j, column in enumerate(values.T):
        known = np.isfinite(column) & (column > 0)
        if known.any():
            found[known, j] = np.log10(column[known] / np.median(column[known]))
    return found


def _decades(reach: float) -> Array:
    """Round factors within ±``reach`` decades, as their logarithms."""
    factors = (
        (10.0, 100.0, 1000.0) if reach >= 1 else (2.0, 5.0) if reach >= 0.3 else (1.5,) if reach >= 0.18 else (1.2,)
    )
    logs = np.log10([factor for factor in factors if np.log10(factor) <= reach + 1e-9])
    return np.concatenate([-logs[::-1], [0.0], logs])


def _times(log: float) -> str:
    return f"{10**log:.3g} ×" if log >= 0 else f"1/{10**-log:.3g} ×"


# ---------------------------------------------------------------------------------- panels


def _lines(
    axes: Axes, trace: Trace, name: str, values: Array, axis: Axis, shown: Course, colors: list[Any] | None
) -> None:
    """A line per position; of many positions the median and the range that holds most of them."""
    axes.set_title(plain(name), fontsize=8.5, pad=4)
    if name in SHARES and len(axis) <= STACKED and colors is not None:
        shares = np.nan_to_num(shown.reduce(values)[0])
        axes.stackplot(shown.steps, shares.T, colors=colors, linewidth=0.4, edgecolor="white")
        axes.set_ylim(0, 1)
        axes.grid(False)
        _names_of_areas(axes, shares, axis, shown)
    elif colors is not None:
        for j, color in enumerate(colors):
            line(axes, shown, values[:, j], color, width=1.1)
        value_scale(axes, values)
    else:
        some = np.isfinite(values).any(1)
        bands = np.full((3, len(values)), np.nan)
        bands[:, some] = np.nanquantile(values[some], (0.1, 0.5, 0.9), axis=1)
        low, middle, high = (shown.reduce(band)[0] for band in bands)
        axes.fill_between(shown.steps, low, high, color=style.BLUE, alpha=0.2, linewidth=0, label="80 % of them")
        axes.plot(shown.steps, middle, color=style.BLUE, label="median")
        value_scale(axes, bands)
        axes.legend(fontsize=6.5, loc="best")
    mark_alerts(axes, name, trace)


def _names_of_areas(axes: Axes, shares: Array, axis: Axis, shown: Course) -> None:
    """Positions are named in their areas at the end, where these are wide enough."""
    ends = np.cumsum(shares[-1])
    for j, share in enumerate(shares[-1]):
        if share >= 0.07:
            axes.annotate(
                plain(short_label(axis, j)), (float(shown.steps[-1]), float(ends[j] - share / 2)), (-3, 0),
                textcoords="offset points", ha="right", va="center", fontsize=6.5, color="white", fontweight="bold",
            )  # fmt: skip


def _map(
    figure: Figure, axes: Axes, trace: Trace, name: str, values: Array, axis: Axis, shown: Course,
    colors: list[Any] | None,
) -> None:  # fmt: skip
    """The heat map, with its scale, the positions' names, log-SNR where it is known, and the strip of line colours."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    middle = shown.reduce(values)[0]
    norm, cmap = _range(name, middle)
    image = _mesh(axes, shown, middle.T, norm, cmap)
    mark_places(axes, name, axis, shown, trace)
    at, words = place_ticks(axis, 10)
    axes.set_yticks(at, words, fontsize=7)
    axes.set_ylim(-0.5, len(axis) - 0.5)
    axes.set_ylabel(place_word(axis), fontsize=8)
    log_snr = trace.header.settings.get("log_snr")
    if axis.name == "level" and isinstance(log_snr, list) and len(log_snr) == len(axis) > 1:
        beside = axes.secondary_yaxis("right")
        at, words = style.level_ticks(np.array(log_snr, dtype=float), np.arange(len(axis), dtype=float), 4)
        beside.set_yticks(at, words)
        beside.tick_params(labelsize=6.5, labelcolor=style.MUTED)
        beside.set_ylabel("log-SNR", color=style.MUTED, fontsize=7)
    if colors is not None:
        strip = axes.inset_axes((-0.035, 0, 0.022, 1))
        strip.imshow(np.array(colors)[:, None, :3], aspect="auto", origin="lower")
        strip.set_axis_off()
        axes.tick_params(axis="y", pad=9, length=0)
    bar = figure.colorbar(image, ax=axes, aspect=14, pad=0.02)
    bar.ax.tick_params(labelsize=6.5)
    if isinstance(norm, LogNorm):
        low, high = image.get_clim()
        few = high < 100 * low
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
        bar.ax.yaxis.set_major_formatter(power)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)


def _mesh(axes: Axes, shown: Course, cells: Array, norm: Normalize, cmap: str) -> Any:
    """A heat map ``[positions, b]``; cells without a number are grey."""
    style.map_axes(axes)
    axes.set_facecolor(GAP)
    rows = np.arange(len(cells) + 1) - 0.5
    return axes.pcolormesh(
        shown.edges, rows, np.ma.masked_invalid(cells), norm=norm, cmap=cmap, shading="flat",
        rasterized=cells.size > VECTORS,
    )  # fmt: skip


def _range(name: str, cells: Array) -> tuple[Normalize, str]:
    """Colours: diverging about zero where both signs occur, logarithmic over more than a decade, else linear."""
    from matplotlib.colors import LogNorm, Normalize

    known = cells[np.isfinite(cells)]
    if not len(known):  # inside of blocks there may be numbers, their medians are the colours
        return Normalize(0, 1), style.SEQUENTIAL
    low, high = float(known.min()), float(known.max())
    if name in SHARES:
        return Normalize(0, high or 1.0), style.SEQUENTIAL
    if name in AROUND_ONE and low > 0:
        reach = max(high, 1 / low, 1.1)
        return LogNorm(1 / reach, reach), style.DIVERGING
    if low < 0 < high:
        # a few entries far out must not pale all others
        reach = max(float(np.quantile(np.abs(known), 0.99)), 1e-12)
        return Normalize(-reach, reach), style.DIVERGING
    if is_logarithmic(known):
        return LogNorm(low, high), style.SEQUENTIAL
    return Normalize(low, high if high > low else low + (abs(low) or 1.0)), style.SEQUENTIAL


def _colors(axis: Axis) -> list[Any] | None:
    """Of the lines: along a uniform scale where positions are ordered, else well apart; None where there are many."""
    import matplotlib
    from matplotlib.colors import to_rgba

    if len(axis) > LINES:
        return None
    if is_ordered(axis):
        return [matplotlib.colormaps["plasma"](x) for x in np.linspace(0, 0.88, len(axis))]
    if len(axis) <= len(PALETTE):
        return [to_rgba(color) for color in PALETTE[: len(axis)]]
    many = matplotlib.colormaps["tab10" if len(axis) <= 10 else "tab20"]
    return [many(j % many.N) for j in range(len(axis))]

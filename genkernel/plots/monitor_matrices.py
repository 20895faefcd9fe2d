"""Matrices of a monitor at some moments of a training: kernels, gradient cosines, amplification, and who drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.monitor.trace import Array, Axis, Trace
from genkernel.plots import style
from genkernel.plots.gan_style import PALETTE, apart
from genkernel.plots.monitor_course import (
    GAP,
    entries,
    footer_facts,
    is_logarithmic,
    place_ticks,
    place_word,
    short_label,
    step_words,
)
from genkernel.plots.path_axes import plain

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MOMENTS = 6
COLUMNS = 3
SIDES = {"transport/amplification": ("driving cluster", "receiving cluster")}  # rows, columns
NEGATIVE = -0.2  # of a kernel's cosines, below which its range is −1 … 1


@style.house
def over_time(trace: Trace, name: str, heading: str) -> Figure:
    """One matrix at the first reading, some in between and the last, with one range of colours."""
    values = entries(trace, name)
    rows_axis, columns_axis = trace.axes(name)
    classes = _classes_of(trace, rows_axis) if rows_axis == columns_axis else None
    if classes is not None:
        order = np.argsort(classes, kind="stable")
        values, classes = values[:, order][:, :, order], classes[order]
    chosen = moments(values)
    norm, cmap, extend = matrix_range(name, values[chosen])
    columns = 2 if len(chosen) == 4 else min(COLUMNS, len(chosen))
    lines = -(-len(chosen) // columns)
    ticks = {axis.name: place_ticks(axis, 3 if axis.unit == "timestep" else 6) for axis in (rows_axis, columns_axis)}
    longest = {name: max(map(len, words)) for name, (_, words) in ticks.items()}
    turned = longest[columns_axis.name] > 5
    below = 0.045 * longest[columns_axis.name] if turned else 0.0
    left, gap, head, top, foot = 0.42 + 0.062 * longest[rows_axis.name], 0.16, 0.27, 0.34, 1.12 + below  # inches
    side = (style.WIDTH - left - 0.1 - gap * (COLUMNS - 1)) / COLUMNS
    height = top + lines * (side + head) + foot
    figure = style.new_figure(height)
    figure.set_layout_engine("none")
    image = None
    for place, k in enumerate(chosen):
        row, column = divmod(place, columns)
        x, y = left + column * (side + gap), top + row * (side + head) + head
        axes = figure.add_axes((x / style.WIDTH, 1 - (y + side) / height, side / style.WIDTH, side / height))
        axes.set_facecolor(GAP)
        image = axes.imshow(np.ma.masked_invalid(values[k]), norm=norm, cmap=cmap, origin="lower", aspect="auto")
        style.map_axes(axes)
        if classes is not None:
            for edge in np.flatnonzero(np.diff(classes)) + 0.5:
                axes.axhline(edge, color=style.INK, linewidth=0.6)
                axes.axvline(edge, color=style.INK, linewidth=0.6)
        axes.set_title(f"step {step_words(trace.readings[k].step)}", fontsize=7.8, fontweight="normal", pad=3)
        for axis, which, label, first in (
            (columns_axis, axes.xaxis, axes.set_xlabel, place + columns >= len(chosen)),
            (rows_axis, axes.yaxis, axes.set_ylabel, column == 0),
        ):
            at, words = ticks[axis.name] if classes is None else (np.empty(0), [])
            which.set_ticks(at, words if first else [""] * len(at))
            if first:
                prime = "′" if which is axes.yaxis and rows_axis == columns_axis and axis.unit == "timestep" else ""
                said = SIDES.get(name, (place_word(axis) + prime, place_word(axis)))
                label(plain(said[0] if which is axes.yaxis else said[1]), fontsize=8, labelpad=2)
        axes.tick_params(labelsize=6.8, length=2, pad=2)
        if turned and place + columns >= len(chosen):
            for text in axes.get_xticklabels():
                text.set(rotation=35, ha="right", rotation_mode="anchor")
    assert image is not None
    room = figure.add_axes((0.27, 0.58 / height, 0.5, 0.1 / height))
    bar = figure.colorbar(image, cax=room, orientation="horizontal", extend=extend)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(plain(name), fontsize=8, labelpad=1)
    bar.outline.set_visible(False)
    style.title(figure, heading)
    sorted_by = "" if classes is None else "; samples in the order of their classes"
    style.footer(
        figure, footer_facts(trace), f"{len(chosen)} of {style.counted(len(trace), 'reading')}, one scale{sorted_by}"
    )
    return figure


@style.house
def driving_against_occupancy(trace: Trace) -> Figure:
    """Each cluster's share of the drive against its share of the samples, at some moments.

    On the diagonal a cluster drives as much as its share of the samples.
    """
    driving, occupancy = entries(trace, "transport/driving"), entries(trace, "samples/occupancy")
    both = np.where(np.isfinite(occupancy), driving, np.nan)
    chosen = moments(both)
    axis = trace.axes("transport/driving")[0]
    columns = min(COLUMNS, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = style.new_figure(1.75 * lines + 0.75)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    largest = 1.08 * float(max(np.nanmax(driving[chosen]), np.nanmax(occupancy[chosen])))
    for axes, k in zip(grid.flat, chosen, strict=False):
        x, y = occupancy[k], driving[k]
        marks = [PALETTE[j % len(PALETTE)] for j in range(len(x))]
        axes.plot([0, largest], [0, largest], color=style.GREY, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.scatter(x, y, s=14, color=marks, linewidths=0, zorder=3)
        far = np.abs(np.nan_to_num(y - x))
        for j in apart(np.nan_to_num(y), far * (far > 0.03), 0.05 * largest):
            axes.annotate(
                plain(short_label(axis, j)), (x[j], y[j]), (4, 1), textcoords="offset points", fontsize=6.5,
                color=style.INK,
            )  # fmt: skip
        axes.set_xlim(-0.03 * largest, largest)
        axes.set_ylim(-0.03 * largest, largest)
        axes.set_title(f"step {step_words(trace.readings[k].step)}", fontsize=7.8, fontweight="normal", pad=3)
        axes.tick_params(labelsize=7)
    for place, axes in enumerate(grid.flat):
        if place >= len(chosen):
            axes.set_axis_off()
        elif place + columns >= len(chosen):
            axes.set_xlabel("occupancy", fontsize=8)
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of drive", fontsize=8)
    style.title(figure, "Which clusters drive more than their share of the samples")
    style.footer(
        figure, footer_facts(trace), f"{len(chosen)} of {style.counted(len(trace), 'reading')}; dashed: equal shares"
    )
    return figure


def _classes_of(trace: Trace, axis: Axis) -> Array | None:
    """The class of every sample, where the positions are samples whose classes the monitor knows."""
    targets = trace.header.settings.get("targets")
    if axis.name != "sample" or not isinstance(targets, list) or len(targets) != len(axis):
        return None
    return np.array(targets)


def moments(values: Array, most: int = MOMENTS) -> list[int]:
    """Readings that are shown: the first and the last that hold a number, and others evenly between them."""
    known = np.flatnonzero(np.isfinite(values).reshape(len(values), -1).any(1))
    at = np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(int)
    return [int(k) for k in known[at]]


def matrix_range(name: str, values: Array) -> tuple[Normalize, str, str]:
    """Range, colours and which end of the scale is open.

    Kernels are cosines: 0 … 1, or −1 … 1 where some are clearly negative. Cosines of gradients are −1 … 1. Others are
    logarithmic where they are positive and span more than a decade, diverging where both signs occur, else linear.
    """
    from matplotlib.colors import LogNorm, Normalize

    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    cosine = low >= -1 - 1e-6 and high <= 1 + 1e-6
    if name.endswith("cosine") and cosine:
        return Normalize(-1, 1), style.DIVERGING, "neither"
    if name.startswith("kernel/") and cosine:
        if low < NEGATIVE:
            return Normalize(-1, 1), style.DIVERGING, "neither"
        return Normalize(0, 1), style.SEQUENTIAL, "min" if low < 0 else "neither"
    if is_logarithmic(known):
        least = max(low, high * 1e-4)
        return LogNorm(least, high), style.SEQUENTIAL, "min" if low < least else "neither"
    if low < 0 < high:
        reach = max(-low, high)
        return Normalize(-reach, reach), style.DIVERGING, "neither"
    return Normalize(min(low, 0.0), max(high, 0.0) or 1.0), style.SEQUENTIAL, "neither"

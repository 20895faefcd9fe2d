"""The scalars of a monitor over the steps of a training: small multiples with one axis of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.monitor.trace import Array, Trace
from genkernel.plots import style
from genkernel.plots.monitor_course import (
    MARKED,
    Course,
    course,
    footer_facts,
    mark_alerts,
    step_axis,
    topic,
    value_scale,
)
from genkernel.plots.path_axes import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 1.35  # inches
WIDE = 7.0  # of three columns
COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)

# scalars that are read beside each other share a panel
TOGETHER = {
    "loss/mean": ("loss/holdout", "ema/loss"),
    "accuracy/mean": ("accuracy/holdout", "ema/accuracy"),
    "kernel/drift": ("kernel/drift_last",),
    "kernel/within": ("kernel/between",),
    "rank/trained": ("rank/alone", "rank/gap"),
    "samples/diversity": ("ema/diversity",),
    "discriminator/real_logit": ("discriminator/fake_logit",),
    "transport/driving_dominance": ("transport/occupancy_dominance",),
    "transport/coherence": ("transport/axial_coherence",),
}


def panels(trace: Trace) -> dict[str, list[list[str]]]:
    """Which scalars share a panel, by topic; scalars that never held a finite number have none."""
    names = [name for name in trace.names if np.isfinite(trace.scalar(name)).any()]
    guests = {guest for host, others in TOGETHER.items() if host in names for guest in others}
    found: dict[str, list[list[str]]] = {}
    for name in names:
        if name not in guests:
            beside = [other for other in TOGETHER.get(name, ()) if other in names]
            found.setdefault(topic(name), []).append([name, *beside])
    return found


@style.house
def scalars(trace: Trace, which: list[list[str]], heading: str) -> Figure:
    """A panel per scalar (some share one), with the stretches that alerts are about.

    Args:
        which: names of the scalars in each panel.
        heading: of the figure.
    """
    shown = course(trace)
    columns = len(which) if len(which) < 3 else 2 if len(which) == 4 else 3
    rows = -(-len(which) // columns)
    height = rows * PANEL + 0.95 if rows > 1 else 2.5
    figure = style.new_figure(height, WIDE if columns == 3 else style.WIDTH)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for place, names in enumerate(which):
        axes = grid.flat[place]
        _panel(axes, trace, names, shown)
        lowest = place + columns >= len(which)
        step_axis(axes, shown, label=lowest, ticks=lowest)
        if lowest:
            axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(which) :]:
        axes.set_axis_off()
    style.title(figure, heading)
    style.footer(figure, footer_facts(trace), shown.note)
    return figure


def line(axes: Axes, shown: Course, values: Array, color: object, label: str = "", width: float = 1.5) -> None:
    """One series ``[k]``: gaps where it is NaN, a mark where a reading has no neighbours, a band over blocks."""
    middle, low, high = shown.reduce(values)
    if shown.each > 1:
        axes.fill_between(shown.steps, low, high, facecolor=color, edgecolor=color, alpha=0.3, linewidth=0.5)
    axes.plot(
        shown.steps, middle, color=color, label=label or None, linewidth=width,
        marker="o" if len(shown.steps) <= MARKED else None, markersize=2.2,
    )  # fmt: skip
    if len(shown.steps) > MARKED:
        known = np.isfinite(middle)
        padded = np.concatenate([[False], known, [False]])
        alone = known & ~padded[:-2] & ~padded[2:]
        axes.plot(shown.steps[alone], middle[alone], ".", color=color, markersize=3)


def _panel(axes: Axes, trace: Trace, names: list[str], shown: Course) -> None:
    for name, color in zip(names, COLORS, strict=False):
        line(axes, shown, trace.scalar(name), color, plain(name))
    value_scale(axes, np.concatenate([trace.scalar(name) for name in names]))
    for name in names:
        mark_alerts(axes, name, trace)
    axes.set_title(plain(names[0]), fontsize=8.5, pad=4)
    if len(names) > 1:
        axes.legend(
            fontsize=6.5, loc="best", handlelength=1.2, borderaxespad=0.2, labelspacing=0.2, frameon=True,
            framealpha=0.75, edgecolor="none",
        )  # fmt: skip

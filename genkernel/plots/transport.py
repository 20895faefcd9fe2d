"""Where the samples of a planar generator move, and by whose drive."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, plane, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

DRIVERS = 8  # small panels
NAMED = 13  # clusters that fit beside the large panel
ARROWS = (600, 200)  # at most, in the large panel and in a small one
LONG = 0.13  # how long a long arrow is drawn, in widths of its panel


@style.house
def transport_field(result: GanResult) -> Figure:
    """Samples in the plane with their updates: by all clusters, and by each of the (up to 8) strongest drivers.

    Arrows have one scale in the large panel and another in all small ones, both said beside the large panel. In a
    small panel the samples of the driving cluster are coloured. Known modes are crosses, with circles of three
    standard deviations.
    """
    points, updates = result.points, result.point_updates
    if points is None or updates is None or result.transport is None:
        raise InputError("this result has no updates in the plane to draw: they are kept for generators of 2-D points")
    share, labels = result.transport.share, result.clusters.labels
    drivers = [int(c) for c in np.argsort(-share, kind="stable")[:DRIVERS] if share[c] > 0]
    columns = min(4, max(3, len(drivers)))
    rows = math.ceil(len(drivers) / columns)
    left, gap, head, large, top = 0.5, 0.13, 0.25, 2.9, 0.4  # inches
    side = (style.WIDTH - left - 0.12 - gap * (columns - 1)) / columns
    below = top + large + 0.62
    figure = gan_style.by_hand(below + rows * (side + head) + 0.42)
    frame = plane.frame_of(points, result)
    beside = left + large + 0.22
    main = gan_style.panel(figure, left, top, large, large)
    plane.frame_panel(main, frame)
    main.set_xlabel("x₁", labelpad=1)
    main.set_ylabel("x₂", labelpad=0)
    total = updates.sum(0)
    arrows = plane.arrows(main, points, total, frame, plane.arrow_length(total), ARROWS[0], long=LONG)
    _dots(main, points, labels, range(len(share)), 9)
    plane.mode_marks(main, result, 6)
    plane.say(figure, "update U, per unit of η", beside, top + 0.08, color=style.MUTED)
    plane.arrow_key(figure, main, arrows, plane.arrow_length(total), "by all", beside + 0.38, top + 0.27)
    _names(figure, result, beside, top + 0.8)
    word = gan_style.kind(result)
    text = f"by the drive of one {word} at a time (coloured), the strongest first, with its share of the drive"
    plane.say(figure, text, left, below - 0.08, color=style.MUTED)
    one = plane.arrow_length(updates[drivers])
    for place, c in enumerate(drivers):
        row, column = divmod(place, columns)
        down = below + head * (row + 1) + side * row
        axes = gan_style.panel(figure, left + column * (side + gap), down, side, side)
        plane.frame_panel(axes, frame, x=place + columns >= len(drivers), y=column == 0)
        x, y = points[labels != c].T
        axes.scatter(x, y, s=2, color=style.GREY, alpha=0.5, linewidths=0)
        arrows = plane.arrows(axes, points, updates[c], frame, one, ARROWS[1], long=LONG, width=0.006)
        _dots(axes, points, labels, [c], 5)
        plane.mode_marks(axes, result, 3)
        title = f"{gan_style.shorten(result.clusters.names[c], 14)}  {gan_style.percent(share[c])}"
        axes.set_title(title, fontsize=7.6, pad=3, color=gan_style.color(c))
        if place == 0:
            plane.arrow_key(figure, axes, arrows, one, "by one", beside + 0.38, top + 0.45)
    style.title(figure, "Where one step moves the samples, and by whose drive")
    gan_style.footer(figure, result, gan_style.driven(result))
    return figure


def _dots(axes: Axes, points: np.ndarray, labels: np.ndarray, which: Iterable[int], size: float) -> None:
    for c in which:
        x, y = points[labels == c].T
        axes.scatter(x, y, s=size, color=gan_style.color(c), linewidths=0, zorder=4, alpha=0.85)


def _names(figure: Figure, result: GanResult, left: float, top: float) -> None:
    """Colours, names and occupancy beside the large panel, as many as fit; the fullest clusters where not all do."""
    occupancy, names = result.clusters.occupancy, result.clusters.names
    shown = [int(c) for c in np.argsort(-occupancy, kind="stable")[: NAMED - 1]]
    if len(names) <= NAMED:
        shown = list(range(len(names)))
    plane.say(figure, "samples", left, top, color=style.MUTED)
    for c in shown:
        top += 0.145
        there = occupancy[c] > 0
        plane.say(figure, "●" if there else "○", left, top, color=gan_style.color(c) if there else style.GREY)
        plane.say(figure, gan_style.shorten(names[c], 16), left + 0.14, top)
        text = gan_style.percent(occupancy[c]) if there else "none"
        plane.say(figure, text, left + 1.4, top, ha="right", color=style.INK if there else style.VERMILION)
    if len(shown) < len(names):
        plane.say(figure, f"and {len(names) - len(shown)} others", left + 0.14, top + 0.145, color=style.MUTED)

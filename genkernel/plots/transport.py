"""Where the samples of a planar generator move, and by whose drive."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, style

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
    small panel the samples of the driving cluster are coloured.
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
    frame = _frame_of(points)
    beside = left + large + 0.22
    main = gan_style.panel(figure, left, top, large, large)
    _frame(main, frame)
    main.set_xlabel("x₁", labelpad=1)
    main.set_ylabel("x₂", labelpad=0)
    total = updates.sum(0)
    arrows = _arrows(main, points, total, frame, _long(total), ARROWS[0])
    _dots(main, points, labels, range(len(share)), 9)
    _say(figure, "update U, per unit of η", beside, top + 0.08, color=style.MUTED)
    _key(figure, main, arrows, _long(total), "by all", beside, top + 0.27)
    _names(figure, result, beside, top + 0.8)
    word = gan_style.kind(result)
    text = f"by the drive of one {word} at a time (coloured), the strongest first, with its share of the drive"
    _say(figure, text, left, below - 0.08, color=style.MUTED)
    for place, c in enumerate(drivers):
        row, column = divmod(place, columns)
        down = below + head * (row + 1) + side * row
        axes = gan_style.panel(figure, left + column * (side + gap), down, side, side)
        _frame(axes, frame, x=place + columns >= len(drivers), y=column == 0)
        x, y = points[labels != c].T
        axes.scatter(x, y, s=2, color=style.GREY, alpha=0.5, linewidths=0)
        arrows = _arrows(axes, points, updates[c], frame, _long(updates[drivers]), ARROWS[1])
        _dots(axes, points, labels, [c], 5)
        title = f"{gan_style.shorten(result.clusters.names[c], 14)}  {gan_style.percent(share[c])}"
        axes.set_title(title, fontsize=7.6, pad=3, color=gan_style.color(c))
        if place == 0:
            _key(figure, axes, arrows, _long(updates[drivers]), "by one", beside, top + 0.45)
    style.title(figure, "Where one step moves the samples, and by whose drive")
    gan_style.footer(figure, result, gan_style.driven(result))
    return figure


def _frame_of(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The lower left corner and the width of a square around all points, with room for arrows."""
    low, high = points.min(0), points.max(0)
    width = 1.4 * float((high - low).max()) or 1.0
    return (low + high) / 2 - width / 2, width


def _frame(axes: Axes, frame: tuple[np.ndarray, float], x: bool = True, y: bool = True) -> None:
    """The same square and the same ticks in every panel; numbers only where they are asked for."""
    (left, bottom), width = frame
    axes.set_xlim(left, left + width)
    axes.set_ylim(bottom, bottom + width)
    axes.set_aspect("equal")
    style.map_axes(axes)
    for axis, shown, start in ((axes.xaxis, x, left), (axes.yaxis, y, bottom)):
        ticks = style.nice_ticks(start, start + width, 3)
        axis.set_ticks(ticks, [style.number(t) for t in ticks] if shown else [""] * len(ticks), fontsize=6.8)
    axes.tick_params(length=2, pad=2)


def _long(updates: np.ndarray) -> float:
    """The length that is drawn as ``LONG``: the 95 % quantile of updates, or more where some are far longer."""
    lengths = np.linalg.norm(updates, axis=-1).ravel()
    moving = lengths[lengths > 0]
    return max(float(np.quantile(moving, 0.95)), float(moving.max()) / 2.2) if len(moving) else 1.0


def _arrows(
    axes: Axes, points: np.ndarray, updates: np.ndarray, frame: tuple[np.ndarray, float], length: float, most: int
) -> Any:
    """Arrows of the updates of at most ``most`` samples."""
    shown = slice(None, None, math.ceil(len(points) / most))
    return axes.quiver(
        *points[shown].T, *updates[shown].T, angles="xy", scale_units="xy", scale=length / (LONG * frame[1]),
        width=0.0032 if most == ARROWS[0] else 0.006, headwidth=4, headlength=5, headaxislength=4.5,
        color=style.INK, alpha=0.6, linewidth=0, zorder=3,
    )  # fmt: skip


def _key(figure: Figure, axes: Axes, arrows: Any, length: float, text: str, left: float, top: float) -> None:
    """How long an update is whose arrow is long."""
    across, down = figure.get_size_inches()
    size = float(f"{length:.2g}")
    axes.quiverkey(
        arrows, (left + 0.38) / across, 1 - top / down, size, f"‖U‖ = {gan_style.power(size)} {text}",
        coordinates="figure", labelpos="E", labelsep=0.06, fontproperties={"size": gan_style.TEXT},
    )  # fmt: skip


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
    _say(figure, "samples", left, top, color=style.MUTED)
    for c in shown:
        top += 0.145
        there = occupancy[c] > 0
        _say(figure, "●" if there else "○", left, top, color=gan_style.color(c) if there else style.GREY)
        _say(figure, gan_style.shorten(names[c], 16), left + 0.14, top)
        text = gan_style.percent(occupancy[c]) if there else "none"
        _say(figure, text, left + 1.4, top, ha="right", color=style.INK if there else style.VERMILION)
    if len(shown) < len(names):
        _say(figure, f"and {len(names) - len(shown)} others", left + 0.14, top + 0.145, color=style.MUTED)


def _say(figure: Figure, text: str, left: float, top: float, **how: Any) -> None:
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, fontsize=gan_style.TEXT, va="center", **how)

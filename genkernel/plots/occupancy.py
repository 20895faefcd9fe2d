"""How many latents every cluster has, and how much it drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import gan_style, plane, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

AREA = 500  # of the disc of a mode with all latents, in square points


@style.house
def cluster_occupancy(result: GanResult) -> Figure:
    """Occupancy of the clusters as bars, with their shares of the drive here and on fresh latents as marks.

    Of the classes of a conditional generator the occupancy is what was asked for; what a classifier recognises is
    marked beside it.

    Clusters without latents are crossed. Counted coverage, where there is any, is said in words: a mode may be the
    nearest of many samples and still have none that is near it. Where clusters are known modes in the plane, a second
    panel shows these in their places, with discs whose areas are the occupancies, beside the samples.
    """
    table, moved = result.clusters, result.transport
    count, word = len(table.names), gan_style.kind(result)
    places = np.arange(count)
    empty, present = places[table.occupancy == 0], places[table.occupancy > 0]
    left, top, height, side = 0.6, 0.86, 1.66, 1.42  # inches
    figure = gan_style.by_hand(top + height + 0.5 + gan_style.name_depth(result))
    beside = _in_the_plane(result)
    wide = style.WIDTH - left - 0.1 - (side + 0.42 if beside else 0)
    axes = gan_style.panel(figure, left, top, wide, height)
    bars = axes.bar(
        places, 100 * table.occupancy, color=style.SKY, alpha=0.75, width=0.82, linewidth=0, label="occupancy"
    )
    shares = [table.occupancy]
    size = 5.5 if count <= 30 else 3.5
    if moved is not None:
        shares.append(moved.share)
        axes.plot(
            present, 100 * moved.share[present], "o", color=style.VERMILION, markersize=size, label="share of drive"
        )
        if moved.fresh_share is not None:
            shares.append(moved.fresh_share)
            axes.plot(
                present, 100 * moved.fresh_share[present], "o", markersize=size + 2.5, markerfacecolor="none",
                markeredgecolor=style.INK, markeredgewidth=0.9 if count <= 30 else 0.6, label="on fresh latents",
            )  # fmt: skip
    seen = None if result.per_cluster is None else result.per_cluster.recognised
    if seen is not None and np.isfinite(seen).all():
        shares.append(seen)
        axes.plot(
            places, 100 * seen, "_", color=style.GREEN, markersize=1.6 * size, markeredgewidth=2, label="recognised"
        )
    axes.axhline(100 / count, color=style.GREY, linewidth=1, linestyle=(0, (3, 2)), label="equal shares")
    if len(empty):
        axes.plot(
            empty, np.full(len(empty), 0.04), "x", transform=axes.get_xaxis_transform(), color=style.VERMILION,
            markersize=6 if count <= 30 else 3, markeredgewidth=1.6 if count <= 30 else 0.9, label=f"empty {word}",
        )  # fmt: skip
    axes.set_xlim(-0.65, count - 0.35)
    axes.set_ylim(0, 108 * float(np.nanmax(shares)))
    gan_style.cluster_ticks(axes, result, "x", 26)
    axes.set_xlabel(word)
    axes.set_ylabel("share (%)")
    axes.grid(False, axis="x")
    axes.set_title("\n".join(_words(result)), fontsize=7.8, fontweight="normal", color=style.MUTED, pad=20)
    handles = [bars, *axes.lines]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=len(handles), handletextpad=0.4,
        handlelength=1.2, columnspacing=0.9, borderaxespad=0, fontsize=7.4 if len(handles) < 6 else 6.4,
    )  # fmt: skip
    if beside:
        _modes(gan_style.panel(figure, left + wide + 0.42, top + (height - side), side, side), result)
    style.title(figure, "Where the latents are" + ("" if moved is None else ", and who drives"))
    gan_style.footer(figure, result, "" if moved is None else gan_style.driven(result))
    return figure


def _in_the_plane(result: GanResult) -> bool:
    """Whether the clusters are known modes whose places can be drawn."""
    modes = plane.known_modes(result)
    return modes is not None and len(modes) == len(result.clusters.names) and gan_style.kind(result) == "mode"


def _modes(axes: Axes, result: GanResult) -> None:
    """Known modes in their places: a disc of the area of its occupancy, or a cross where it is empty."""
    modes, occupancy, points = plane.known_modes(result), result.clusters.occupancy, result.points
    assert modes is not None
    plane.frame_panel(axes, plane.frame_of(modes if points is None else points, result))
    if points is not None:
        axes.scatter(points[:, 0], points[:, 1], s=1.5, color=style.GREY, alpha=0.6, linewidths=0, zorder=2)
    full = occupancy > 0
    x, y = modes[full].T
    axes.scatter(x, y, s=AREA * occupancy[full], color=style.SKY, alpha=0.6, linewidths=0)
    axes.plot(*modes[~full].T, "x", color=style.VERMILION, markersize=5, markeredgewidth=1.4)
    plane.mode_marks(axes, result, 3)


def _words(result: GanResult) -> list[str]:
    """What the clusters are; empty ones and counted coverage."""
    table, counted = result.clusters, result.coverage.modes
    lines = [gan_style.shorten(f"{gan_style.kind(result)}: {table.by}", 96)]
    parts = []
    if empty := int((table.occupancy == 0).sum()):
        words = "empty: missing modes" if table.fixed and gan_style.kind(result) == "mode" else "empty"
        parts.append(f"{empty} of {len(table.names)} {words}")
    if counted is not None:
        good = gan_style.percent(counted.high_quality)
        parts.append(f"counted: {counted.covered} of {counted.modes} covered, {good} of samples of high quality")
    return [*lines, " · ".join(parts)] if parts else lines

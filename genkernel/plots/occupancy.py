"""How many latents every cluster has, and how much it drives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult


@style.house
def cluster_occupancy(result: GanResult) -> Figure:
    """Occupancy of the clusters as bars, with their shares of the drive here and on fresh latents as marks.

    Clusters without latents are crossed. Counted coverage, where there is any, is said in words: a mode may be the
    nearest of many samples and still have none that is near it.
    """
    table, moved = result.clusters, result.transport
    count, word = len(table.names), gan_style.kind(result)
    places = np.arange(count)
    empty, present = places[table.occupancy == 0], places[table.occupancy > 0]
    figure = style.new_figure(3.1)
    axes = figure.subplots()
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
    axes.legend(
        handles=[bars, *axes.lines], loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=5, fontsize=7.4,
        handletextpad=0.4, handlelength=1.2, columnspacing=0.9, borderaxespad=0,
    )  # fmt: skip
    style.title(figure, "Where the latents are" + ("" if moved is None else ", and who drives"))
    gan_style.footer(figure, result, "" if moved is None else gan_style.driven(result))
    return figure


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

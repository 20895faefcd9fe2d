"""Which clusters drive the generator's updates, and where these arrive."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult
    from genkernel.gan.transport import TransportSummary


@style.house
def amplification_matrix(result: GanResult) -> Figure:
    """Mean update norm of each receiving cluster by the drive of each other, with shares and occupancy.

    Rows drive and columns receive; clusters without latents do neither and are grey. Bars on the right are the rows'
    shares of all update mass, bars on top the columns' occupancy. The occupancy is also the black tick at every bar on
    the right: where a cluster drives more than its share of the latents its bar passes the tick.
    """
    found = result.transport
    if found is None:
        raise InputError("this result has no kernel transport to draw: no discriminator was given")
    occupancy, word = result.clusters.occupancy, gan_style.kind(result)
    count, present = len(occupancy), np.flatnonzero(occupancy > 0)
    side, left, top, bars = 2.45, 0.5 + gan_style.name_width(result), 0.95, 0.66  # inches
    below = 0.34 + gan_style.name_depth(result)
    figure = gan_style.by_hand(top + side + below + 0.72)
    axes = gan_style.panel(figure, left, top, side, side)
    axes.set_facecolor(gan_style.EMPTY)
    matrix = np.where(occupancy[:, None] > 0, found.matrix, np.nan)
    largest, extend = _upper_limit(matrix[np.isfinite(matrix)])
    image = axes.imshow(matrix, cmap=style.SEQUENTIAL, vmin=0, vmax=largest)
    style.map_axes(axes)
    gan_style.cluster_ticks(axes, result, "x")
    gan_style.cluster_ticks(axes, result, "y")
    axes.set_xlabel(f"receiving {word}" + (" (grey: empty)" if len(present) < count else ""), labelpad=2)
    axes.set_ylabel(f"driving {word}", labelpad=2)
    bar = figure.colorbar(
        image, cax=gan_style.panel(figure, left, top + side + below, side, 0.08), orientation="horizontal",
        extend="max" if extend else "neither",
    )  # fmt: skip
    bar.ax.tick_params(labelsize=gan_style.TEXT)
    bar.set_label("mean ‖U‖ per unit of learning rate", fontsize=8, labelpad=2)
    bar.outline.set_visible(False)
    places = np.arange(count)
    upper = gan_style.panel(figure, left, top - 0.5, side, 0.44)
    upper.bar(places, 100 * occupancy, color=style.SKY, width=0.8, linewidth=0)
    upper.set_xlim(-0.5, count - 0.5)
    _margin(upper, "y", "occupancy\n(%)", 100 * float(occupancy.max()))
    right = gan_style.panel(figure, left + side + 0.06, top, bars, side)
    right.barh(places, 100 * found.share, color=style.VERMILION, height=0.8, linewidth=0)
    right.vlines(
        100 * occupancy[present], present - 0.4, present + 0.4, color=style.INK, linewidth=1.3 if count <= 30 else 0.8
    )
    right.set_ylim(count - 0.5, -0.5)
    _margin(right, "x", "share of\ndrive (%)", 100 * float(max(found.share.max(), occupancy.max())))
    _numbers(figure, found, count, left + side + bars + 0.22, top)
    style.title(figure, f"Which {gan_style.kind(result, plural=True)} drive the updates, and where they arrive")
    gan_style.footer(figure, result, f"{gan_style.driven(result)} · black ticks: occupancy")
    return figure


def _upper_limit(values: np.ndarray) -> tuple[float, bool]:
    """Where the colours end: at the largest entry, or at the 99 % quantile where few entries reach far beyond it."""
    largest, most = (float(values.max()), float(np.quantile(values, 0.99))) if len(values) else (0.0, 0.0)
    if len(values) > 300 and 0 < most < largest / 1.5:
        return most, True
    return largest or 1.0, False


def _margin(axes: Axes, which: gan_style.Which, label: str, largest: float) -> None:
    """Bars beside the matrix: their scale, and nothing along it."""
    axes.grid(False)
    ticks = style.nice_ticks(0, largest, 2)
    names = [style.number(tick) for tick in ticks]
    if which == "y":
        axes.set_xticks([])
        axes.set_ylim(0, 1.08 * largest)
        axes.set_yticks(ticks, names, fontsize=6.6)
        axes.set_ylabel(label, fontsize=gan_style.TEXT, labelpad=2)
    else:
        axes.set_yticks([])
        axes.set_xlim(0, 1.08 * largest)
        axes.set_xticks(ticks, names, fontsize=6.6)
        axes.set_xlabel(label, fontsize=gan_style.TEXT, labelpad=2)
    axes.tick_params(length=2, pad=2)


def _numbers(figure: Figure, found: TransportSummary, count: int, left: float, top: float) -> None:
    """The scalars beside the matrix: a small grey name over every number."""
    across, down = figure.get_size_inches()
    rows = (
        ("effective number of\ndriving clusters", f"{found.effective_clusters:.3g} of {count}"),
        ("driving dominance", f"{found.driving_dominance:.2f}"),
        ("occupancy dominance", f"{found.occupancy_dominance:.2f}"),
        ("axial coherence\nof updates", _digits(found.axial_coherence)),
        ("the same of isotropic\ndirections (null)", _digits(found.axial_null)),
    )
    y = top
    for name, value in rows:
        figure.text(left / across, 1 - y / down, name, fontsize=6.8, color=style.MUTED, va="top", linespacing=1.15)
        y += 0.115 * (1 + name.count("\n"))
        figure.text(left / across, 1 - y / down, value, fontsize=9, fontweight="bold", va="top")
        y += 0.29


def _digits(value: float) -> str:
    """Two decimals; two digits of a small coherence, which in many dimensions is far below 0.01."""
    return "n/a" if math.isnan(value) else f"{value:.2g}" if 0 < value < 0.0095 else f"{value:.2f}"

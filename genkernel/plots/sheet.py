"""A few samples of every cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

GAP = 0.08  # between images, as a part of their side
TOP = 0.6  # inches above them


@style.house
def sample_sheet(result: GanResult) -> Figure:
    """Samples of the fullest clusters, a row for each, with its share of the latents.

    Raises:
        InputError: the samples are no images.
    """
    from genkernel.errors import InputError
    from genkernel.gan.sheet import images_of

    sheet, table = result.sheet, result.clusters
    if sheet is None:
        raise InputError("this result has no images to show: its samples are points")
    rows = [images_of(sheet, k) for k in range(len(sheet.clusters))]
    names, word = gan_style.short_names(result)
    high, across = rows[0].shape[1:3]
    most = max(sheet.counts)
    left = 0.62 + max(0.3, gan_style.name_width(result))
    side = min(0.62, (style.WIDTH - left - 0.1) / (most * (1 + GAP)))  # inches
    tall = side * high / across
    height = len(rows) * (tall + GAP * side)
    figure = gan_style.by_hand(TOP + height + 0.34)
    style.title(figure, f"Some samples of each {word}")
    axes = gan_style.panel(figure, left, TOP, most * side * (1 + GAP), height)
    step_x, step_y = across * (1 + GAP), high + GAP * across
    for k, images in enumerate(rows):
        for j, image in enumerate(images):
            x, y = j * step_x, k * step_y
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(x, x + across, y + high, y))
    axes.set_xlim(0, most * step_x - GAP * across)
    axes.set_ylim(len(rows) * step_y - GAP * across, 0)
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    labels = [f"{names[c]}  {gan_style.percent(float(table.occupancy[c]))}" for c in sheet.clusters]
    axes.set_yticks([(k + 0.5) * step_y for k in range(len(rows))], labels, fontsize=gan_style.TEXT)
    axes.set_ylabel("")
    hidden = int(np.sum(table.occupancy > 0)) - len(rows)
    words = f"{word} and its share of the latents"
    figure.text(0.08 / style.WIDTH, 1 - (TOP - 0.08) / figure.get_figheight(), words, fontsize=gan_style.TEXT,
                color=style.MUTED)  # fmt: skip
    extra = f"{hidden} smaller {gan_style.kind(result, hidden > 1)} not shown" if hidden else ""
    gan_style.footer(figure, result, extra, how="first samples of each")
    return figure

"""Tangent space in the plane: embeddings of samples by their kernel, coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.spectra.embedding import Embedding

COLOURS = (
    style.BLUE,
    style.VERMILION,
    style.GREEN,
    style.ORANGE,
    style.PURPLE,
    style.SKY,
    style.GREY,
    style.INK,
    "#8c510a",  # brown, and indigo: ten classes
    "#3b2c85",
)
MARKS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">")
_NAMES = {"pca": "kernel PC", "tsne": "t-SNE", "umap": "UMAP"}


@style.house
def tangent_planes(
    planes: Mapping[str, Embedding],
    labels: ArrayLike,
    names: Sequence[str],
    meta: dict[str, Any],
    columns: int = 3,
    note: str = "",
    outlined: Sequence[int] = (),
) -> Figure:
    """Embeddings side by side, the same samples in the same colours.

    Args:
        planes: title → embedding in two dimensions. Axes are equal within a panel and not between panels.
        labels: classes ``[n]``, 0 … C - 1, the same for all panels.
        names: of the classes.
        meta, note: for the footer.
        columns: panels side by side.
        outlined: classes that stand out, by a dark edge.
    """
    found = np.asarray(labels)
    columns = min(columns, len(planes))
    rows = -(-len(planes) // columns)
    side = 2.35 if columns > 2 else 3.0
    figure = style.new_figure(0.75 + 0.2 * (len(names) > 5) + side * rows, width=max(style.WIDTH, side * columns))
    grid = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (title, plane) in zip(grid.flat, planes.items(), strict=False):
        points = plane.points.numpy()
        for c, name in enumerate(names):
            handles[name] = axes.scatter(
                *points[found == c, :2].T,
                s=20 if c in outlined else 11,
                marker=MARKS[c % len(MARKS)],
                color=COLOURS[c % len(COLOURS)],
                alpha=0.95 if c in outlined else 0.7,
                linewidths=0.7 if c in outlined else 0,
                edgecolors=style.INK,
                zorder=3 if c in outlined else 2,
            )
        axes.set_title(title, fontsize=9)
        middle = (points.max(0) + points.min(0)) / 2
        half = 0.55 * float(np.ptp(points[:, :2], axis=0).max()) or 1.0
        axes.set(
            xlim=(middle[0] - half, middle[0] + half),
            ylim=(middle[1] - half, middle[1] + half),
            aspect="equal",
        )
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
        word = _NAMES[plane.method]
        share = ["", ""] if plane.shares is None else [f" ({float(s):.0%})" for s in plane.shares[:2]]
        if plane.method != "pca":  # positions and lengths mean nothing: neighbours do
            axes.tick_params(labelbottom=False, labelleft=False, length=0)
            axes.grid(False)
        axes.set_xlabel(f"{word} 1{share[0]}", fontsize=8)
        axes.set_ylabel(f"{word} 2{share[1]}", fontsize=8)
    for axes in list(grid.flat)[len(planes) :]:
        axes.set_visible(False)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=min(5, len(handles)), fontsize=8,
        markerscale=1.6, columnspacing=1.0, handletextpad=0.2,
    )  # fmt: skip
    shares = any(plane.shares is not None for plane in planes.values())
    notes = [note] if note else []
    style.footer(
        figure, meta, " · ".join([*notes, *(["shares of variance of the tangent features"] if shares else [])])
    )
    return figure

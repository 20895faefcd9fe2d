"""Digits that were learned and digits that were not: maps of tangent features, and what is measured in their kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style
from genkernel.plots.tangent_embedding import COLOURS, MARKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "kernel PCA"}
_GROUPS = {"0 to 4": (style.BLUE, "o"), "5 to 9": (style.VERMILION, "s")}


@style.house
def maps(
    panels: Mapping[str, tuple[Array, NDArray[np.int64]]], method: str, outlined: Sequence[int], meta: dict[str, Any]
) -> Figure:
    """Images in two dimensions, several kernels side by side.

    Args:
        panels: title → points ``[n, 2]`` and digits ``[n]``; panels may show other images, and have axes of their own.
        method: by which points were made; of t-SNE and UMAP positions mean nothing, so that axes have no numbers.
        outlined: digits with a dark edge, which stand out.
        meta: for the footer.
    """
    columns = 3
    rows = -(-len(panels) // columns)
    figure = style.new_figure(0.85 + 2.4 * rows, width=7.4)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (title, (points, digits)) in zip(grid.flat, panels.items(), strict=False):
        for c in np.unique(digits):
            edged = c in outlined
            handles[str(c)] = axes.scatter(
                *points[digits == c].T, s=17 if edged else 13, marker=MARKS[c % len(MARKS)],
                color=COLOURS[c % len(COLOURS)], alpha=0.9 if edged else 0.75, linewidths=0.6 if edged else 0,
                edgecolors=style.INK, zorder=3 if edged else 2,
            )  # fmt: skip
        middle = (points.max(0) + points.min(0)) / 2
        half = 0.55 * float(np.ptp(points, axis=0).max()) or 1.0
        axes.set(
            xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal"
        )  # fmt: skip
        style.map_axes(axes)
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.set_title(title, fontsize=9)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.legend(
        [handles[name] for name in sorted(handles)], sorted(handles), loc="outside upper center", ncols=len(handles),
        fontsize=8.5, markerscale=1.5, columnspacing=1.1, handletextpad=0.1,
    )  # fmt: skip
    dark = ", ".join(map(str, outlined))
    style.footer(figure, meta, f"{_NAMES[method]} of the normalised kernel, held-out images; dark edges: {dark}")
    return figure


@style.house
def measures(
    found: Mapping[str, Mapping[str, Mapping[str, Array]]], chance: Mapping[str, float], meta: dict[str, Any]
) -> Figure:
    """Agreement of kernels with digits, of those that a network learned and of the others.

    Args:
        found: measure → kernel → "0 to 4" and "5 to 9" → values of seeds.
        chance: measure → its value by chance, where that is not 0.
        meta: for the footer.
    """
    names = list(next(iter(found.values())))
    figure = style.new_figure(1.3 + 0.36 * len(names), width=7.4)
    panels: Any = figure.subplots(1, len(found), sharey=True)
    handles: dict[str, Any] = {}
    seeds = 0
    for axes, (measure, by_kernel) in zip(panels, found.items(), strict=True):
        for (digits, (colour, mark)), shift in zip(_GROUPS.items(), (-0.14, 0.14), strict=True):
            values = [by_kernel[name][digits] for name in names]
            seeds = len(values[0])
            handles[f"digits {digits}"] = axes.errorbar(
                [each.mean() for each in values], np.arange(len(names)) + shift, xerr=[_half(each) for each in values],
                ls="", marker=mark, color=colour, ms=4.5, linewidth=1.2,
            )  # fmt: skip
        axes.axvline(chance.get(measure, 0.0), color=style.MUTED, linewidth=1, linestyle=":")
        axes.set_title(measure.replace(", ", ",\n").replace(" of the", "\nof the"), fontsize=8.8)
        axes.set_xlim(min(-0.04, axes.get_xlim()[0]), 1.04)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=8.5)
    style.footer(figure, meta, f"means over {seeds} seeds; bars: 95 %; dotted: chance")
    return figure


@style.house
def class_maps(matrices: Mapping[str, Array], learned: int, seeds: int, meta: dict[str, Any]) -> Figure:
    """Mean cosines between images of all digits, in several kernels.

    Args:
        matrices: kernel → ``[10, 10]``.
        learned: so many digits come first and are set apart by lines.
        seeds: that the means are over.
        meta: for the footer.
    """
    figure = style.new_figure(2.9, width=7.4)
    panels: Any = figure.subplots(1, len(matrices), sharey=True)
    least = min(float(m.min()) for m in matrices.values())
    scale = {"vmin": min(0.0, np.floor(10 * least) / 10), "vmax": 1, "cmap": style.SEQUENTIAL}
    image: Any = None
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = axes.imshow(matrix, **scale)
        style.map_axes(axes)
        axes.tick_params(length=0, labelsize=7.5)
        axes.set_xticks(range(len(matrix)))
        axes.set_xlabel("digit")
        for line in (axes.axhline, axes.axvline):
            line(learned - 0.5, color="white", linewidth=1.2)
        axes.set_title(name[0].upper() + name[1:], fontsize=9)
    panels[0].set_yticks(range(len(matrix)))
    panels[0].set_ylabel("digit")
    figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.02).set_label("mean cosine", fontsize=8)
    style.footer(figure, meta, f"pairs of different held-out images, means over {seeds} seeds")
    return figure


def _half(values: Array) -> float:
    """Half of the 95 % interval of the mean."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0

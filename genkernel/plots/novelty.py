"""How well scores of novelty tell sets of images from those that were learned, and what the extremes look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Array = NDArray[np.float64]

_LOOKS = ((style.BLUE, "o"), (style.VERMILION, "s"), (style.GREEN, "D"))


@style.house
def auroc_dots(
    areas: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]], tangent: int, meta: dict[str, Any], bars: str
) -> Figure:
    """AUROC with its interval, one panel for every set, one row for every score.

    Args:
        areas: network → set → score → ``mean``, ``low``, ``high``.
        tangent: so many of the scores are of the tangent kernel; the others, below a line, are not.
        meta: for the footer.
        bars: what the intervals are.
    """
    first = next(iter(areas.values()))
    sets = list(first)
    scores = list(first[sets[0]])
    least = (
        min([0.45, *(one["low"] for table in areas.values() for by in table.values() for one in by.values())]) - 0.02
    )
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure = style.new_figure(0.8 + rows * (0.55 + 0.185 * len(scores)), width=2.0 * columns + 2.0)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, name in zip(grid.flat, sets, strict=False):
        for i, (network, table) in enumerate(areas.items()):
            colour, mark = _LOOKS[i]
            found = [table[name][score] for score in scores]
            mean = np.array([one["mean"] for one in found])
            ends = np.array([[one["mean"] - one["low"], one["high"] - one["mean"]] for one in found]).T
            handles[network] = axes.errorbar(
                mean, np.arange(len(scores)) + 0.16 * (2 * i - len(areas) + 1), xerr=ends.clip(0), fmt=mark,
                color=colour, markersize=3.4, linewidth=1.1, capsize=1.5,
            )  # fmt: skip
        axes.axvline(0.5, color=style.MUTED, linewidth=1, linestyle=":")
        axes.axhline(tangent - 0.5, color=style.MUTED, linewidth=0.8)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(scores)), scores, fontsize=7.5)
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.set_xlim(least, 1.02)
        axes.set_xticks([tick for tick in (0, 0.25, 0.5, 0.75, 1) if tick >= least])
    for axes in list(grid.flat)[len(sets) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("AUROC against test digits", fontsize=8)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=8.5)
    style.footer(figure, meta, f"{bars} · above the line: tangent kernel; below: other scores")
    return figure


@style.house
def gallery(
    images: Mapping[str, Tensor],
    scores: Mapping[str, Array],
    score: str,
    meta: dict[str, Any],
    note: str = "",
    each: int = 8,
) -> Figure:
    """The images of the lowest and of the highest scores of every set.

    Args:
        images: set → ``[m, 1, s, s]`` in [0, 1].
        scores: set → ``[m]``.
        score: its name.
        meta, note: for the footer.
        each: images on either side.
    """
    figure = style.new_figure(0.65 + 0.55 * len(images), width=6.6)
    grid = figure.subplots(len(images), 2, squeeze=False)
    for row, (name, pictures) in zip(grid, images.items(), strict=True):
        order = np.argsort(scores[name], kind="stable")
        for axes, chosen in zip(row, (order[:each], order[-each:]), strict=True):
            strip = np.concatenate([np.pad(pictures[i, 0].numpy(), 1, constant_values=0.5) for i in chosen], 1)
            axes.imshow(strip, cmap="gray", vmin=0, vmax=1, aspect="equal")
            style.map_axes(axes)
            side = strip.shape[0]
            axes.set_xticks(
                [side * (i + 0.5) - 0.5 for i in range(len(chosen))],
                [f"{scores[name][i]:.2f}" for i in chosen],
                fontsize=6.5,
            )
            axes.set_yticks([])
            axes.tick_params(length=0, pad=2)
        row[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    grid[0, 0].set_title(f"lowest {score}", fontsize=9)
    grid[0, 1].set_title(f"highest {score}", fontsize=9)
    style.footer(figure, meta, note)
    return figure

"""Denoisers beside GANs: an index of coupling for every recording, and contributions from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LOOKS = {
    "start": (style.GREY, "o", "white"),
    "whole": (style.BLUE, "D", style.BLUE),
    "end": (style.VERMILION, "s", "white"),
}
_FEWEST = 0.8  # κ that the axis reaches down to at least


@style.house
def couplings(
    found: Mapping[str, Mapping[str, Array]],
    steps: Mapping[str, Mapping[str, Array]],
    words: Mapping[str, str],
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """κ of every recording: of single steps before and after training, and of the whole training.

    Args:
        found: recording → when → values over seeds; NaN where there is none.
        steps: kind of single step of a recording → ``"start"`` and ``"end"`` → values over seeds, in a panel below.
        words: when → in the legend.
        meta, note: for the footer.
    """
    figure = style.new_figure(1.7 + 0.3 * (len(found) + len(steps)), width=7.2)
    panels = figure.subplots(2, 1, sharex=True, height_ratios=[len(found), len(steps)])
    for axes, rows in zip(panels, (found, steps), strict=True):
        names = list(rows)
        axes.axvline(1, color=style.MUTED, linewidth=1.0, linestyle="--")
        for k, (when, (colour, mark, inside)) in enumerate(_LOOKS.items()):
            known = [(place, rows[name][when]) for place, name in enumerate(names) if when in rows[name]]
            if not known:
                continue
            axes.errorbar(
                [values.mean() for _, values in known],
                [place + 0.2 * (k - 1) for place, _ in known],
                xerr=[_half(values) for _, values in known],
                fmt=mark, color=colour, markerfacecolor=inside, linewidth=1.2, label=words[when],
            )  # fmt: skip
        for k in range(1, len(names)):
            if names[k].split(",")[0] != names[k - 1].split(",")[0]:
                axes.axhline(k - 0.5, color=style.RULE, linewidth=0.9)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(False, axis="y")
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(min(low, _FEWEST), max(high, 1.03))
    panels[0].set_title("whole trainings, and single plain steps", fontsize=9)
    panels[1].set_title("single steps: plain, and as Adam takes them", fontsize=9)
    panels[1].set_xlabel("coupling κ (1: blocks do not matter; 0, off the axis: block-diagonal)", fontsize=8.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8.5)
    style.footer(figure, meta, note)
    return figure


@style.house
def block_maps(found: Mapping[str, Array], meta: dict[str, Any], note: str) -> Figure:
    """Shares of gross contributions from block to block over the whole training, on one scale.

    Args:
        found: recording → ``[M, M]``, rows are queries' blocks.
        meta, note: for the footer.
    """
    columns = -(-len(found) // 2)
    figure = style.new_figure(5.6, width=7.2)
    grid = figure.subplots(2, columns, squeeze=False)
    top = 100 * max(float(m.max()) for m in found.values())
    image: Any = None
    for k, (name, matrix) in enumerate(found.items()):
        axes = grid[k % 2, k // 2]
        image = axes.imshow(100 * matrix, origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=top)
        style.map_axes(axes)
        axes.set_title(name.replace(", ", ":\n"), fontsize=8.8)
        ticks = range(0, len(matrix), 2)
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.set_xlabel("contributing block", fontsize=8)
        axes.set_ylabel("block of the query", fontsize=8)
    for k in range(len(found), 2 * columns):
        grid[k % 2, k // 2].set_axis_off()
    bar = figure.colorbar(image, ax=grid, shrink=0.7, pad=0.02)
    bar.set_label("share of the row's gross contributions (%)", fontsize=8.5)
    bar.outline.set_visible(False)
    style.footer(figure, meta, note)
    return figure


def _half(values: Array) -> float:
    """Half of the 95 % interval of the mean."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0

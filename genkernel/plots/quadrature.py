"""How the completeness gap of path kernels falls with the step size, rule by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LOOKS = {
    "left": (style.VERMILION, "o", "left (the formula of the literature)"),
    "trapezoid": (style.BLUE, "s", "trapezoid"),
    "midpoint": (style.GREEN, "D", "midpoint"),
    "gauss2": (style.ORANGE, "v", "Gauss-Legendre 2"),
    "gauss4": (style.PURPLE, "^", "Gauss-Legendre 4"),
}


@style.house
def gaps_over_rates(
    panels: Mapping[str, Mapping[str, Sequence[float]]], rates: Sequence[float], meta: dict[str, Any], columns: int = 3
) -> Figure:
    """Completeness gap over the learning rate at a fixed horizon, one panel per run.

    Args:
        panels: title → rule → gap at every rate, relative to the change of the outputs.
        rates: learning rates, the same for all (for runs with rates of their own: relative to the largest).
        meta: for the footer.
        columns: panels side by side.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(0.9 + 2.1 * rows, width=2.5 * columns + 0.3)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    x = np.asarray(rates, dtype=np.float64)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for rule, gaps in curves.items():
            colour, mark, label = _LOOKS[rule]
            y = np.maximum(np.asarray(gaps, dtype=np.float64), 1e-17)
            (line,) = axes.plot(x, y, color=colour, marker=mark, label=label)
            handles[label] = line
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    low, high = grid.flat[0].get_ylim()
    for axes in list(grid.flat)[: len(panels)]:
        for power in (1, 2):
            axes.plot(
                x, 0.5 * (x / x.max()) ** power, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1
            )
        axes.set_ylim(max(low, 1e-17), max(high, 1.0))
    for axes in grid[:, 0]:
        axes.set_ylabel("gap / change of outputs")
    for axes in grid[-1]:
        axes.set_xlabel("learning rate η (η × steps fixed)")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(3, len(handles)), fontsize=8)
    style.footer(figure, meta | {"dashed": "orders 1 and 2"})
    return figure

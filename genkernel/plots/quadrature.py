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

_ROUNDING = 1e-17  # below that a gap is drawn at it
_APART = 25.0  # between two numbers beside the lines, which may end close to one another


@style.house
def gaps_over_rates(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    rates: Sequence[float],
    slopes: Mapping[str, Mapping[str, float]],
    meta: dict[str, Any],
    columns: int = 3,
    relative: bool = False,
) -> Figure:
    """Completeness gap over the learning rate at a fixed horizon, one panel per run.

    Args:
        panels: title → rule → gap at every rate, relative to the change of the outputs.
        rates: learning rates, the same for all (see ``relative``).
        slopes: title → rule → order of the gap, said beside lines that are above rounding.
        meta: for the footer.
        columns: panels side by side.
        relative: the rates are relative to every run's own.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(0.9 + 2.1 * rows, width=2.5 * columns + 0.3)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    x = np.asarray(rates, dtype=np.float64)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        orders: list[tuple[float, float, str]] = []
        for rule, gaps in curves.items():
            colour, mark, label = _LOOKS[rule]
            y = np.asarray(gaps, dtype=np.float64)
            (line,) = axes.plot(x, np.maximum(y, _ROUNDING), color=colour, marker=mark, label=label)
            handles[label] = line
            if y.min() > 1e3 * _ROUNDING:
                orders.append((float(y[np.argmax(x)]), slopes[title][rule], colour))
        place = np.inf
        for last, order, colour in sorted(orders, reverse=True):
            place = min(last, place / _APART)
            axes.annotate(
                f"{order:.2f}", (x.max(), place), xytext=(6, 0), textcoords="offset points", fontsize=7, color=colour,
                va="center", annotation_clip=False,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(x, [f"{rate:g}" for rate in x])
        axes.set_xticks([], minor=True)
        axes.set_title(title, fontsize=9)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in list(grid.flat)[: len(panels)]:
        axes.set_ylim(_ROUNDING / 3, 3.0)
    for column in range(columns):  # the lowest panel of a column says what the axis is
        lowest = [grid[row, column] for row in range(rows) if grid[row, column].get_visible()][-1]
        lowest.set_xlabel("η relative to the largest" if relative else "learning rate η (η × steps fixed)")
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("gap / change of outputs")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(3, len(handles)), fontsize=8)
    style.footer(figure, meta, "numbers: order of the gap in η")
    return figure

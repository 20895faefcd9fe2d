"""Boundaries of machines on tangent features and on points, and the areas that they get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style
from genkernel.plots.bands import half_interval
from genkernel.plots.decision_regions import boundary, frame, points, regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_TITLES = {
    "tangent": "linear on tangent\nfeatures",
    "untrained tangent": "linear on untrained\ntangent features",
    "RBF": "RBF on points,\nusual constants",
    "RBF, chosen": "RBF on points,\nchosen constants",
}
_TASKS = (("circle", style.BLUE, "o"), ("ellipse", style.VERMILION, "s"))


@style.house
def boundaries(
    tasks: Mapping[str, tuple[Array, NDArray[np.int64], Array, Mapping[str, Array], Mapping[str, float]]],
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """Decisions of machines on the square, beside the true boundary.

    Args:
        tasks: title → training points ``[n, 2]``, labels ``[n]``, what is positive outside on the square, decision
            values of machines there, and their areas on the wrong side.
        meta, note: for the footer.
    """
    columns = len(next(iter(tasks.values()))[3])
    figure = style.new_figure(4.3, width=7.4)
    grid = figure.subplots(len(tasks), columns, squeeze=False)
    for row, (task, (x, labels, truth, maps, wrong)) in enumerate(tasks.items()):
        for axes, (name, values) in zip(grid[row], maps.items(), strict=True):
            regions(axes, values, 1.0)
            points(axes, x, labels, size=5, alpha=0.6)
            boundary(axes, truth, 1.0, dash="--", linewidths=1.0)
            boundary(axes, values, 1.0, linewidths=1.5)
            frame(axes, 1.0, ticks=False)
            if row == 0:
                axes.set_title(_TITLES[name], fontsize=8.5)
            axes.text(
                0.5, 0.02, f"{wrong[name]:.1%} wrong", fontsize=7.5, ha="center", va="bottom", transform=axes.transAxes,
                zorder=7, bbox={"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
            )  # fmt: skip
        grid[row, 0].set_ylabel(task, fontsize=9)
    style.footer(figure, meta, f"solid: the machine; dashed: truth; %: of the square on the wrong side · {note}")
    return figure


@style.house
def areas(tasks: Mapping[str, Mapping[str, Array]], close: float, meta: dict[str, Any], note: str) -> Figure:
    """Parts of the square on the wrong side, for every machine and task.

    Args:
        tasks: task → machine → ``[seeds]``.
        close: what counts as a close match.
        meta, note: for the footer.
    """
    names = list(next(iter(tasks.values())))
    figure = style.new_figure(3.6, width=6.4)
    axes = figure.subplots()
    for (task, colour, mark), shift in zip(_TASKS, (-0.15, 0.15), strict=True):
        mean = np.array([tasks[task][name].mean() for name in names])
        half = np.array([float(half_interval(tasks[task][name][:, None])[0]) for name in names])
        at = np.arange(len(names)) + shift
        for y, name in zip(at, names, strict=True):
            each = tasks[task][name]
            axes.plot(each, np.full(len(each), y), ls="", marker=".", ms=4, color=colour, alpha=0.45, mew=0)
        axes.errorbar(
            mean, at, xerr=np.stack([np.minimum(half, mean), half]), fmt=mark, color=colour, label=task, linewidth=1.3
        )
    axes.axvline(close, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"part of the square on the wrong side (dotted: {close:g})")
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2)
    axes.set_title("Area on the wrong side")
    style.footer(figure, meta, note)
    return figure

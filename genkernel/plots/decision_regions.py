"""Decisions on a square of the plane, with points of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = (style.BLUE, style.VERMILION)
TINTS = ("#dcebf5", "#fae3d6")  # of the classes, light


def frame(axes: Axes, half: float, ticks: bool = True) -> None:
    """[-half, half]² with equal units."""
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    style.map_axes(axes)
    at = [-1, 0, 1] if half > 1 else [-0.5, 0, 0.5]
    axes.set_xticks(at, [style.number(t) for t in at] if ticks else [""] * 3, fontsize=7)
    axes.set_yticks(at, [style.number(t) for t in at] if ticks else [""] * 3, fontsize=7)
    axes.tick_params(length=2, pad=2)


def regions(axes: Axes, values: ArrayLike, half: float, tints: tuple[str, str] = TINTS) -> None:
    """Where values ``[side²]`` (row by row from below, as :func:`genkernel.experiments.plane_maps.square`) are above 0.

    Tints for both signs; lines are drawn with :func:`boundary`.
    """
    from matplotlib.colors import ListedColormap

    axes.imshow(
        _rows(values) > 0, cmap=ListedColormap(list(tints)), vmin=0, vmax=1, origin="lower",
        extent=(-half, half, -half, half), interpolation="nearest", zorder=0,
    )  # fmt: skip


def boundary(axes: Axes, values: ArrayLike, half: float, colour: str = style.INK, dash: str = "-", **how: Any) -> None:
    """The line on which values ``[side²]`` are 0; nothing where they have one sign."""
    grid = _rows(values)
    if not (grid.min() < 0 < grid.max()):
        return
    side = len(grid)
    at = half * ((2 * np.arange(side) + 1) / side - 1)
    axes.contour(
        at, at, grid, levels=[0.0], colors=[colour], linestyles=[dash], **{"linewidths": 1.1, "zorder": 4, **how}
    )


def points(axes: Axes, x: ArrayLike, labels: ArrayLike, size: float = 6.0, alpha: float = 0.75) -> None:
    """Points ``[n, 2]`` in the colours of their classes 0 and 1 ``[n]``."""
    at, found = np.asarray(x), np.asarray(labels)
    for c, (colour, mark) in enumerate(zip(CLASSES, ("o", "^"), strict=True)):
        axes.scatter(
            at[found == c, 0], at[found == c, 1], s=size, marker=mark, color=colour, alpha=alpha, linewidths=0, zorder=3
        )


def _rows(values: ArrayLike) -> np.ndarray:
    v = np.asarray(values, dtype=np.float64)
    side = round(v.size**0.5)
    return v.reshape(side, side)

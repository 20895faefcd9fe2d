"""Eigenlearning: predicted errors and learnabilities as curves, measured ones as points, and what is conserved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Point = tuple[float, float, float]  # n, mean, standard error

_COLOURS = (style.INK, style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE)
_MARKS = "oDs^v"
_DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Panel:
    """One function: (n, MSE, learnability) as predicted; (n, MSE, its s.e., learnability, its s.e.) as measured."""

    smooth: tuple[Array, Array, Array]
    kernels: Sequence[tuple[float, float, float, float, float]]
    networks: Sequence[tuple[float, float, float, float, float]]


@dataclass(frozen=True)
class Line:
    """One setting: (n, MSE) as predicted from reference samples as the density and as a sample, points as measured."""

    smooth: tuple[Array, Array]
    corrected: tuple[Array, Array]
    measured: Sequence[Point] = field(default_factory=list)


@style.house
def boolean_functions(panels: Mapping[str, Mapping[str, Panel]], meta: dict[str, Any], note: str) -> Figure:
    """MSE and learnability over the number of training points, a row per architecture.

    Args:
        panels: architecture → function → what was predicted and measured.
        meta, note: for the footer.
    """
    figure = style.new_figure(0.75 + 1.75 * len(panels), width=7.0)
    grid = figure.subplots(len(panels), 2, sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for row, (name, functions) in zip(grid, panels.items(), strict=True):
        for k, (function, panel) in enumerate(functions.items()):
            colour = _COLOURS[k]
            for column, axes in enumerate(row):
                (line,) = axes.plot(panel.smooth[0], panel.smooth[1 + column], color=colour, linewidth=1.3)
                handles[function] = line
                _points(axes, panel.kernels, column, {"color": colour, "marker": "o", "markersize": 3.2})
                _points(
                    axes, panel.networks, column,
                    {"color": colour, "marker": "s", "markersize": 5.5, "markerfacecolor": "none"},
                )  # fmt: skip
        row[0].set_ylabel(f"{name}\nMSE", color=style.INK)
        row[0].set_ylim(bottom=0)
        row[1].set_ylabel("learnability")
        row[1].set_ylim(-0.05, 1.05)
    for axes in grid[-1]:
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
        axes.set_xlabel("training points n")
    from matplotlib.lines import Line2D

    handles["predicted"] = Line2D([], [], color=style.MUTED)
    handles["kernel regression"] = Line2D([], [], color=style.MUTED, marker="o", linestyle="none", markersize=3.2)
    handles["trained networks"] = Line2D(
        [], [], color=style.MUTED, marker="s", linestyle="none", markerfacecolor="none", markersize=5.5
    )
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8)
    style.footer(figure, meta, note)
    return figure


def _points(
    axes: Axes, points: Sequence[tuple[float, float, float, float, float]], column: int, look: dict[str, Any]
) -> None:
    rows = np.array(points, dtype=np.float64).reshape(-1, 5)
    axes.errorbar(
        rows[:, 0], rows[:, 1 + 2 * column], 2 * rows[:, 2 + 2 * column], linestyle="none", elinewidth=0.9, capsize=1.6,
        **look,
    )  # fmt: skip


@style.house
def conservation(
    bars: Mapping[int, Mapping[str, tuple[Array, Array, float]]], names: Sequence[str], meta: dict[str, Any], note: str
) -> Figure:
    """Learnabilities of all modes, stacked: kernel regression and networks side by side, a panel per n.

    Args:
        bars: n → architecture → learnability of every mode by kernel regression ``[M]``, by networks ``[M]``, and the
            standard error of the networks' sum.
        names: of the modes.
        meta, note: for the footer.
    """
    import matplotlib

    figure = style.new_figure(3.5, width=7.2)
    grid = figure.subplots(1, len(bars), squeeze=False)[0]
    colours = matplotlib.colormaps[style.SEQUENTIAL](np.linspace(0.05, 0.95, len(names)))
    handles: list[Any] = []
    for axes, (n, each) in zip(grid, bars.items(), strict=True):
        for k, (kernel, network, stderr) in enumerate(each.values()):
            for place, heights, hatch in ((k - 0.2, kernel, None), (k + 0.2, network, "////")):
                bottom = np.concatenate([[0.0], np.cumsum(heights)])
                parts = axes.bar(
                    place, heights, 0.36, bottom[:-1], color=colours, edgecolor="white", linewidth=0.5, hatch=hatch
                )
                handles = list(parts) if hatch is None else handles
            axes.errorbar(k + 0.2, network.sum(), 2 * stderr, color=style.INK, linestyle="none")
        axes.axhline(n, color=style.VERMILION, linewidth=1.0, linestyle=(0, (4, 3)), zorder=3)
        axes.set_xticks(range(len(each)), [name.replace(", ", "\n") for name in each], fontsize=8)
        axes.set_ylim(0, 1.12 * n)
        axes.set_title(f"n = {n}", fontsize=9.5)
        axes.grid(axis="x", visible=False)
    grid[0].set_ylabel("learnability, summed over modes")
    from matplotlib.patches import Patch

    figure.legend(
        handles[::-1], list(names)[::-1], loc="outside right center", fontsize=7.6, title="mode", title_fontsize=8
    )
    kinds = [
        Patch(facecolor=style.RULE, edgecolor="white", label="kernel regression"),
        Patch(facecolor=style.GREY, edgecolor="white", hatch="////", label="trained networks"),
    ]
    figure.legend(handles=kinds, loc="outside upper center", ncols=2, fontsize=8)
    style.footer(figure, meta, note)
    return figure


@style.house
def image_curves(
    panels: Mapping[str, Mapping[str, Line]],
    trained: Mapping[str, Mapping[str, Sequence[Point]]],
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """Test MSE over the number of training images, a panel per kernel.

    Args:
        panels: kernel → setting → what was predicted and measured.
        trained: kernel → name → points of trained networks, without ridge and noise.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.5, width=7.2)
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axes, (name, lines) in zip(grid, panels.items(), strict=True):
        for k, (setting, line) in enumerate(lines.items()):
            colour = _COLOURS[1 + k]
            (handles[setting],) = axes.plot(*line.corrected, color=colour, linewidth=1.4)
            axes.plot(*line.smooth, color=colour, linewidth=1.0, linestyle=_DASHES)
            rows = np.array(line.measured, dtype=np.float64).reshape(-1, 3)
            axes.errorbar(
                rows[:, 0], rows[:, 1], 2 * rows[:, 2], color=colour, marker=_MARKS[k], linestyle="none",
                markersize=5.8 - 1.3 * k, zorder=3 + k,
            )  # fmt: skip
        for k, (title, points) in enumerate(trained.get(name, {}).items()):
            rows = np.array(points, dtype=np.float64).reshape(-1, 3)
            handles[title] = axes.errorbar(
                rows[:, 0], rows[:, 1], 2 * rows[:, 2], color=(style.GREY, style.INK)[k % 2],
                marker="*P"[k % 2], linestyle="none", markersize=6.5,
            )  # fmt: skip
        axes.set_title(name, fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("training images n")
    ticks = [int(point[0]) for point in next(iter(next(iter(panels.values())).values())).measured]
    for axes in grid:
        axes.set_xticks(ticks, [str(n) for n in ticks])
    top = max(p[1] + 2 * p[2] for lines in panels.values() for line in lines.values() for p in line.measured)
    grid[0].set_ylim(0, 1.08 * top)
    grid[0].set_ylabel("test MSE (with label noise)")
    from matplotlib.lines import Line2D

    handles["reference images as a sample"] = Line2D([], [], color=style.MUTED, linewidth=1.4)
    handles["reference images as the density"] = Line2D([], [], color=style.MUTED, linewidth=1.0, linestyle=_DASHES)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=7.8)
    style.footer(figure, meta, f"curves: predicted, marks: measured · {note}")
    return figure

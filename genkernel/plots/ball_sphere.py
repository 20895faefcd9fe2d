"""Ball and sphere, and two sides of a line: boundaries of machines, nearest points, and how the kernel deforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style
from genkernel.plots.bands import half_interval
from genkernel.plots.decision_regions import boundary, frame, points, regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_KINDS = {"kernel": (style.BLUE, "o", "-"), "untrained": (style.ORANGE, "^", "--"), "Euclidean": (style.INK, "s", ":")}
_NEAR = style.ORANGE
_MACHINES = ((style.BLUE, "o", "-"), (style.ORANGE, "^", "--"), (style.SKY, "D", "-."), (style.INK, "s", ":"))


@style.house
def machines(
    maps: Mapping[str, Array],
    x: Array,
    labels: NDArray[np.int64],
    half: float,
    apart: Mapping[str, float],
    meta: dict[str, Any],
) -> Figure:
    """Decisions of support vector machines, with the boundary of the network.

    Args:
        maps: ``network`` and machines → what decides on a square.
        x, labels: training points ``[n, 2]``, classes ``[n]``.
        half: of the square's side.
        apart: machine → part of the square where it is not the network's decision.
        meta: for the footer.
    """
    names = [name for name in maps if name != "network"]
    figure = style.new_figure(2.85, width=7.4)
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        regions(axes, maps[name], half)
        points(axes, x, labels, size=4, alpha=0.6)
        boundary(axes, maps["network"], half, dash="--", linewidths=1.0)
        boundary(axes, maps[name], half, linewidths=1.5)
        frame(axes, half, ticks=False)
        axes.set_title(name.replace(", ", ",\n").replace("untrained ", "untrained\n"), fontsize=8.5)
        axes.set_xlabel(f"{apart[name]:.1%} unlike the network", fontsize=7.5)
    style.footer(figure, meta, "solid: support vector machine; dashed: network")
    return figure


@style.house
def penalties(
    at: Sequence[float], soft: Mapping[str, Array], hard: Mapping[str, Array], level: float, meta: dict[str, Any]
) -> Figure:
    """How far machines are from the network, over their penalty and with the largest margin.

    Args:
        at: penalties ``[C]``.
        soft: machine → part of the square where it is not the network's decision ``[seeds, C]``.
        hard: machine → the same with the largest margin ``[seeds]``.
        level: below it boundaries match closely.
        meta: for the footer.
    """
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    end = at[-1] * 8
    for (name, values), (colour, mark, dash), aside in zip(
        soft.items(), _MACHINES, (0.6, 0.85, 1.18, 1.65), strict=True
    ):
        mean, half = values.mean(0), half_interval(values)
        axes.fill_between(at, (mean - half).clip(min=1e-4), mean + half, color=colour, alpha=0.13, lw=0)
        axes.plot(at, mean, color=colour, marker=mark, ls=dash, label=name)
        axes.errorbar(
            end * aside, hard[name].mean(), yerr=half_interval(hard[name][:, None]), color=colour, marker=mark,
            mfc="white",
        )  # fmt: skip
    axes.axhline(level, color=style.MUTED, lw=0.9, ls=(0, (1, 2)))
    axes.axvline(at[-1] * 2.4, color=style.MUTED, lw=0.8)
    axes.set(xscale="log", yscale="log", ylim=(2e-3, 0.6), xlim=(at[0] * 0.8, end * 2.2))
    axes.set_xticks([*at, end], [*(f"{c:g}" for c in at), "largest\nmargin"])
    axes.set_xticks([], minor=True)
    ticks = (0.003, 0.01, 0.03, 0.1, 0.3)
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("penalty C")
    axes.set_ylabel("part of the square")
    axes.set_title("Decision unlike the network's")
    axes.legend(fontsize=8)
    style.footer(figure, meta, f"mean and 95 % over seeds; dotted: {level:g}")
    return figure


@style.house
def nearest(
    asked: Mapping[str, Array],
    kinds: Mapping[str, NDArray[np.int64]],
    x: Array,
    labels: NDArray[np.int64],
    values: Array,
    half: float,
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """The nearest points of several x0, by kernel and by distance, over the network's decision.

    Args:
        asked: title → x0.
        kinds: name → indices of the nearest ``[q, k]``.
        x, labels: training points ``[n, 2]``, classes ``[n]``.
        values: outputs of the network on a square of which ``half`` is half of the side.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.5, width=7.4)
    grid = figure.subplots(len(kinds), len(asked), squeeze=False)
    for row, (kind, near) in enumerate(kinds.items()):
        for column, (title, place) in enumerate(asked.items()):
            axes = grid[row, column]
            regions(axes, values, half)
            boundary(axes, values, half, linewidths=0.8)
            points(axes, x, labels, size=2.5, alpha=0.45)
            axes.scatter(*x[near[column]].T, s=9, color=_NEAR, linewidths=0.35, edgecolors=style.INK, zorder=5)
            axes.plot(*place, marker="*", ms=11, mfc="white", mec=style.INK, mew=0.9, ls="", zorder=6)
            frame(axes, half, ticks=False)
            if row == 0:
                axes.set_title(title, fontsize=9)
        grid[row, 0].set_ylabel(kind, fontsize=8.5)
    style.footer(figure, meta, f"star: {note}; tints: decision")
    return figure


@style.house
def deformation(
    distances: Sequence[float],
    across: Mapping[str, Array],
    along: Mapping[str, Array],
    metric: Array,
    before: Array,
    lattice: tuple[Array, Array],
    meta: dict[str, Any],
) -> Figure:
    """Lengths of neighbourhoods across and along the line, and how fast the kernel turns, over the disk.

    Args:
        distances: of x0 from the line ``[s]``.
        across, along: neighbours → standard deviations ``[seeds, s]``.
        metric, before: radians per unit of length, across and along, ``[seeds, 2, L, A]``, trained and untrained.
        lattice: places across ``[A]`` and along ``[L]``.
        meta: for the footer.
    """
    figure = style.new_figure(5.2, width=7.4)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    top = halves[0].subplots(1, 3)
    for axes, values, title in ((top[0], across, "across the line"), (top[1], along, "along the line")):
        for name, (colour, mark, dash) in _KINDS.items():
            axes.errorbar(
                distances, values[name].mean(0), yerr=half_interval(values[name]), color=colour, marker=mark, ls=dash,
                lw=1.4, label=name,
            )  # fmt: skip
        axes.set_title(f"Spread {title}", fontsize=9.5)
        axes.set_ylabel("standard deviation")
        axes.set_xlabel("distance of x₀ from the line")
        axes.set_xlim(0, 1)
    tall = max(float((v[name].mean(0) + half_interval(v[name])).max()) for v in (across, along) for name in v)
    for axes in top[:2]:
        axes.set_ylim(0, tall * 1.08)
    top[0].legend(fontsize=7.5, loc="upper right")
    places = lattice[0]
    middle = np.abs(lattice[1]) <= 0.2
    for turn, i, (colour, _, dash), name in (
        (metric, 0, _KINDS["kernel"], "across"),
        (metric, 1, (style.SKY, "", "-"), "along"),
        (before, 0, _KINDS["untrained"], "across, untrained"),
    ):
        profile = np.nanmean(turn[:, i][:, middle], 1)
        half = half_interval(profile)
        top[2].fill_between(places, profile.mean(0) - half, profile.mean(0) + half, color=colour, alpha=0.18, lw=0)
        top[2].plot(places, profile.mean(0), color=colour, ls=dash, label=name)
    top[2].set_ylim(bottom=0)
    top[2].set_ylim(top=1.35 * top[2].get_ylim()[1])
    top[2].set_xlabel("place across the line")
    top[2].set_ylabel("turn (rad / length)")
    top[2].set_title("Turn of the kernel", fontsize=9.5)
    top[2].legend(fontsize=7, loc="upper left", handlelength=1.6)
    maps = [(metric[:, 0], "Trained, across"), (metric[:, 1], "Trained, along"), (before[:, 0], "Untrained, across")]
    most = max(float(np.nanmax(turn.mean(0))) for turn, _ in maps)
    low = halves[1].subplots(1, 3)
    ends = [end for at in lattice for end in (1.5 * at[0] - 0.5 * at[1], 1.5 * at[-1] - 0.5 * at[-2])]
    for axes, (turn, title) in zip(low, maps, strict=True):
        image = axes.imshow(
            turn.mean(0), origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=most,
            extent=ends, aspect="equal",
        )  # fmt: skip
        style.map_axes(axes)
        axes.axvline(0, color="white", lw=0.8, ls="--")
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel("across the line")
        axes.set_xticks([-0.5, 0, 0.5])
        axes.set_yticks([-0.5, 0, 0.5])
    low[0].set_ylabel("along the line")
    halves[1].colorbar(image, ax=list(low), shrink=0.85, label="turn (rad / length)")
    style.footer(figure, meta, "turn: of the direction of tangent features · mean and 95 % over seeds")
    return figure

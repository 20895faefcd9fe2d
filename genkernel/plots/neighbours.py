"""Neighbours in tangent space while networks learn: nearest points of anchors, kernel values, courses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style
from genkernel.plots.bands import band, step_axis
from genkernel.plots.decision_regions import boundary, frame, regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_OPTIMIZERS = {
    "SGD": (style.BLUE, "o"),
    "SGD with momentum": (style.VERMILION, "s"),
    "RMSprop": (style.GREEN, "^"),
    "Adam": (style.PURPLE, "D"),
}
_FIRST, _SECOND = style.ORANGE, style.PURPLE  # of two anchors in one panel
_OWN, _OTHER = ((style.INK, ":"), (style.BLUE, "-"), (style.SKY, "--")), ((style.VERMILION, "-"), (style.ORANGE, "--"))


@style.house
def nearest_of_anchors(
    columns: Mapping[str, tuple[NDArray[np.int64], Array]],
    x: Array,
    labels: Array,
    anchors: Array,
    classes: Sequence[int],
    square: tuple[float, int],
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """The nearest training points of four anchors, two in a row, over the decisions of a network.

    Args:
        columns: title → indices of the k nearest ``[4, k]`` and outputs on a square.
        x, labels: training points ``[n, 2]`` and classes ``[n]``.
        anchors, classes: ``[4, 2]`` and the class of each.
        square: half of its side, and cells along it.
        meta, note: for the footer.
    """
    figure = style.new_figure(4.15, width=7.4)
    grid = figure.subplots(2, len(columns), squeeze=False)
    half = square[0]
    for column, (title, (nearest, values)) in enumerate(columns.items()):
        for row, pair in enumerate(((0, 1), (2, 3))):
            axes = grid[row, column]
            regions(axes, values, half)
            boundary(axes, values, half, linewidths=0.8)
            axes.scatter(*x.T, s=2.5, color=style.GREY, linewidths=0, zorder=1.5)
            shares = []
            for which, colour, size, order in zip(pair, (_FIRST, _SECOND), (17, 5), (2, 3), strict=True):
                near = nearest[which]
                axes.scatter(*x[near].T, s=size, color=colour, linewidths=0, zorder=order)
                axes.plot(
                    *anchors[which], marker="*", ms=11, mfc=colour, mec="white", mew=0.9, ls="", zorder=6
                )  # fmt: skip
                shares.append((labels[near] == classes[which]).mean())
            frame(axes, half, ticks=False)
            if row == 0:
                axes.set_title(title, fontsize=8.5)
            for share, colour, place, side in zip(
                shares, (_FIRST, _SECOND), (0.03, 0.97), ("left", "right"), strict=True
            ):
                axes.text(
                    place, 0.025, f"{share:.0%}", color=colour, fontsize=8, fontweight="bold", ha=side, va="bottom",
                    transform=axes.transAxes, zorder=7,
                    bbox={"boxstyle": "square,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.8},
                )  # fmt: skip
    for row, what in enumerate(("anchors on the circle", "anchors in the disk")):
        grid[row, 0].set_ylabel(what, fontsize=8.5)
    style.footer(
        figure, meta, f"stars: anchors; dots: their {len(nearest[0])} nearest; %: of the anchor's class; tints: "
        f"decision · {note}",
    )  # fmt: skip
    return figure


@style.house
def pairs_over_training(
    curves: Mapping[tuple[str, str], Array],
    moments: Sequence[int],
    partners: Sequence[str],
    same: Sequence[str],
    meta: dict[str, Any],
) -> Figure:
    """K̃(x0, x) over training: rows are losses, columns optimizers.

    Args:
        curves: (loss, optimizer) → ``[seeds, T, partners]``.
        moments: steps ``[T]``.
        partners: names of the points x, x0 itself first.
        same: those of them that are of x0's class.
        meta: for the footer.
    """
    losses = list(dict.fromkeys(loss for loss, _ in curves))
    optimizers = list(dict.fromkeys(o for _, o in curves))
    figure = style.new_figure(0.85 + 1.75 * len(losses), width=7.4)
    grid = figure.subplots(len(losses), len(optimizers), squeeze=False, sharex=True, sharey=True)
    looks = _looks(partners, same)
    handles: dict[str, Any] = {}
    for row, loss in enumerate(losses):
        for column, optimizer in enumerate(optimizers):
            axes = grid[row, column]
            axes.axhline(0, color=style.MUTED, lw=0.8)
            for j, name in enumerate(partners):
                colour, dash = looks[name]
                band(axes, moments, curves[loss, optimizer][:, :, j], colour, -1, 1, ls=dash, lw=1.5)
                handles[name] = axes.lines[-1]
            step_axis(axes, moments, "training step" if row == len(losses) - 1 else "")
            axes.set_ylim(-1.0, 1.05)
            axes.set_yticks([-1, -0.5, 0, 0.5, 1])
            if row == 0:
                axes.set_title(optimizer, fontsize=9)
            if column == 0:
                axes.set_ylabel(f"K̃(x₀, x), {loss} loss", fontsize=8.5)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=7.5,
        columnspacing=1.2, handlelength=2.0,
    )  # fmt: skip
    style.footer(figure, meta, "x₀ = (1, 0) on the circle · blue: its class, red: the other · mean and 95 % over seeds")
    return figure


def _looks(partners: Sequence[str], same: Sequence[str]) -> dict[str, tuple[str, str]]:
    own, other = iter(_OWN[1:]), iter(_OTHER)
    return {partners[0]: _OWN[0]} | {name: next(own if name in same else other) for name in partners[1:]}


@style.house
def courses(
    found: Mapping[tuple[str, str], Mapping[str, Array]],
    moments: Sequence[int],
    euclidean: float,
    chance: float,
    k: int,
    meta: dict[str, Any],
) -> Figure:
    """Neighbours and contrast over steps, and contrast over the training loss: rows are losses.

    Args:
        found: (loss, optimizer) → ``purity``, ``contrast`` and ``loss``, each ``[seeds, T]``.
        moments: steps ``[T]``.
        euclidean, chance: shares of neighbours with the own label.
        k: neighbours.
        meta: for the footer.
    """
    from matplotlib.ticker import NullFormatter

    losses = list(dict.fromkeys(loss for loss, _ in found))
    figure = style.new_figure(0.75 + 2.05 * len(losses), width=7.4)
    grid = figure.subplots(len(losses), 3, squeeze=False)
    handles: dict[str, Any] = {}
    for row, loss in enumerate(losses):
        left, middle, right = grid[row]
        for optimizer, (colour, mark) in _OPTIMIZERS.items():
            values = found[loss, optimizer]
            look = {"marker": mark, "ms": 3, "lw": 1.3}
            band(left, moments, values["purity"], colour, 0, 1, **look)
            band(middle, moments, values["contrast"], colour, -1, 1, **look)
            at = np.exp(np.log(values["loss"]).mean(0))
            right.plot(at, values["contrast"].mean(0), color=colour, **look)
            handles[optimizer] = right.lines[-1]
        handles["Euclidean"] = left.axhline(euclidean, color=style.INK, lw=1, ls="--")
        handles["chance"] = left.axhline(chance, color=style.MUTED, lw=1, ls=":")
        left.set_ylim(0.45, 1.0)
        for axes in (middle, right):
            axes.set_ylim(-0.05, 0.6)
            axes.axhline(0, color=style.MUTED, lw=0.8)
        right.set_xscale("log")
        right.xaxis.set_minor_formatter(NullFormatter())
        right.invert_xaxis()
        right.set_xlabel("training loss")
        left.set_ylabel(f"{k} nearest: own label\n({loss} loss)", fontsize=8.5)
        middle.set_ylabel("contrast of cosines", fontsize=8.5)
        for axes in (left, middle):
            step_axis(axes, moments)
        if row == 0:
            for axes, title in ((left, "neighbours"), (middle, "contrast"), (right, "contrast at equal loss")):
                axes.set_title(title, fontsize=9.5)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=len(handles),
        fontsize=7.5,
        columnspacing=1.2,
    )
    style.footer(figure, meta, "contrast: mean cosine of pairs of one class minus of two · mean and 95 % over seeds")
    return figure

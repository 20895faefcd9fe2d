"""Filling lines: which starts find the exact solution, and where the others are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LOOKS = {
    "exact structure": (style.BLUE, "o"),
    "exact structure, GELU": (style.SKY, "^"),
    "exact structure, |x|": (style.PURPLE, "v"),
    "wider convolution": (style.VERMILION, "s"),
    "convolutions between": (style.GREEN, "D"),
}


@style.house
def line_filling(
    starts: Mapping[tuple[str, int, int], tuple[float, float, float]],
    noises: Sequence[tuple[float, float, float, float]],
    curves: Mapping[str, tuple[int, Array]],
    length: int,
    meta: dict[str, Any],
) -> Figure:
    """Three panels.

    Args:
        starts: (structure, length, ones) → share of starts that end right everywhere, and the ends of its interval.
        noises: (standard deviation, likewise), from the exact weights.
        curves: structure → trained number of ones, shares of wrong places by number of ones ``[n + 1, R]``.
        length: of the sequences of ``noises`` and ``curves``.
        meta: for the footer.
    """
    figure = style.new_figure(5.4, width=7.2)
    grid = figure.add_gridspec(2, 2)
    _starts(figure.add_subplot(grid[0, 0]), starts)
    _noises(figure.add_subplot(grid[0, 1]), noises, length)
    _curves(figure.add_subplot(grid[1, :]), curves, length)
    style.footer(figure, meta, "bars: 95 % (Wilson); below: medians, and the range of the middle half of the starts")
    return figure


def _starts(axes: Axes, starts: Mapping[tuple[str, int, int], tuple[float, float, float]]) -> None:
    sizes = sorted({n for _, n, _ in starts})
    for number, n in enumerate(sizes):
        group = [
            (name, ones) for name in _LOOKS for ones in sorted(k for other, m, k in starts if (other, m) == (name, n))
        ]
        for k, (name, ones) in enumerate(group):
            share, low, high = starts[name, n, ones]
            colour, mark = _LOOKS[name]
            place = number + 0.11 * (k - (len(group) - 1) / 2)
            axes.plot([place, place], [low, high], color=colour, lw=1)
            fewest = ones == min(one for other, one in group if other == name)
            axes.plot(place, share, color=colour, marker=mark, ls="", ms=5, mfc="white" if fewest else colour)
    for name, (colour, mark) in _LOOKS.items():
        if any(key[0] == name for key in starts):
            axes.plot([], [], color=colour, marker=mark, ls="", label=name)
    axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    axes.set(ylim=(-0.04, 1.08), xlim=(-0.5, len(sizes) - 0.5))
    axes.set_xlabel("length n (hollow: the fewest ones)")
    axes.set_ylabel("starts that find it")
    axes.legend(fontsize=7, loc="upper right")
    axes.set_title("From random weights")


def _noises(axes: Axes, noises: Sequence[tuple[float, float, float, float]], length: int) -> None:
    for noise, _, low, high in noises:
        axes.plot([noise, noise], [low, high], color=style.BLUE, lw=1)
    axes.plot([one[0] for one in noises], [one[1] for one in noises], color=style.BLUE, marker="o")
    axes.set_xscale("log")
    ticks = [one[0] for one in noises]
    axes.set_xticks(ticks, [f"{n:g}" for n in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.04, 1.08)
    axes.set_xlabel("standard deviation of the noise")
    axes.set_ylabel("starts that find it")
    axes.set_title(f"From the exact weights, n = {length}")


def _curves(axes: Axes, curves: Mapping[str, tuple[int, Array]], length: int) -> None:
    at = np.arange(length + 1)
    for (structure, (ones, wrong)), width in zip(curves.items(), (2.6, 1.6, 1.6), strict=False):  # where they coincide
        colour, mark = _LOOKS[structure]
        low, middle, high = np.quantile(wrong, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(at, middle, color=colour, marker=mark, lw=width, ms=2.4 + 1.1 * width, label=structure)
        axes.axvline(ones, color=style.MUTED, lw=0.8, ls=":")
    axes.axhline(0.5, color=style.MUTED, lw=0.8, ls="--")
    axes.set(ylim=(-0.02, 0.72), xlim=(-0.3, length + 0.3))
    axes.set_xticks(at[:: max(1, length // 16)])
    axes.set_xlabel("nonzero coordinates k (dotted: trained)")
    axes.set_ylabel("share of wrong places")
    axes.legend(fontsize=7.5, loc="upper left", ncols=3, frameon=True, facecolor="white", edgecolor="none")
    axes.set_title(f"Random starts on other numbers of ones, n = {length}")

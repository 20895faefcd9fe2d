"""Deviations of kernels from invariance, by network, and of mean kernels over the number of starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_FLOOR = 1e-17  # zero is drawn here


@style.house
def deviations(
    cases: Mapping[str, tuple[str, Mapping[str, Any]]],
    exact: float,
    starts: Sequence[int],
    means: Mapping[str, Array],
    meta: dict[str, Any],
) -> Figure:
    """One row for each network: deviations under one side and both, before and after training, and accuracies.

    Args:
        cases: network → its symmetry, and ``untrained`` and ``trained`` with ``one`` and ``both`` ``[seeds]``,
            ``accuracy``, ``moved``.
        exact: deviation up to which it is rounding.
        starts: in a mean ``[k]``.
        means: side → deviations of mean kernels ``[replicates, k]``.
        meta: for the footer.
    """
    from matplotlib.lines import Line2D

    names = list(cases)
    figure = style.new_figure(2.9 + 0.225 * len(names), width=7.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=(0.225 * len(names) + 0.9, 2.1))
    left, right = halves[0].subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for row, (_, found) in enumerate(cases.values()):
        for moment, colour, shift in (("untrained", style.VERMILION, -0.14), ("trained", style.BLUE, 0.14)):
            for side, mark in (("one", "o"), ("both", "D")):
                values = np.maximum(np.asarray(found[moment][side]), _FLOOR)
                left.plot(
                    values, np.full(len(values), row + shift), ls="", marker=mark, ms=4, mew=0.9, color=colour,
                    mfc=colour if side == "one" else "white", alpha=0.8,
                )  # fmt: skip
        for what, colour, mark in (("accuracy", style.GREY, "s"), ("moved", style.GREEN, "^")):
            values = np.asarray(found[what])
            right.errorbar(
                values.mean(), row, xerr=_half(values), color=colour, marker=mark, markersize=4.5, linewidth=1.1
            )
    groups = [symmetry for symmetry, _ in cases.values()]
    for row in range(1, len(names)):
        if groups[row] != groups[row - 1]:
            for axes in (left, right):
                axes.axhline(row - 0.5, color=style.MUTED, linewidth=0.8)
    left.axvspan(_FLOOR / 3, exact, color=style.SKY, alpha=0.15, linewidth=0)
    left.set_xscale("log")
    left.set_xlim(_FLOOR / 3, 9)
    left.set_xticks([1e-17, 1e-12, 1e-9, 1e-6, 1e-3, 1], ["0", "10⁻¹²", "10⁻⁹", "10⁻⁶", "10⁻³", "1"])
    left.set_yticks(range(len(names)), names, fontsize=7.8)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("deviation, relative to the kernel (shaded: rounding)")
    left.legend(
        handles=[
            Line2D([], [], ls="", marker="o", color=style.VERMILION, label="K(Tx, x′), untrained"),
            Line2D([], [], ls="", marker="D", color=style.VERMILION, mfc="white", label="K(Tx, Tx′)"),
            Line2D([], [], ls="", marker="o", color=style.BLUE, label="K(Tx, x′), trained"),
            Line2D([], [], ls="", marker="D", color=style.BLUE, mfc="white", label="K(Tx, Tx′)"),
        ],
        fontsize=7, ncols=2, loc="lower center", bbox_to_anchor=(0.4, 1.0), columnspacing=1.0, handletextpad=0.2,
    )  # fmt: skip
    right.axvline(0.25, color=style.MUTED, linewidth=0.8, linestyle=":")
    right.set_xlim(0, 1.05)
    right.set_xlabel("accuracy (dotted: chance)")
    right.legend(
        handles=[
            Line2D([], [], ls="", marker="s", color=style.GREY, label="samples as learned"),
            Line2D([], [], ls="", marker="^", color=style.GREEN, label="transformed samples"),
        ],
        fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.2,
    )  # fmt: skip
    axes = halves[1].subplots()
    for (side, values), colour, mark in zip(means.items(), (style.VERMILION, style.BLUE), ("o", "D"), strict=True):
        axes.errorbar(starts, values.mean(0), yerr=_half(values.T), color=colour, marker=mark, label=side)
    last = np.asarray(list(means.values())[-1]).mean(0)
    axes.plot(starts, last[0] / np.sqrt(np.asarray(starts) / starts[0]), color=style.MUTED, linewidth=1, linestyle="--",
              label="one over the root")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(starts, [str(n) for n in starts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("untrained fully connected networks in the mean kernel")
    axes.set_ylabel("relative deviation\nunder one shift")
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    seeds = len(next(iter(cases.values()))[1]["accuracy"])
    style.footer(figure, meta, f"{seeds} networks each, the largest deviation over transformations · bars: 95 %")
    return figure


def _half(values: Array) -> Any:
    """Half of the 95 % interval of the mean over the last axis; None for one value."""
    from scipy.stats import t

    n = values.shape[-1]
    return t.ppf(0.975, n - 1) * values.std(-1, ddof=1) / n**0.5 if n > 1 else None

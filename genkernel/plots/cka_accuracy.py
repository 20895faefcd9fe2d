"""Alignment with the labels beside accuracy: over trainings, over architectures, and as rank correlations."""

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

_FAMILIES = (("MLP", style.BLUE, "o"), ("CNN", style.VERMILION, "s"), ("", style.GREEN, "D"))


@style.house
def alignment_and_accuracy(
    steps: Sequence[int],
    alignment: Mapping[str, Array],
    accuracy: Mapping[str, Array],
    seen: Mapping[str, Array],
    correlations: Mapping[str, Mapping[str, Any]],
    meta: dict[str, Any],
) -> Figure:
    """CKA over accuracy along trainings and at their ends, and rank correlations over architectures.

    Args:
        steps: moments ``[t]``.
        alignment: architecture → CKA on held-out images ``[seeds, t]``.
        accuracy: architecture → ``[seeds, t]``.
        seen: architecture → CKA on training images, before and after ``[seeds, 2]``.
        correlations: what is correlated with the accuracy → ``"value"``, ``"interval"``.
        meta: for the footer.
    """
    from matplotlib.lines import Line2D

    lines = -(-len(alignment) // 3)
    figure = style.new_figure(6.2 + 0.19 * lines, width=7.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=(6.2, 0.19 * lines))
    above, below = halves
    grid = above.subplots(2, 2)
    course, clock, end, dots = grid.flat
    names = list(alignment)  # circles: MLPs, squares: CNNs, diamonds: tokens
    place = np.arange(len(steps))
    for name in names:
        colour, mark = _look(name)
        cka, right = alignment[name].mean(0), accuracy[name].mean(0)
        course.plot(right, cka, color=colour, marker=mark, markersize=2.6, linewidth=1, alpha=0.8)
        clock.plot(place, cka, color=colour, marker=mark, markersize=2.6, linewidth=1, alpha=0.8)
    course.set_xlabel("accuracy on new images")
    course.set_ylabel("CKA, held-out images")
    course.set_title("Over trainings")
    clock.set_xticks(place, [str(step) for step in steps])
    clock.set_xlabel("training step")
    clock.set_ylabel("CKA, held-out images")
    clock.set_title("Over steps")
    _ends(end, names, {name: seen[name][:, -1] for name in names}, {name: accuracy[name][:, -1] for name in names})
    rows = list(correlations)
    for row, name in enumerate(rows):
        low, high = correlations[name]["interval"]
        value = correlations[name]["value"]
        dots.errorbar(
            value, row, xerr=None if np.isnan(low) else [[max(0, value - low)], [max(0, high - value)]],
            color=style.INK, marker="o", linewidth=1.3,
        )  # fmt: skip
    dots.axvline(0, color=style.MUTED, linewidth=1, linestyle=":")
    dots.set_yticks(range(len(rows)), rows, fontsize=7.5)
    dots.set_ylim(len(rows) - 0.5, -0.5)
    dots.set_xlim(-1.02, 1.02)
    dots.set_xlabel("rank correlation with the accuracy")
    dots.set_title("Over architectures")
    handles = [
        Line2D([], [], ls="", color=_look(name)[0], marker=_look(name)[1], label=f"{number}  {name}")
        for number, name in enumerate(names, start=1)
    ]
    below.legend(handles=handles, loc="center", ncols=3, fontsize=7.2, handletextpad=0.2)
    seeds = len(next(iter(alignment.values())))
    style.footer(figure, meta, f"means of {seeds} networks; right below: 95 % by the bootstrap over architectures")
    return figure


def _ends(axes: Axes, names: Sequence[str], cka: Mapping[str, Array], accuracy: Mapping[str, Array]) -> None:
    """One numbered mark for each architecture, with standard errors."""
    for number, name in enumerate(names, start=1):
        colour, mark = _look(name)
        x, y = accuracy[name], cka[name]
        axes.errorbar(
            x.mean(), y.mean(), xerr=_error(x), yerr=_error(y), color=colour, marker=mark, markersize=9,
            markeredgecolor="white", markeredgewidth=0.6, linewidth=0.9, zorder=2 + number,
        )  # fmt: skip
        axes.annotate(
            str(number), (x.mean(), y.mean()), fontsize=5.8, color="white", ha="center", va="center",
            fontweight="bold", zorder=2.5 + number,
        )  # fmt: skip
    axes.set_xlabel("accuracy on new images")
    axes.set_ylabel("CKA, training images")
    axes.set_title("At the end of training")


def _look(name: str) -> tuple[str, str]:
    return next((colour, mark) for family, colour, mark in _FAMILIES if family in name)


def _error(values: Array) -> float | None:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None

"""What falls with the width of a network, and how fast."""

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
    "start": (style.GREY, "D", "kernel at initialisation against infinite width"),
    "infinite": (style.ORANGE, "^", "outputs against the kernel of infinite width"),
    "drift": (style.BLUE, "o", "drift of the kernel in training"),
    "frozen": (style.VERMILION, "s", "outputs against the network's frozen kernel"),
}
_APART = 1.45  # between two numbers beside lines that end close to one another
_TITLES = {"relu": "ReLU", "tanh": "tanh"}


@style.house
def over_widths(
    widths: Sequence[int],
    values: Mapping[str, Mapping[str, Array]],
    slopes: Mapping[str, Mapping[str, float]],
    meta: dict[str, Any],
    note: str,
) -> Figure:
    """Relative distances over the width, a panel per activation; slopes beside the lines.

    Args:
        widths: ``[w]``.
        values: activation → quantity → ``[w, seeds]``.
        slopes: activation → quantity → slope in the width.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.7, width=7.0)
    grid = figure.subplots(1, len(values), sharex=True, sharey=True, squeeze=False)[0]
    x = np.asarray(widths, dtype=np.float64)
    handles: dict[str, Any] = {}
    for axes, (activation, each) in zip(grid, values.items(), strict=True):
        ends: list[tuple[float, str, str]] = []
        for quantity, (colour, mark, label) in _LOOKS.items():
            rows = each[quantity]
            mean = rows.mean(1)
            error = 2 * rows.std(1, ddof=1) / rows.shape[1] ** 0.5
            handles[label] = axes.errorbar(x, mean, error, color=colour, marker=mark, linewidth=1.3)
            ends.append((float(mean[-1]), f"{slopes[activation][quantity]:.2f}".replace("-", "−"), colour))
        place = np.inf
        for last, text, colour in sorted(ends, reverse=True):
            place = min(last, place / _APART)
            axes.annotate(
                text, (x[-1], place), xytext=(6, 0), va="center", textcoords="offset points", fontsize=7.5,
                color=colour, annotation_clip=False,
            )  # fmt: skip
        low, high = (f(each[q].mean(1)[0] for q in _LOOKS) for f in (min, max))
        for power, top, name in ((-0.5, 1.5 * high, "width$^{-1/2}$"), (-1.0, 0.6 * low, "width$^{-1}$")):
            line = top * (x / x[0]) ** power
            axes.plot(x, line, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            look = {"ha": "left", "va": "bottom"} if power > -1 else {"ha": "right", "va": "top"}
            axes.annotate(
                name, (x[2], line[2]), xytext=(4, 3) if power > -1 else (-3, -3), textcoords="offset points",
                fontsize=7.5, color=style.MUTED, **look,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(x, [str(w) for w in widths], fontsize=7.8)
        axes.set_xlabel("width")
        axes.set_title(_TITLES.get(activation, activation), fontsize=9.5)
    grid[0].set_ylabel("relative distance")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=8)
    style.footer(figure, meta, f"numbers: slopes · {note}")
    return figure

"""When monitors found planted faults, beside what losses alone say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Sequence[tuple[float | None, float | None]]


@style.house
def detection_times(found: Mapping[str, Found], length: Mapping[str, float], meta: dict[str, Any]) -> Figure:
    """How long after its onset a fault was found, one row per fault, one mark per training.

    Args:
        found: fault → for every training, the share of the steps left after the onset that passed until the monitor
            found it, and until the losses' change points did; None where they did not.
        length: fault → readings that were left after the onset, in the median.
        meta: for the footer.
    """
    names = list(found)
    figure = style.new_figure(0.9 + 0.42 * len(names))
    axes = figure.subplots()
    never = 1.12
    looks = ((0.13, style.BLUE, "o", "readings of the monitor"), (-0.13, style.VERMILION, "s", "training loss alone"))
    for row, name in enumerate(names):
        for which, (shift, colour, mark, _) in enumerate(looks):
            times = [pair[which] for pair in found[name]]
            x = np.array([never if time is None else time for time in times])
            # marks that would cover each other are moved apart
            spread = np.zeros(len(x))
            for i in range(len(x)):
                spread[i] = 0.045 * sum(abs(x[j] - x[i]) < 0.012 for j in range(i))
            y = row - shift + np.sign(-shift) * spread
            open_marks = [time is None for time in times]
            axes.scatter(
                x, y, s=17, marker=mark, linewidths=0.9, edgecolors=colour,
                facecolors=["none" if missing else colour for missing in open_marks],
            )  # fmt: skip
    for _, colour, mark, label in looks:
        axes.scatter([], [], s=17, marker=mark, color=colour, label=label)
    axes.axvline(1.06, color=style.MUTED, linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{name}\n({length[name]:.0f} readings left)" for name in names], fontsize=7.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.2)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1, never], ["onset", "25 %", "50 %", "75 %", "end", "never"])
    axes.set_xlabel("found, as a share of the steps after the onset")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
    style.footer(figure, meta, "one mark per training")
    return figure

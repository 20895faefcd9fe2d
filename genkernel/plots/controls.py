"""The locality index of the kernel and of its controls, side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from genkernel.plots import style
from genkernel.plots.names import MAIN, control_title, kernels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult


@style.house
def control_summary(result: DiffusionResult) -> Figure:
    """Locality index with 95 % interval for the kernel, its variants and each control."""
    rows: list[tuple[str, float, float, float, float, str]] = []
    for name, kernel in kernels(result).items():
        color = style.BLUE if name == MAIN else style.INK
        title = "Cosine kernel" if name == MAIN else control_title(name)
        rows.append((title, kernel.index, kernel.index_stderr, kernel.index_low, kernel.index_high, color))
        if name == MAIN:
            raw = result.unnormalized
            centre, error = kernel.centred_index, kernel.centred_index_stderr
            ends = centre - 1.96 * error, centre + 1.96 * error
            rows.append(("Cosine kernel, floor removed", centre, error, *ends, style.INK))
            rows.append(("Unnormalised kernel", raw.index, raw.index_stderr, raw.index_low, raw.index_high, style.INK))
    figure = style.new_figure(1.05 + 0.3 * len(rows))
    axes = figure.subplots()
    main = result.locality
    if math.isfinite(main.index_low) and math.isfinite(main.index_high):
        axes.axvspan(main.index_low, main.index_high, color=style.BLUE, alpha=0.1, linewidth=0)
    axes.axvline(0, color=style.GREY, linewidth=1)
    lowest, highest = 0.0, 0.0
    for place, (_, value, stderr, low, high, color) in enumerate(rows):
        axes.text(
            1.02, place, style.pair(value, stderr), transform=axes.get_yaxis_transform(), va="center", fontsize=8.2
        )
        if not math.isfinite(value):
            continue
        if math.isfinite(stderr):
            if not math.isfinite(low):
                low, high = value - stderr, value + stderr  # too few probes or images for an interval
            axes.plot([low, high], [place] * 2, color=color, linewidth=1.2, solid_capstyle="butt")
            axes.plot([value - stderr, value + stderr], [place] * 2, color=color, linewidth=3.2, solid_capstyle="butt")
        else:  # too few images for an error
            low = high = value
        axes.plot(value, place, "o", color=color, markersize=6, markeredgecolor="white", markeredgewidth=0.8)
        lowest, highest = min(lowest, low), max(highest, high)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.grid(False, axis="y")
    if len(rows) > 3:
        axes.axhline(2.5, color=style.RULE, linewidth=0.9)
    margin = 0.06 * max(highest - lowest, 0.1)
    axes.set_xlim(lowest - margin, min(highest + margin, 1.0) if highest <= 1 else highest + margin)
    axes.set_xlabel("locality index (0: none, 1: all inside the window)")
    style.title(figure, "Which factor carries the locality?")
    axes.spines["left"].set_visible(False)
    style.footer(figure, result.meta, f"thick ±1 s.e., thin 95 %{style.control_note(result.meta)}")
    return figure

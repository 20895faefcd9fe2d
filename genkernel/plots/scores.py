"""Attraction, repulsion and what the discriminator makes of them, at the samples of a planar generator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, plane, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult, ScoreReport

ARROWS = 260  # at most, in each panel
LONG = 0.12  # how long a long arrow is drawn, in widths of its panel
CUT = 1.6  # long arrows: where longer ones end
BINS = 20  # of the cosines


@style.house
def score_field(result: GanResult) -> Figure:
    """Attraction, repulsion, their sum and the discriminator's direction at the samples, with their cosine.

    Attraction, repulsion and their sum s have one scale; the discriminator's direction −δ has its own, because its
    length is that of the loss. Arrows of more than 1.6 times the length that the key shows are cut there: estimates
    of p_g are steep beside samples that lie alone. −δ is coloured by the cosine between ∇l and s at the sample. Below
    are all these cosines, beside what an optimal discriminator would reach with estimates of this quality.

    Raises:
        InputError: the result has no scores in the plane.
    """
    found, points = result.score, result.points
    if found is None or found.fields is None or points is None:
        raise InputError("this result has no attraction and repulsion in the plane to draw")
    fields = found.fields
    difference = fields.attraction - fields.repulsion
    left, gap, top, head, low = 0.42, 0.2, 0.34, 0.42, 0.72  # inches
    side = (style.WIDTH - left - 0.1 - gap) / 2
    bottom = top + 2 * (side + head)
    figure = gan_style.by_hand(bottom + 0.46 + low + 0.6)
    frame = plane.frame_of(points, result, 1.3)
    long = plane.arrow_length(difference, math.inf)
    panels: tuple[tuple[str, str, str, np.ndarray, Any], ...] = (
        ("attraction", "∇ log p of the data", "", fields.attraction, style.BLUE),
        ("repulsion", "−∇ log p of the samples", "", -fields.repulsion, style.VERMILION),
        ("both", "the score difference s", "s", difference, style.INK),
        ("the discriminator", "−δ, along which the loss falls", "δ", fields.descent, found.per_sample),
    )
    for place, (name, what, key, vectors, color) in enumerate(panels):
        row, column = divmod(place, 2)
        x, y = left + column * (side + gap), top + head * (row + 1) + side * row
        axes = gan_style.panel(figure, x, y, side, side)
        plane.frame_panel(axes, frame, x=row == 1, y=column == 0)
        plane.mode_marks(axes, result)
        length = plane.arrow_length(vectors, math.inf) if key == "δ" else long
        axes.scatter(points[:, 0], points[:, 1], s=1.5, color=style.GREY, alpha=0.5, linewidths=0, zorder=2)
        how = {} if key != "δ" else {"cmap": _colors(), "clim": (-1, 1)}
        drawn = plane.arrows(
            axes, points, plane.cut(vectors, CUT * length), frame, length, ARROWS, long=LONG, width=0.004, color=color,
            alpha=0.75, **how,
        )  # fmt: skip
        plane.say(figure, name, x, y - 0.27, fontsize=8.4, weight="bold", color=color if not how else style.INK)
        plane.say(figure, what, x, y - 0.1, color=style.MUTED)
        if key:
            plane.arrow_key(figure, axes, drawn, length, "", x + side - 0.72, y - 0.27, key)
    _cosines(figure, result, found, 0.52, bottom + 0.44, low)
    style.title(figure, "Attraction and repulsion, and what the discriminator shows")
    gan_style.footer(figure, result, f"{gan_style.driven(result)} · bandwidth h = {found.bandwidth:.2g}")
    return figure


def _cosines(figure: Figure, result: GanResult, found: ScoreReport, left: float, top: float, height: float) -> None:
    """How the cosines are distributed over samples, with their mean and the attainable one; words beside it."""
    wide = 3.0
    axes = gan_style.panel(figure, left, top, wide, height)
    known = found.per_sample[np.isfinite(found.per_sample)]
    edges = np.linspace(-1, 1, BINS + 1)
    counts, _ = np.histogram(known, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    axes.bar(
        middles,
        100 * counts / max(1, len(known)),
        width=0.92 * 2 / BINS,
        color=_colors()((middles + 1) / 2),
        linewidth=0,
    )
    for value, line in ((found.cosine, "-"), (found.attainable, ":")):
        if math.isfinite(value):
            axes.axvline(value, color=style.INK, linewidth=1.3, linestyle=line)
    axes.set_xlim(-1, 1)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−0.5", "0", "0.5", "1"])
    axes.set_xlabel("cosine between ∇l and s", fontsize=8, labelpad=1)
    axes.set_ylabel("samples (%)", fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7)
    axes.grid(False, axis="x")
    beside, down = left + wide + 0.15, top - 0.02
    lines = [
        ("—", f"mean {style.number(round(found.cosine, 2))}" if math.isfinite(found.cosine) else "no cosine"),
        ("···", f"attainable {style.pair(found.attainable, found.attainable_std)}"),
        ("", f"pooled {found.pooled:.2f} of {found.attainable_pooled:.2f}"),
        ("", f"mean at h/2 {found.sensitivity.mean[0]:.2f}, at 2h {found.sensitivity.mean[-1]:.2f}"),
    ]
    if result.mode_std is not None:
        lines.append(("○", f"{plane.NEAR:g} σ around a known mode"))
    if not found.density_ratio:
        lines.append(("!", "∇l is no score difference"))
    for mark, text in lines:
        plane.say(figure, mark, beside, down)
        plane.say(figure, text, beside + 0.2, down)
        down += 0.145


def _colors() -> Any:
    """From −1 to 1, and to be seen on white at 0 as well."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("cosine", [style.VERMILION, "#b3b9c2", style.BLUE])

"""Kernels of functions of one variable: what was learned, similarity of all inputs, similarity beside every place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LOOKS = ((style.GREY, "D"), (style.GREEN, "^"), (style.VERMILION, "o"), (style.BLUE, "s"))  # untrained, then targets
_TICKS = ([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])


@style.house
def similarity_matrices(
    x: Array,
    targets: Mapping[str, Array],
    outputs: Mapping[str, Array],
    matrices: Mapping[str, Array],
    meta: dict[str, Any],
) -> Figure:
    """Targets and what was learned, above the normalised kernel of all inputs.

    Args:
        x: inputs ``[n]``.
        targets: network → values ``[n]``, of those that learned something.
        outputs: network → ``[seeds, n]``; the untrained one first, then targets.
        matrices: network → normalised kernel ``[n, n]`` of the first start.
        meta: for the footer.
    """
    figure = style.new_figure(4.5, width=7.6)
    grid = figure.subplots(2, len(outputs), height_ratios=(1, 1.15))
    image: Any = None
    for (above, below), (name, values), (colour, _) in zip(grid.T, outputs.items(), _LOOKS, strict=False):
        above.plot(x, values.T, color=colour, linewidth=0.7, alpha=0.6)
        if name in targets:
            for part in _pieces(targets[name]):
                above.plot(x[part], targets[name][part], color=style.INK, linewidth=1, linestyle="--")
        above.set_xlim(x[0], x[-1])
        above.set_ylim(-1.55, 1.55)
        above.set_title(name.replace(", ", ",\n"), fontsize=8.8)
        image = below.imshow(
            matrices[name], cmap=style.DIVERGING, vmin=-1, vmax=1, origin="lower", extent=(x[0], x[-1], x[0], x[-1])
        )
        style.map_axes(below)
        first = above is grid[0, 0]
        above.set_yticks([-1, 0, 1], ["−1", "0", "1"] if first else [""] * 3)
        below.set_yticks(_TICKS[0], _TICKS[1] if first else [""] * len(_TICKS[0]))
        for axes, label in ((above, "f(x)"), (below, "x′")):
            axes.set_xticks(*_TICKS)
            axes.tick_params(axis="x", labelsize=8)
            axes.set_xlabel("x")
            if first:
                axes.set_ylabel(label)
    bar = figure.colorbar(image, ax=grid[1, :].tolist(), shrink=0.86, pad=0.015)
    bar.set_label("cosine of tangent features", fontsize=8.5)
    style.footer(figure, meta, "above: all starts, dashed: target; below: first start")
    return figure


@style.house
def similarity_profiles(
    centres: Array,
    profiles: Mapping[str, Array],
    distances: Sequence[float],
    around: Mapping[str, Mapping[str, Array]],
    near: float,
    meta: dict[str, Any],
) -> Figure:
    """Cosine of two close inputs along the axis, and over their distance around jumps.

    Args:
        centres: places ``[c]``.
        profiles: network → ``[seeds, c]``; the untrained one first, then targets.
        distances: ``[d]``.
        around: network → wave → ``[seeds, d]``, around the places where this wave jumps.
        near: distance of the profile.
        meta: for the footer.
    """
    figure = style.new_figure(5.4, width=7.4)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    axes = halves[0].subplots()
    looks = dict(zip(profiles, _LOOKS, strict=False))
    for (name, values), width in zip(profiles.items(), (3.6, 2.6, 1.8, 1.2), strict=False):  # where they coincide
        _band(axes, centres, values, looks[name][0], name, width=width)
    axes.set_xlim(centres[0], centres[-1])
    axes.set_xticks(*_TICKS)
    axes.set_ylim(top=1.03)
    axes.set_xlabel("place x")
    axes.set_ylabel(f"cosine of x ± {near / 2:g}")
    axes.legend(fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2)
    pair = halves[1].subplots(1, 2, sharey=True)
    for panel, wave in zip(pair, next(iter(around.values())), strict=True):
        for name, waves in around.items():
            _band(panel, np.asarray(distances), waves[wave], looks[name][0], name, looks[name][1])
        panel.axvline(near, color=style.MUTED, linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        ticks = [d for d in (0.02, 0.1, 0.2, 0.5, 1, 2) if distances[0] <= d <= distances[-1]]
        panel.set_xticks(ticks, [f"{d:g}" for d in ticks])
        panel.set_xticks([], minor=True)
        panel.set_ylim(top=1.05)
        panel.set_xlabel("distance of the two inputs")
        panel.set_title(f"around {wave.split('at ')[-1]}", fontsize=9)
    pair[0].set_ylabel("cosine")
    style.footer(figure, meta, "mean and 95 % over starts (Student's t); dotted: distance of the upper panel")
    return figure


def _band(axes: Axes, x: Array, values: Array, colour: str, label: str, mark: str = "", width: float = 1.5) -> None:
    from scipy.stats import t

    mean, n = values.mean(0), len(values)
    if n > 1:
        half = t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5
        axes.fill_between(x, (mean - half).clip(-1), (mean + half).clip(max=1), color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, mean, color=colour, marker=mark, label=label, linewidth=width)


def _pieces(y: Array) -> list[slice]:
    """Stretches without a jump."""
    ends = [0, *(np.flatnonzero(np.abs(np.diff(y)) > 1) + 1), len(y)]
    return [slice(a, b) for a, b in pairwise(ends)]

"""What contributions predict, against what happened; and what recording them costs."""

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
Cloud = tuple[Array, Array]

_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE)
_DASHED: dict[str, Any] = {"color": style.MUTED, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}


# -------------------------------------------------------------------------------- retraining


@style.house
def retraining_scatter(
    clouds: Mapping[str, Mapping[str, Cloud]],
    titles: Mapping[str, str],
    results: Mapping[str, Any],
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """Predicted against actual changes of margins, one row per optimizer and one column per kind of change.

    Args:
        clouds: optimizer → kind → (predicted ``[U, m]``, actual ``[U, m]``).
        titles: kind → words.
        results: optimizer → kind → output → method → agreement, for the numbers in the panels.
        meta, note: for the footer.
    """
    figure = style.new_figure(0.9 + 2.05 * len(clouds), width=2.05 * len(titles) + 0.4)
    grid = figure.subplots(len(clouds), len(titles), squeeze=False)
    for row, (name, kinds), color in zip(grid, clouds.items(), _COLOURS, strict=False):
        for axes, kind in zip(row, titles, strict=True):
            predicted, actual = (part - part.mean(0) for part in kinds[kind])
            _cloud(axes, predicted, actual, color)
            one = results[name][kind]["margin"]["contributions"]
            _corner(axes, f"ρ = {style.number(round(one['spearman'], 2))}\nslope {one['slope']:.2g}")
        row[0].set_ylabel(f"{name}\nactual change", color=style.INK)
    for axes, title in zip(grid[0], titles.values(), strict=True):
        axes.set_title(_wrapped(title, 24), fontsize=8.6, fontweight="normal")
    for axes in grid[-1]:
        axes.set_xlabel("sum of contributions")
    style.title(figure, "Contributions against what training without the data does to margins")
    style.footer(figure, meta, f"{note} · both centred per query · dashed: equal · ρ: mean Spearman over queries")
    return figure


@style.house
def retraining_bars(
    results: Mapping[str, Any],
    titles: Mapping[str, str],
    methods: Sequence[str],
    meta: dict[str, Any],
    note: str = "",
    output: str = "margin",
) -> Figure:
    """Rank correlation of every prediction with what happened, with bootstrap intervals.

    Args:
        results: optimizer → kind → output → method → agreement.
        titles: kind → words.
        methods: in reading order, from the top.
        meta, note: for the footer.
        output: of which output.
    """
    figure = style.new_figure(1.35 + 0.3 * len(methods), width=7.4)
    panels = figure.subplots(1, len(titles), sharey=True)
    places = np.arange(len(methods))[::-1].astype(float)
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for k, (name, found) in enumerate(results.items()):
            offset = 0.19 * (0.5 * (len(results) - 1) - k) * 2
            for method, place in zip(methods, places, strict=True):
                row = found[kind][output].get(method)
                if row is None:
                    continue
                at = place + offset
                ceiling = method == "another batch order"
                axes.barh(
                    at, row["spearman"], height=0.34, linewidth=0.8, edgecolor=_COLOURS[k],
                    color="white" if ceiling else _COLOURS[k], alpha=1.0 if method == "contributions" or ceiling else 0.55,
                    label=name if method == "contributions" else None,
                )  # fmt: skip
                if np.isfinite(row["low"]):
                    axes.hlines(at, row["low"], row["high"], color=style.INK, linewidth=0.9)
        axes.axvline(0, color=style.GREY, linewidth=0.8)
        axes.set_xlim(min(-0.25, axes.get_xlim()[0]), 1.02)
        axes.set_title(_wrapped(title, 21), fontsize=8.6, fontweight="normal")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panels[0].set_yticks(places, methods)
    figure.supxlabel(f"Spearman with the actual change of the {output}", fontsize=9.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
    style.title(figure, "How well what is predicted ranks what happens")
    style.footer(figure, meta, f"{note} · mean over queries · bars: 95 % of the bootstrap")
    return figure


# ------------------------------------------------------------------------------------- parts


def _cloud(axes: Axes, predicted: Array, actual: Array, color: str) -> None:
    x, y = predicted.ravel(), actual.ravel()
    axes.scatter(x, y, s=4, color=color, alpha=0.3, linewidths=0, rasterized=True)
    reach = [1.15 * max(float(np.quantile(np.abs(v), 0.995)), 1e-12) for v in (x, y)]
    axes.set_xlim(-reach[0], reach[0])
    axes.set_ylim(-reach[1], reach[1])
    axes.axline((0, 0), slope=1, **_DASHED)
    axes.axhline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=style.RULE, linewidth=0.8, zorder=0)
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=7.5)


def _corner(axes: Axes, text: str) -> None:
    axes.annotate(
        text, (0.03, 0.97), xycoords="axes fraction", ha="left", va="top", fontsize=8, color=style.INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
    )  # fmt: skip


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return textwrap.fill(text, width)

"""Machines that are linear in their weights: the formula's gap, kernels as cosines, spans, separability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LINEAR = ((style.BLUE, "o"), (style.SKY, "s"), (style.GREEN, "D"))
_OTHERS = ((style.VERMILION, "^"), (style.ORANGE, "v"))


@style.house
def linear_machines(
    speeds: Sequence[float],
    gaps: Mapping[str, tuple[Array, bool]],
    similarity: ArrayLike,
    cosines: Mapping[str, ArrayLike],
    outside: Mapping[str, tuple[Array, Array]],
    classes: Mapping[str, Mapping[str, Sequence[float]]],
    meta: dict[str, Any],
) -> Figure:
    """Four panels.

    Args:
        speeds: step sizes over 2/λ ``[s]``.
        gaps: machine → relative gaps ``[seeds, s]``, and whether it is linear in its weights.
        similarity: cosines of pairs of points ``[p]``.
        cosines: machine → normalised kernel of these pairs ``[p]``, the first without a bias.
        outside: network → relative distances of f from the span of the other layers' features, without and with an
            intercept ``[seeds]`` each.
        classes: "untrained", "trained" → network → shares of separable networks: all features, without the last layer,
            permuted labels.
        meta: for the footer.
    """
    figure = style.new_figure(6.0, width=7.4)
    grid = figure.subplots(2, 2)
    _gaps(grid[0, 0], speeds, gaps)
    _cosines(grid[0, 1], np.asarray(similarity), cosines)
    _spans(grid[1, 0], outside)
    _classes(grid[1, 1], classes)
    style.footer(figure, meta, "gaps: medians and range over seeds; spans: every seed a mark")
    return figure


def _gaps(axes: Axes, speeds: Sequence[float], gaps: Mapping[str, tuple[Array, bool]]) -> None:
    marks = {True: iter(_LINEAR), False: iter(_OTHERS)}
    at = np.asarray(speeds)
    for name, (values, linear) in gaps.items():
        colour, mark = next(marks[linear])
        kept = np.isfinite(values).all(0) & ((at <= 1) | linear)  # beyond 1 only what diverges without breaking
        v = values[:, kept]
        axes.fill_between(at[kept], v.min(0), v.max(0), color=colour, alpha=0.15, lw=0)
        axes.plot(at[kept], np.median(v, axis=0), color=colour, marker=mark, label=name)
    axes.axvline(1, color=style.MUTED, lw=0.8, ls=":")
    axes.text(
        0.97, 3e-9, "descent diverges beyond", rotation=90, fontsize=7, color=style.MUTED, ha="right", va="center"
    )
    axes.set(xscale="log", yscale="log", ylim=(1e-17, 30))
    ticks = sorted(at)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("step size η / (2/λ)")
    axes.set_ylabel("gap / change of the outputs")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(0.0, 0.47))
    axes.set_title("The discrete formula")


def _cosines(axes: Axes, similarity: Array, cosines: Mapping[str, ArrayLike]) -> None:
    axes.plot([-1, 1], [-1, 1], color=style.MUTED, lw=0.8)
    for (name, values), (colour, mark) in zip(
        reversed(list(cosines.items())), ((style.ORANGE, "s"), (style.BLUE, "o")), strict=True
    ):
        axes.plot(
            similarity, np.asarray(values), ls="", marker=mark, ms=2.2, color=colour, alpha=0.6, mew=0, label=name
        )
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xlabel("cosine similarity of x and x′")
    axes.set_ylabel("normalised kernel c(x, x′)")
    axes.legend(fontsize=7.5, loc="upper left", markerscale=2.5)
    axes.set_title("Linear regression's kernel")


def _spans(axes: Axes, outside: Mapping[str, tuple[Array, Array]]) -> None:
    names = list(outside)
    for row, name in enumerate(names):
        for values, colour, mark, shift in zip(
            outside[name], (style.BLUE, style.VERMILION), "oD", (-0.16, 0.16), strict=True
        ):
            axes.plot(
                np.maximum(values, 1e-17),
                np.full(len(values), row + shift),
                ls="",
                marker=mark,
                color=colour,
                alpha=0.7,
                mew=0,
            )
    axes.set(xscale="log", xlim=(1e-17, 3), ylim=(len(names) - 0.4, -0.9))
    axes.set_yticks(range(len(names)), [n.replace(", ", ",\n") for n in names])
    axes.plot([], [], ls="", marker="o", color=style.BLUE, label="others' features")
    axes.plot([], [], ls="", marker="D", color=style.VERMILION, label="and an intercept")
    axes.legend(fontsize=7.2, loc="upper center", ncols=2, columnspacing=1.0, handletextpad=0.1)
    axes.set_xlabel("distance of f from the span / ‖f‖")
    axes.set_title("Without the last layer, trained")


def _classes(axes: Axes, classes: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    names = list(classes["trained"])
    looks = (
        ("all features", style.BLUE, "o", -0.2),
        ("without last layer", style.ORANGE, "s", 0.0),
        ("permuted labels", style.GREY, "X", 0.2),
    )
    for column, (label, colour, mark, shift) in enumerate(looks):
        for when, face in (("untrained", "white"), ("trained", colour)):
            shares = [classes[when][name][column] for name in names]
            axes.plot(
                shares, np.arange(len(names)) + shift, ls="", marker=mark, ms=6.5 if when == "untrained" else 4,
                color=colour, mfc=face, label=f"{label}, {when}",
            )  # fmt: skip
    axes.set(xlim=(-0.06, 1.06), ylim=(len(names) - 0.4, -1.75))
    axes.set_yticks(range(len(names)), [n.replace(", ", ",\n") for n in names])
    axes.legend(fontsize=6.2, loc="upper center", ncols=2, columnspacing=0.6, handletextpad=0.0)
    axes.set_xlabel("share of networks with separable features")
    axes.set_title("Linear separability")

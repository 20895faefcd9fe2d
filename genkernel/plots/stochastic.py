"""Stochastic paths: orders of weak approximation, what noise moves, what kinks cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.paths.stochastic.weak_error import WeakError

Array = NDArray[np.float64]

_COLOURS = (style.BLUE, style.GREEN, style.GREY, style.SKY, style.VERMILION, style.ORANGE, style.PURPLE)
_MARKS = "osDv^P*"


@style.house
def weak_errors(results: Sequence[WeakError], meta: dict[str, Any]) -> Figure:
    """Weak error of means, and relative error of variances, over the learning rate; one line per model.

    Args:
        results: each under the name in ``optimizer``; bars are two standard errors, open marks lie below five.
        meta: for the footer.
    """
    figure = style.new_figure(3.3, width=7.4)
    means, variances, legend = figure.subplots(1, 3, width_ratios=(1, 1, 0.62))
    for k, one in enumerate(results):
        look: dict[str, Any] = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
        slope = one.slope_mean.value
        label = one.optimizer + ("" if np.isnan(slope) else f" ({slope:.2f})")
        _errors(means, one.etas, one.mean, one.mean_stderr, one.slope_mean.used, label, look)
        _errors(
            variances, one.etas, 100 * one.relative_variance, 100 * one.relative_variance_stderr,
            one.slope_variance.used, None, look,
        )  # fmt: skip
    for axes in (means, variances):
        _eta_axis(axes, results[0].etas)
        axes.set_yscale("log")
    guides = np.array([results[0].etas.min(), results[0].etas.max()])
    top = max(float(one.mean.max()) for one in results)
    bottom = min(float(one.mean.min()) for one in results)
    for power, start in ((1, 1.6 * top), (2, 0.75 * bottom * (guides[1] / guides[0]) ** 2)):
        line = start * (guides / guides[1]) ** power
        means.plot(guides, line, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        means.annotate(
            "η²" if power == 2 else "η", (guides[1], line[1]), xytext=(4, 0), va="center", annotation_clip=False,
            textcoords="offset points", fontsize=8, color=style.MUTED,
        )  # fmt: skip
    means.set_ylabel("weak error |E g(θₖ) − E g(Θ)|")
    variances.set_ylabel("error of Var g (% of Var g)")
    means.set_title("means", fontsize=9.5)
    variances.set_title("variances", fontsize=9.5)
    _legend(legend, means, "model (slope of means)")
    style.title(figure, "How far equations are from the optimizers they model")
    horizon = f"T = {results[0].horizon:g}"
    runs = {one.runs for one in results if one.runs}
    routes = "exact moments" + (f", adaptive: {max(runs)} runs" if runs else "")
    style.footer(
        figure, meta, f"g = (x·θ)², {horizon} · {routes} · largest over k · bars: 2 s.e., open marks: below 5 s.e."
    )
    return figure


@style.house
def remainder_orders(
    etas: Array,
    remainders: Mapping[float, Array],
    limits: Array,
    slopes: Mapping[float, float],
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """The remainder of Adam's path formula per unit of learning rate: bounded means first order.

    Args:
        etas: learning rates ``[E]``.
        remainders: ζ of ρ₁ = η^(−ζ) → ``[E]``.
        limits: the leading omitted term as ρ₁ → ∞ ``[E]``.
        slopes: ζ → order of the remainder.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.1)
    axes = figure.subplots()
    for k, (zeta, values) in enumerate(remainders.items()):
        colour, mark = _COLOURS[k], _MARKS[k]
        axes.plot(etas, values / etas, color=colour, marker=mark)
        at = int(np.argmax(etas))
        axes.annotate(
            f"ζ = {zeta:g}, slope {slopes[zeta]:.2f}", (etas[at], values[at] / etas[at]), xytext=(8, 0), va="center",
            textcoords="offset points", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.plot(etas, limits / etas, color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    first = int(np.argmin(etas))
    axes.annotate(
        "½ ∫ tr(PΣP ∇²f) dt: the leading omitted term as ρ₁ = η^(−ζ) → ∞", (etas[first], limits[first] / etas[first]),
        xytext=(2, 3), textcoords="offset points", fontsize=8, color=style.MUTED,
    )  # fmt: skip
    _eta_axis(axes, etas)
    axes.set_ylim(0, 1.15 * max(float((values / etas).max()) for values in (*remainders.values(), limits)))
    axes.set_xlim(None, etas.max() * 2.6)  # room for the names of the lines
    axes.set_ylabel("remainder / η")
    style.title(figure, "What Adam's path formula omits, per unit of learning rate")
    style.footer(figure, meta, note)
    return figure


@style.house
def batch_size_distances(
    sizes: Sequence[int],
    distances: Mapping[str, Array],
    other_starts: Mapping[str, Array],
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """How far runs with small batches end from the run with full batches, in units of what that run moved.

    Args:
        sizes: batch sizes ``[S]``.
        distances: quantity → ``[S, R]`` over batch orders; lines are means, bands the range.
        other_starts: quantity → ``[R']``, full-batch runs from other initial weights.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.5, width=6.2)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    looks = {"weights": style.VERMILION, "kernel": style.BLUE, "predictions": style.GREEN}
    words = {"weights": "weights θ", "kernel": "tangent kernel K/‖K‖", "predictions": "predictions f"}
    for k, (name, values) in enumerate(distances.items()):
        colour = looks.get(name, style.GREY)
        axes.fill_between(sizes, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
        axes.plot(sizes, values.mean(1), color=colour, marker=_MARKS[k], label=words.get(name, name))
        others = other_starts[name]
        places = k + np.linspace(-0.22, 0.22, len(others))
        beside.plot(places, others, _MARKS[k], color=colour, markersize=3.2, alpha=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("batch size (smaller to the right)")
    axes.set_ylabel("distance from the full-batch run\n(1 = what that run moved)")
    axes.set_title("small batches, same θ₀", fontsize=9)
    beside.set_title("other θ₀", fontsize=9)
    beside.set_xlabel("full batches")
    beside.set_xticks([])
    beside.set_xlim(-0.7, len(distances) - 0.3)
    axes.legend(loc="upper left")
    style.title(figure, "How far small batches end from full batches")
    style.footer(figure, meta, note)
    return figure


@style.house
def kink_gaps(
    etas: Array,
    gaps: Mapping[str, Array],
    slopes: Mapping[str, float],
    steps: Mapping[str, tuple[NDArray[np.int64], Array]],
    meta: dict[str, Any],
    note: str = "",
) -> Figure:
    """The trapezoid rule's gap over the learning rate, and in single steps by how many units changed sign.

    Args:
        etas: learning rates ``[E]``.
        gaps: "activation, loss" → gap of the path relative to the change of f ``[E]``.
        slopes: of these gaps, by the same names.
        steps: activation → sign changes and gaps of single steps at the smallest η, both ``[N, S, m]`` over steps,
            initial weights and queries.
        meta, note: for the footer.
    """
    figure = style.new_figure(3.3, width=7.4)
    left, right, legend = figure.subplots(1, 3, width_ratios=(1, 0.8, 0.62))
    colours = {"tanh": style.BLUE, "softplus": style.GREEN, "ReLU": style.VERMILION}
    lines = {"squared": "-", "Huber": (0, (1, 1.4)), "absolute": (0, (5, 2))}
    for name, values in gaps.items():
        activation, loss = name.split(", ")
        left.plot(
            etas, values, color=colours[activation], linestyle=lines[loss], marker="o", markersize=3,
            label=f"{name} ({slopes[name]:.2f})",
        )  # fmt: skip
    _eta_axis(left, etas)
    left.set_yscale("log")
    left.set_ylabel("gap of the path / change of f")
    left.set_title("over a path", fontsize=9.5)
    floor, most = 1e-18, 0
    for activation, (crossings, single) in steps.items():
        size = np.abs(single)
        counts = [c for c in range(4) if (crossings == c).sum() >= 10]
        most = max(most, *counts)
        middle = np.array([np.quantile(size[crossings == c], [0.05, 0.5, 0.95]) for c in counts]).clip(floor)
        shift = 0.07 if activation == "ReLU" else -0.07
        right.errorbar(
            np.array(counts) + shift, middle[:, 1], (middle[:, 1] - middle[:, 0], middle[:, 2] - middle[:, 1]),
            fmt="o", color=colours[activation], elinewidth=1.2, label=activation,
        )  # fmt: skip
    right.set_yscale("log")
    right.set_xticks(range(most + 1))
    right.set_xlim(-0.5, most + 0.5)
    right.set_xlabel("units that change sign")
    right.set_ylabel("|gap| of one step at one point")
    right.set_title(f"in single steps, η = {etas.min():g}", fontsize=9.5)
    right.legend(loc="upper left")
    _legend(legend, left, "network, loss (slope)")
    style.title(figure, "The trapezoid rule's gap, with kinks in the network and in the loss")
    style.footer(figure, meta, f"{note} · right: squared loss, median and 5–95 %")
    return figure


def _errors(
    axes: Axes,
    etas: Array,
    values: Array,
    stderr: Array,
    used: NDArray[np.bool_],
    label: str | None,
    look: dict[str, Any],
) -> None:
    """A line with bars of two standard errors."""
    axes.plot(etas, values, label=label, **look)
    low = np.minimum(2 * stderr, 0.95 * values)  # a logarithmic axis has no zero
    axes.errorbar(etas, values, (low, 2 * stderr), fmt="none", ecolor=look["color"], elinewidth=1)
    open_marks = ~used
    if open_marks.any():
        axes.plot(etas[open_marks], values[open_marks], look["marker"], color=look["color"], markerfacecolor="white",
                  zorder=3)  # fmt: skip


def _legend(axes: Axes, drawn: Axes, heading: str) -> None:
    """The legend of other axes, in a column of its own."""
    axes.set_axis_off()
    axes.legend(*drawn.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(-0.12, 0.55), fontsize=8,
                title=heading, title_fontsize=8, alignment="left", labelspacing=0.7)  # fmt: skip


def _eta_axis(axes: Axes, etas: Array) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(etas), [f"{eta:.3g}" for eta in etas])
    axes.minorticks_off()
    axes.set_xlabel("learning rate η")

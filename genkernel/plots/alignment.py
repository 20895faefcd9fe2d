"""Alignment of the tangent kernel with labels: its course in training, and separability beside its controls."""

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

_LOOKS = {"squared": (style.BLUE, "o"), "logistic": (style.VERMILION, "s")}


@style.house
def alignment(
    moments: Sequence[int],
    course: Mapping[str, Mapping[str, Array]],
    separated: Mapping[str, Mapping[str, Array]],
    chance: float,
    meta: dict[str, Any],
    samples: int,
) -> Figure:
    """CKA and neighbours over the training, and accuracies of a linear SVM in tangent space.

    Args:
        moments: numbers of steps ``[T]``, from 0.
        course: loss → measure → values ``[seeds, T]``.
        separated: kernel → accuracy → values ``[seeds]``.
        chance: of neighbours.
        meta: for the footer.
        samples: points.
    """
    figure = style.new_figure(6.3, width=6.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    top, low = halves
    left, right = top.subplots(1, 2)
    for loss, values in course.items():
        colour, mark = _LOOKS[loss]
        _band(left, moments, values["CKA unbiased"], colour, mark, f"{loss} loss")
        _band(right, moments, values["neighbours, kernel"], colour, mark, f"kernel, {loss} loss")
    euclidean = float(np.mean([values["neighbours, Euclidean"].mean() for values in course.values()]))
    right.axhline(euclidean, color=style.INK, linewidth=1, linestyle="--", label="Euclidean")
    right.axhline(chance, color=style.MUTED, linewidth=1, linestyle=":", label="chance")
    left.axhline(0, color=style.MUTED, linewidth=1, linestyle=":")
    left.set_ylabel("CKA with the labels (unbiased)")
    right.set_ylabel("neighbours of the same class")
    right.set_ylim(min(0.45, chance - 0.05), 1.0)
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=3, linscale=0.4)
        axes.set_xlim(0, max(moments) * 1.1)
        ticks = [0, *(10**p for p in range(1, 6) if 10**p <= max(moments))]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("training step")
    left.legend(fontsize=7.5, loc="upper left")
    right.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0.0, 0.1))  # between chance and the curves
    left.set_title("alignment")
    right.set_title("neighbours")
    _dots(low.subplots(), separated)
    style.footer(figure, meta, f"n = {samples} points · mean and 95 % over seeds")
    return figure


def _band(axes: Axes, moments: Sequence[int], values: Array, colour: str, mark: str, label: str) -> None:
    mean, half = values.mean(0), _half(values)
    axes.fill_between(moments, (mean - half).clip(-1), (mean + half).clip(max=1), color=colour, alpha=0.2, linewidth=0)
    axes.plot(moments, mean, color=colour, marker=mark, label=label)


def _dots(axes: Axes, separated: Mapping[str, Mapping[str, Array]]) -> None:
    names = list(separated)
    for key, colour, mark, filled, shift in (
        ("held out", style.BLUE, "o", True, -0.05),
        ("in-sample, largest C", style.VERMILION, "D", False, 0.3),
    ):
        mean = np.array([separated[name][key].mean() for name in names])
        half = np.array([_half(separated[name][key][:, None])[0] for name in names])
        ends = np.stack([np.minimum(half, mean), np.minimum(half, 1 - mean)])
        axes.errorbar(
            mean, np.arange(len(names)) + shift, xerr=ends, fmt=mark, color=colour, label=key, linewidth=1.2,
            markerfacecolor=colour if filled else "white",
        )  # fmt: skip
    for i in range(1, len(names)):  # groups: what is trained how
        if names[i].split()[0].strip(",") != names[i - 1].split()[0].strip(","):
            axes.axhline(i - 0.4, color=style.MUTED, linewidth=0.6)
    axes.axvline(0.5, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("accuracy of a linear SVM (dotted: chance)")
    axes.set_title("separability")
    axes.legend(fontsize=7.5, loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2)


def _half(values: Array) -> Array:
    """Half of the 95 % interval of the mean over the first axis."""
    from scipy.stats import t

    n = len(values)
    return t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5 if n > 1 else np.zeros(values.shape[1])

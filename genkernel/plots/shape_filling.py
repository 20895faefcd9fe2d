"""Filling planar shapes: examples by kind, IoU, and what kernels and images tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style
from genkernel.plots.tangent_embedding import COLOURS, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@style.house
def gallery(examples: Mapping[str, tuple[Array, float]], meta: dict[str, Any]) -> Figure:
    """Boundary, truth and output of one image of each kind.

    Args:
        examples: kind → images ``[3, s, s]``, and the IoU.
        meta: for the footer.
    """
    figure = style.new_figure(4.0, width=7.2)
    grid = figure.subplots(3, len(examples), squeeze=False)
    for column, (kind, (images, value)) in enumerate(examples.items()):
        for row, image in enumerate(images):
            axes = grid[row, column]
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            style.map_axes(axes)
            axes.set_xticks([])
            axes.set_yticks([])
        grid[0, column].set_title(f"{kind}\nIoU {value:.3f}", fontsize=8.5, fontweight="normal", loc="center")
    for row, name in enumerate(("boundary", "truth", "output")):
        grid[row, 0].set_ylabel(name)
    style.footer(figure, meta, "the test image with the median IoU of each kind; grey from 0 to 1")
    return figure


@style.house
def shape_filling(
    iou: Mapping[str, Sequence[Array]],
    scatter: Mapping[str, tuple[Array, Array]],
    told: Mapping[str, Array],
    meta: dict[str, Any],
) -> Figure:
    """Three panels.

    Args:
        iou: kind → of test images, for each network.
        scatter: kind → similarity to the nearest training image in the kernel, and IoU.
        told: score → Spearman's correlations with the IoU, over all kinds and within them ``[seeds, 2]``.
        meta: for the footer.
    """
    figure = style.new_figure(6.0, width=7.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    left, right = halves[0].subplots(1, 2)
    _kinds(left, iou)
    _near(right, scatter)
    _told(halves[1].subplots(), told)
    style.footer(figure, meta, "left: marks are networks, bars 90 % of images; below: means and 95 % over networks")
    return figure


def _kinds(axes: Axes, iou: Mapping[str, Sequence[Array]]) -> None:
    for row, networks in enumerate(iou.values()):
        every = np.concatenate(list(networks))
        low, high = np.quantile(every, (0.05, 0.95))
        axes.plot([low, high], [row, row], color=COLOURS[row], lw=5, alpha=0.25, solid_capstyle="butt")
        axes.plot(
            [v.mean() for v in networks], row + np.linspace(-0.15, 0.15, len(networks)), ls="", marker=MARKS[row],
            color=COLOURS[row], ms=5,
        )  # fmt: skip
    axes.set_yticks(range(len(iou)), list(iou))
    axes.set(xlim=(0, 1.02), ylim=(len(iou) - 0.5, -0.5))
    axes.set_xlabel("IoU")
    axes.set_title("By kind of shape")


def _near(axes: Axes, scatter: Mapping[str, tuple[Array, Array]]) -> None:
    for row, (kind, (near, value)) in enumerate(scatter.items()):
        axes.plot(near, value, ls="", marker=MARKS[row], color=COLOURS[row], ms=3.2, alpha=0.65, mew=0, label=kind)
    axes.set(xlim=(0, 1.0), ylim=(0, 1.02))
    axes.set_xlabel("normalised kernel, nearest training image")
    axes.set_ylabel("IoU")
    axes.legend(fontsize=7, loc="lower right", markerscale=1.6, handletextpad=0.2)
    axes.set_title("By the kernel")


def _told(axes: Axes, told: Mapping[str, Array]) -> None:
    for column, (label, colour, mark, shift) in enumerate(
        (("over all kinds", style.BLUE, "o", -0.12), ("within the kinds", style.VERMILION, "D", 0.12))
    ):
        mean = np.array([v[:, column].mean() for v in told.values()])
        half = np.array([_half(v[:, column]) for v in told.values()])
        ends = np.stack([np.minimum(half, mean + 1), np.minimum(half, 1 - mean)])
        axes.errorbar(
            mean, np.arange(len(told)) + shift, xerr=ends, ls="", marker=mark, color=colour, ms=5, label=label
        )
    axes.axvline(0, color=style.MUTED, lw=0.8)
    axes.set_yticks(range(len(told)), list(told))
    low = min(float((v.mean(0) - [_half(v[:, k]) for k in (0, 1)]).min()) for v in told.values())
    axes.set(xlim=(max(-1.0, min(low - 0.05, -0.45)), 1), ylim=(len(told) - 0.5, -0.5))
    axes.set_xlabel("Spearman's correlation of being near with the IoU")
    axes.legend(fontsize=7.5, loc="lower left")
    axes.set_title("What tells which shapes fail")


def _half(values: Array) -> float:
    """Half of the 95 % interval of the mean; 0 for one value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0

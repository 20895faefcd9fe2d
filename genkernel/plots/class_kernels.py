"""Kernels of images by class: matrices before and after training, and mean cosines within and between classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_KINDS = (("within", style.BLUE, "o", "two of one class"), ("between", style.VERMILION, "s", "two of two classes"),
          ("cka", style.GREEN, "^", "CKA with the labels"))  # fmt: skip


@style.house
def class_matrices(
    matrices: Mapping[str, Mapping[str, Array]],
    names: Mapping[str, tuple[str, ...]],
    per_class: int,
    meta: dict[str, Any],
) -> Figure:
    """Normalised kernels of images ordered by class, in equal colours.

    Args:
        matrices: set of images → title → cosines ``[n, n]``.
        names: set → its classes.
        per_class: images of each class, next to one another.
        meta: for the footer.
    """
    columns = max(map(len, matrices.values()))
    figure = style.new_figure(0.6 + 2.15 * len(matrices), width=7.8)
    grid = figure.subplots(len(matrices), columns, squeeze=False)
    least = min(float(m.min()) for shown in matrices.values() for m in shown.values())
    signed = least < -0.1
    image: Any = None
    for row, (name, shown) in enumerate(matrices.items()):
        middles = per_class * (np.arange(len(names[name])) + 0.5) - 0.5
        for column, (title, matrix) in enumerate(shown.items()):
            axes = grid[row, column]
            image = axes.imshow(
                matrix, cmap=style.DIVERGING if signed else style.SEQUENTIAL, vmin=-1 if signed else 0, vmax=1
            )
            style.map_axes(axes)
            axes.set_title(title if row == 0 else "", fontsize=9)
            long = max(map(len, names[name])) > 2
            axes.set_xticks(middles, names[name], rotation=90 if long else 0, fontsize=7)
            axes.set_yticks(middles, names[name] if column == 0 else [""] * len(middles), fontsize=7)
            axes.tick_params(length=0, pad=2)
            if column == 0:
                axes.set_ylabel(name, fontsize=9.5, fontweight="bold")
    bar = figure.colorbar(
        image, ax=grid.ravel().tolist(), shrink=0.6, pad=0.015, extend="min" if least < 0 and not signed else "neither"
    )
    bar.set_label("cosine of tangent features")
    style.footer(figure, meta, f"{per_class} images per class, ordered by class · first network of each set")
    return figure


@style.house
def block_means(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Array]]]], meta: dict[str, Any]) -> Figure:
    """Mean cosines within and between classes and CKA, of every network, set of images and kernel.

    Args:
        found: set → kernel → "network · images" → within, between, cka ``[seeds]``.
        meta: for the footer.
    """
    sets = list(found)
    kernels = list(found[sets[0]])
    rows = list(found[sets[0]][kernels[0]])
    figure = style.new_figure(0.8 + 1.22 * len(kernels), width=7.4)
    grid = figure.subplots(len(kernels), len(sets), sharex=True, sharey=True, squeeze=False)
    for (i, kernel), (j, name) in ((a, b) for a in enumerate(kernels) for b in enumerate(sets)):
        axes = grid[i, j]
        for what, colour, mark, label in _KINDS:
            values = np.array([found[name][kernel][row][what] for row in rows])
            axes.errorbar(
                values.mean(1), np.arange(len(rows)), xerr=_half(values), color=colour, marker=mark, linestyle="",
                linewidth=1.2, label=label,
            )  # fmt: skip
        axes.axvline(0, color=style.MUTED, linewidth=0.8, linestyle=":")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.15, 1.03)
        axes.set_yticks(range(len(rows)), [row.replace(" images", "") for row in rows], fontsize=7.5)
        axes.set_title(f"{name}: {kernel}", fontsize=7.6)
        if i == len(kernels) - 1:
            axes.set_xlabel("mean cosine, or CKA")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    style.footer(figure, meta, "mean and 95 % over networks (Student's t)")
    return figure


def _half(values: Array) -> Array | None:
    """Half of the 95 % interval of the mean over the last axis."""
    from scipy.stats import t

    n = values.shape[1]
    return t.ppf(0.975, n - 1) * values.std(1, ddof=1) / n**0.5 if n > 1 else None

"""The timestep embedding beside the kernel: is the kernel as local as its conditioning?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult


@style.house
def embedding_cosines(result: DiffusionResult) -> Figure:
    """Cosine of the raw timestep embeddings, of the time MLP's outputs, and of the kernel."""
    candidates = [("Raw embedding", result.embedding_cosine, result.embedding_spearman, style.ORANGE),
             ("After time MLP", result.time_mlp_cosine, result.time_mlp_spearman, style.GREEN),
             ("Kernel", result.locality.matrix, None, style.BLUE)]  # fmt: skip
    shown = [(title, matrix, rank, color) for title, matrix, rank, color in candidates if matrix is not None]
    if len(shown) < 2:
        raise InputError("this result has no timestep-embedding cosines to draw (the model exposes no embedding)")
    levels = result.levels
    figure = style.new_figure(5.0)
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1.0, 1.15))
    gap = np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    below = figure.add_subplot(grid[1, :])
    maps: list[Axes] = []
    image: Any = None
    for column, (title, matrix, spearman, color) in enumerate(shown):
        axes = figure.add_subplot(grid[0, column])
        image = axes.imshow(matrix, origin="lower", cmap=style.DIVERGING, vmin=-1, vmax=1)
        style.map_axes(axes)
        style.level_axes(axes, levels, minor=False)
        axes.set_title(f"{title}\n", fontsize=9, pad=3, color=color)
        note = "different images" if spearman is None else f"rank corr. {style.pair(*spearman)}"
        axes.text(0, 1.04, note, transform=axes.transAxes, fontsize=7.6, color=color)
        if column:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel(style.time_label(levels).replace(" t", " t′"), fontsize=8.5)
        axes.set_xlabel(style.time_label(levels), fontsize=8.5)
        maps.append(axes)
        lag, mean = _by_lag(gap, matrix)
        below.plot(lag, mean, color=color, marker="o", markersize=3)
    bar = figure.colorbar(image, ax=maps, location="right", shrink=0.85, aspect=18)
    bar.set_label("cosine")
    bar.outline.set_visible(False)
    stderr = np.nan_to_num(result.locality.by_timestep.stderr)
    profile = result.locality.by_timestep
    below.fill_between(
        profile.lag, profile.mean - stderr, profile.mean + stderr, color=style.BLUE, alpha=0.25, linewidth=0
    )
    below.axhline(0, color=style.GREY, linewidth=0.8)
    below.set_xlim(0, gap.max() * 1.02)
    below.set_ylim(-1 if below.get_ylim()[0] < -0.3 else min(0, below.get_ylim()[0]), 1.03)
    below.set_xlabel(style.lag_label(levels))
    below.set_ylabel("mean cosine")
    style.title(figure, "Is the kernel as local as its conditioning?")
    style.footer(figure, result.meta, "band ±1 s.e.; rank corr.: Spearman, with the kernel")
    return figure


def _by_lag(gap: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the pairs of levels at (nearly) the same distance."""
    spacing = np.median(np.diff(np.unique(np.round(gap, 9)))) or 1.0
    spacing = max(spacing, gap.max() / max(len(gap) - 1, 1) / 2)
    bins = np.rint(gap / spacing).astype(int)
    present = np.unique(bins)
    return (
        np.array([gap[bins == b].mean() for b in present]),
        np.array([matrix[bins == b].mean() for b in present]),
    )


@style.house
def embedding_interpolation(result: DiffusionResult) -> Figure:
    """The kernel along an interpolated embedding at a fixed input, and with embeddings swapped."""
    found = result.interpolation
    if found is None:
        raise InputError("this result has no embedding interpolation to draw")
    figure = style.new_figure(3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for row, color, name in ((0, style.BLUE, "start"), (len(found.weights) - 1, style.VERMILION, "end")):
        mean, stderr = found.matrix[row], np.nan_to_num(found.stderr[row])
        left.fill_between(found.weights, mean - stderr, mean + stderr, color=color, alpha=0.25, linewidth=0)
        left.plot(found.weights, mean, color=color, marker="o", label=f"with the {name} (λ = {row and 1})")
    left.set_xlabel("λ, embedding moved from\n"
                    f"t = {style.number(found.from_level)} to {style.number(found.to_level)}")  # fmt: skip
    left.set_ylabel("mean cosine")
    left.set_xlim(-0.02, 1.02)
    left.set_ylim(min(0, left.get_ylim()[0]), 1.03)
    left.set_title("Interpolated", fontsize=9.5)
    left.legend(loc="lower center", fontsize=7.6)
    image = right.imshow(found.swapped, cmap=style.DIVERGING, vmin=-1, vmax=1)
    style.map_axes(right)
    for (i, j), value in np.ndenumerate(found.swapped):
        right.text(
            j, i, f"{value:.2f}", ha="center", va="center", fontsize=7.6,
            color="white" if abs(value) > 0.62 else style.INK,
        )  # fmt: skip
    names = {"x from": f"x$_{{{found.from_level:g}}}$", "x to": f"x$_{{{found.to_level:g}}}$",
             "e from": f"e$_{{{found.from_level:g}}}$", "e to": f"e$_{{{found.to_level:g}}}$"}  # fmt: skip
    labels = [
        ", ".join(names.get(part.strip(), part.strip()) for part in name.split(",")) for name in found.swap_labels
    ]
    ticks = range(len(labels))
    right.set_xticks(ticks, labels, rotation=60, fontsize=7.6)
    right.set_yticks(ticks, labels, fontsize=7.6)
    right.set_title("Swapped", fontsize=9.5)
    bar = figure.colorbar(image, ax=right, location="bottom", shrink=0.8, aspect=18)
    bar.set_label("mean cosine", fontsize=8.5)
    bar.outline.set_visible(False)
    style.title(figure, "Moving only the embedding e, with the input x held fixed")
    images = result.meta.get("control_images") or result.meta.get("images")
    style.footer(figure, {**result.meta, "images": images}, _errors(found.swapped_stderr))
    return figure


def _errors(stderr: np.ndarray) -> str:
    known = stderr[np.isfinite(stderr)]
    return f"band ±1 s.e.; swapped s.e. ≤ {known.max():.2g}" if len(known) else "too few images for s.e."

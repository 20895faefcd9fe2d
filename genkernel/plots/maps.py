"""Heat maps of level × level cosines: the kernel, and the kernel of every control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import style
from genkernel.plots.names import control_title, kernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult, Levels


@style.house
def kernel_map(result: DiffusionResult) -> Figure:
    """The normalised kernel between noise levels, t × t′, on the fixed range 0 … 1.

    The dashed lines enclose the window |Δt| ≤ w that the locality index counts as local.
    """
    figure = style.new_figure(5.5)
    axes = figure.subplots()
    image = axes.imshow(result.locality.matrix, origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    style.map_axes(axes)
    style.level_axes(axes, result.levels)
    _window(axes, result.levels)
    style.title(figure, "Tangent-kernel cosine between noise levels")
    bar = figure.colorbar(
        image,
        ax=axes,
        location="bottom",
        shrink=0.62,
        aspect=32,
        extend="min" if result.locality.matrix.min() < 0 else "neither",
    )
    bar.set_label("mean cosine over different images")
    bar.outline.set_visible(False)
    stderr = result.locality.stderr[np.isfinite(result.locality.stderr)]
    errors = (
        f"s.e. median {np.median(stderr):.2g}, max {stderr.max():.2g}" if len(stderr) else "too few images for s.e."
    )
    style.footer(figure, result.meta, errors)
    return figure


@style.house
def control_maps(result: DiffusionResult) -> Figure:
    """The kernel and its controls as small maps on one scale, 0 … 1."""
    shown = kernels(result)
    columns = 3
    rows = -(-len(shown) // columns)
    spare = rows * columns - len(shown)
    # laid out by hand: square maps in a grid are what automatic layouts are worst at
    left, gap, head, top, foot = 0.62, 0.2, 0.44, 0.3, 0.72 if spare else 1.4  # inches
    side = (style.WIDTH - left - 0.14 - gap * (columns - 1)) / columns
    height = top + rows * (side + head) + foot
    figure = style.new_figure(height)
    figure.set_layout_engine("none")
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left / style.WIDTH,
            "right": 1 - 0.14 / style.WIDTH,
            "bottom": foot / height,
            "top": 1 - (top + head) / height,
            "wspace": gap / side,
            "hspace": head / side,
        },
    )
    image: Any = None
    for place, (name, kernel) in enumerate(shown.items()):
        axes = grid.flat[place]
        image = axes.imshow(kernel.matrix, origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=1)
        style.map_axes(axes)
        style.level_axes(axes, result.levels, minor=False)
        axes.set_title(f"{control_title(name)}\n", fontsize=7.3, pad=3)
        axes.text(
            0, 1.03, f"index {style.pair(kernel.index, kernel.index_stderr)}", transform=axes.transAxes, fontsize=7.4
        )
        if place % columns:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel(style.time_label(result.levels).replace(" t", " t′"), fontsize=8.5)
        if place + columns < len(shown):
            axes.set_xticklabels([])
        elif place // columns == rows - 1:
            axes.set_xlabel(style.time_label(result.levels), fontsize=8.5)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    if spare:  # the scale sits in the cells that no map fills
        room = grid.flat[len(shown)].inset_axes((0.1, 0.45, spare + gap / side * (spare - 1) - 0.2, 0.08))
        bar = figure.colorbar(image, cax=room, orientation="horizontal")
    else:
        room = figure.add_axes((0.25, 0.62 / height, 0.5, 0.12 / height))
        bar = figure.colorbar(image, cax=room, orientation="horizontal")
    bar.set_label("mean cosine")
    bar.outline.set_visible(False)
    style.title(figure, "The kernel and its controls on one scale")
    style.footer(figure, result.meta, f"index ± s.e.{style.control_note(result.meta)}")
    return figure


def _window(axes: Axes, levels: Levels) -> None:
    """Lines at |Δt| = window, in units of levels; where levels are uneven the lines bend."""
    count = np.arange(len(levels.timesteps), dtype=float)
    for sign in (-1, 1):
        moved = levels.timesteps + sign * levels.window_timesteps
        inside = (moved >= levels.timesteps[0]) & (moved <= levels.timesteps[-1])
        if inside.sum() > 1:
            at = np.interp(moved[inside], levels.timesteps, count)
            axes.plot(count[inside], at, color="white", linewidth=0.9, linestyle=(0, (4, 3)))

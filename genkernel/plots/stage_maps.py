"""Maps of what was learned at one noise level and what it did at another, over windows of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, path_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style.house
def stage_map(
    matrix: np.ndarray,
    timesteps: Sequence[float] | np.ndarray,
    edges: Sequence[float] | np.ndarray,
    *,
    label: str,
    title: str,
    log_snr: Sequence[float] | np.ndarray | None = None,
    edges_log_snr: Sequence[float] | np.ndarray | None = None,
    windows: Sequence[str] = (),
    signed: bool | None = None,
    note: str = "",
) -> Figure:
    """What was learned at each noise level (columns) did to the outputs at each noise level (rows).

    Clean images are at the lower left, and the dashed line is where both levels are the same. A stack has a panel for
    each window of training on one scale.

    Args:
        matrix: ``[T, B]`` or ``[W, T, B]``: T queried noise levels, B buckets of training noise levels.
        timesteps: of the queries ``[T]``, rising.
        edges: of the buckets, in timesteps ``[B + 1]``, rising.
        label: what an entry is, with its unit.
        title: the question that the figure answers.
        log_snr: of the queries ``[T]``, for a second axis on the right.
        edges_log_snr: at the edges of the buckets ``[B + 1]``, for a second axis above.
        windows: what the windows are called ``[W]``.
        signed: symmetric colours about zero; by default where an entry is negative.
        note: for the footer: rule, steps, optimizer, dtype, gap.

    Raises:
        InputError: shapes do not fit, or entries are negative where ``signed`` is False, or not finite.
    """
    stack = np.asarray(matrix, dtype=float)
    stack = stack[None] if stack.ndim == 2 else stack
    times, bounds = np.asarray(timesteps, dtype=float), np.asarray(edges, dtype=float)
    _check_stages(stack, times, bounds, log_snr, edges_log_snr, windows)
    negative = bool((stack < 0).any())
    if signed is False and negative:
        raise InputError("a map of sizes has no negative entries: leave signed= out for contributions with a sign")
    diverging = negative if signed is None else signed
    limit = float(np.abs(stack).max()) or 1.0
    lowest, colors = (-limit, path_axes.SIGNED) if diverging else (0.0, style.SEQUENTIAL)
    count = len(stack)
    columns = 2 if count == 4 else min(count, 3)
    lines = -(-count // columns)
    # by hand: square maps in a grid are what automatic layouts are worst at (inches)
    left, right, gap = 0.66, 0.62 if log_snr is not None else 0.14, 0.3
    above = (0.42 if columns == 1 else 0.4) if edges_log_snr is not None else 0.06
    name, below = 0.2 if windows else 0.0, 0.46
    side = min(3.6, (style.WIDTH - left - right - gap * (columns - 1)) / columns)
    height = 0.42 + lines * (above + name + side + below) + 0.86
    figure = gan_style.by_hand(height)
    image: Any = None
    for place, values in enumerate(stack):
        line, column = divmod(place, columns)
        x = left + column * (side + gap)
        y = 0.42 + line * (above + name + side + below) + above + name
        axes = gan_style.panel(figure, x, y, side, side)
        image = axes.pcolormesh(np.arange(len(bounds)), np.arange(len(times) + 1) - 0.5, values, cmap=colors,
                                vmin=lowest, vmax=limit)  # fmt: skip
        style.map_axes(axes)
        dark = not diverging
        _stage_axes(axes, times, bounds, log_snr, edges_log_snr, dark, column == 0,
                    column == columns - 1 or place == count - 1, 5 if columns == 1 else 3)  # fmt: skip
        if windows:
            up = above + 0.05
            axes.annotate(windows[place], (0, 1), (0, 72 * up), xycoords="axes fraction", textcoords="offset points",
                          fontsize=8.5, fontweight="bold")  # fmt: skip
    wide = min(3.2, columns * side + (columns - 1) * gap)
    bar_at = gan_style.panel(
        figure, left + (columns * side + (columns - 1) * gap - wide) / 2, height - 0.72, wide, 0.09
    )
    bar = figure.colorbar(image, cax=bar_at, orientation="horizontal")
    bar.set_label(f"{label} (blue helps, red is against)" if diverging else label, fontsize=8.5, labelpad=2)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    style.title(figure, title)
    style.footer(figure, {}, " · ".join(word for word in (note, "dashed: the same level") if word))
    return figure


def _check_stages(
    stack: np.ndarray, times: np.ndarray, bounds: np.ndarray, log_snr: Any, edges_log_snr: Any, windows: Sequence[str]
) -> None:
    if stack.ndim != 3 or stack.shape[1:] != (len(times), len(bounds) - 1) or not stack.size:
        raise InputError(
            f"a stage map is [T, B] or [W, T, B] with T timesteps and B + 1 edges of buckets, not {stack.shape[-2:]} "
            f"with {len(times)} and {len(bounds)}"
        )
    if not np.isfinite(stack).all():
        raise InputError("a stage map has finite entries: leave out levels that nothing is known of")
    for values, size, what in ((log_snr, len(times), "log_snr"), (edges_log_snr, len(bounds), "edges_log_snr")):
        if values is not None and len(values) != size:
            raise InputError(f"{what} has {len(values)} values for {size} levels")
    if (np.diff(times) <= 0).any() or (np.diff(bounds) <= 0).any():
        raise InputError("timesteps and edges of buckets rise: sort the levels, and the matrix with them")
    if len(stack) > 1 and not windows:
        raise InputError(f"a stack of {len(stack)} maps needs windows=, their names")
    if windows and len(windows) != len(stack):
        raise InputError(f"{len(windows)} names of windows for {len(stack)} maps")


def _stage_axes(
    axes: Axes, times: np.ndarray, bounds: np.ndarray, log_snr: Any, edges_log_snr: Any, dark: bool, first: bool,
    last: bool, ticks: int,
) -> None:  # fmt: skip
    """Timesteps below and left, log-SNR above and right, and the line t = t′."""
    rows, columns = np.arange(len(times), dtype=float), np.arange(len(bounds), dtype=float)
    small = 8.5 if ticks > 3 else 7.5
    axes.set_xticks(*style.level_ticks(bounds, columns, ticks), fontsize=small - 0.5)
    axes.set_yticks(*style.level_ticks(times, rows, ticks + 1), fontsize=small - 0.5)
    axes.set_xlabel("training timestep t′", fontsize=small, labelpad=2)
    if first:
        axes.set_ylabel("queried timestep t", fontsize=small)
    else:
        axes.set_yticklabels([])
    inside = (times >= bounds[0]) & (times <= bounds[-1])
    axes.plot(np.interp(times[inside], bounds, columns), rows[inside], color="white" if dark else style.INK,
              linewidth=0.9, linestyle=(0, (4, 3)))  # fmt: skip
    axes.set_xlim(columns[0], columns[-1])
    axes.set_ylim(-0.5, len(times) - 0.5)
    grey: dict[str, Any] = {"color": style.MUTED, "fontsize": small}
    if edges_log_snr is not None:
        top = axes.secondary_xaxis("top")
        top.set_xticks(*style.level_ticks(np.asarray(edges_log_snr, dtype=float), columns, ticks))
        top.tick_params(labelsize=small - 1, labelcolor=style.MUTED, pad=1)
        top.set_xlabel(style.LOG_SNR_LABEL if ticks > 3 else "log-SNR", labelpad=2, **grey)
    if log_snr is not None and last:
        right = axes.secondary_yaxis("right")
        right.set_yticks(*style.level_ticks(np.asarray(log_snr, dtype=float), rows, ticks + 1))
        right.tick_params(labelsize=small - 1, labelcolor=style.MUTED, pad=1)
        right.set_ylabel(style.LOG_SNR_LABEL if ticks > 3 else "log-SNR", labelpad=2, **grey)

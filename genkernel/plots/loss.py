"""The plain baseline: the loss per noise level, and the size of its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult


@style.house
def loss_per_level(result: DiffusionResult) -> Figure:
    """Mean squared error of the raw prediction per level, and the norm of the mean gradient below it."""
    levels = result.levels
    panels = 1 if result.interference is None else 2
    figure = style.new_figure(2.2 + 1.6 * (panels - 1) + 0.6)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    grid[0].errorbar(
        levels.timesteps, result.loss_mean, yerr=1.96 * np.nan_to_num(result.loss_stderr), color=style.BLUE, marker="o"
    )
    grid[0].set_ylabel("loss (mean squared\nerror per pixel)")
    _log_if_wide(grid[0], result.loss_mean)
    style.title(figure, "Loss per noise level")
    if result.interference is not None:
        norm = result.interference.level_gradient_norm
        grid[1].plot(levels.timesteps, norm, color=style.VERMILION, marker="o")
        grid[1].set_ylabel("norm of the\nmean gradient")
        _log_if_wide(grid[1], norm)
    grid[-1].set_xlabel(style.time_label(levels))
    style.log_snr_axis(grid[0], levels)
    figure.align_ylabels()
    style.footer(figure, result.meta, "error bars ±1.96 s.e. over images")
    return figure


def _log_if_wide(axes: Any, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 8:
        axes.set_yscale("log")
    elif len(finite):
        axes.set_ylim(0, None)

"""Does the kernel predict real optimizer steps? Its error against the size of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.one_step import OneStep
    from genkernel.gan.results import GanResult

NAMES = {"sgd": "SGD", "adam": "Adam"}
COLORS = (style.BLUE, style.VERMILION)


@style.house
def one_step_error(result: GanResult) -> Figure:
    """Relative error of the first order against the step size, beside a line of slope 1; one panel per optimizer.

    Where batch normalisation has running statistics a second row compares how far a step moves the samples with how
    far those statistics alone do, which is the same for every step size.
    """
    steps = result.one_step
    if not steps:
        raise InputError("this result has no one-step check to draw")
    buffers = any(_positive(step.buffers) for step in steps)
    figure = style.new_figure(4.6 if buffers else 3.0)
    grid = figure.subplots(2 if buffers else 1, len(steps), squeeze=False, sharey="row", sharex="col")
    for column, step in enumerate(steps):
        color = COLORS[column % len(COLORS)]
        grid[0, column].set_xscale("log")
        _errors(grid[0, column], step, color)
        if buffers:
            _movement(grid[1, column], step, color)
        grid[-1, column].set_xlabel("step size η")
        gan_style.log_ticks(grid[-1, column], "x")
    grid[0, 0].set_ylabel("relative error\n‖ΔG − ηU‖ / ‖ΔG‖")
    if buffers:
        grid[1, 0].set_ylabel("movement of samples\n‖ΔG‖ / √n")
    for row in grid:
        gan_style.log_ticks(row[0], "y")
    style.title(figure, "Does the kernel predict a real optimizer step?")
    figure.align_ylabels()
    note = "dotted: slope 1" + ("; dashed: buffers alone" if buffers else "")
    gan_style.footer(figure, result, note, n=f"n = {result.one_step[0].latents} latents")
    return figure


def _errors(axes: Axes, step: OneStep, color: str) -> None:
    axes.set_yscale("log")
    axes.set_title(NAMES.get(step.optimizer, step.optimizer), fontsize=9.5, color=color)
    good = np.isfinite(step.errors) & (step.errors > 0)
    if not good.any():
        axes.plot(step.etas, np.full(len(step.etas), np.nan))  # the step sizes still give the axis its range
        axes.text(
            0.5, 0.5, "no error to draw: the step\nis exact, or moves nothing", transform=axes.transAxes, ha="center",
            va="center", fontsize=8,
        )  # fmt: skip
        return
    first = int(np.flatnonzero(good)[0])
    axes.plot(step.etas, step.errors[first] * step.etas / step.etas[first], ":", color=style.GREY, linewidth=1.4)
    axes.plot(step.etas[good], step.errors[good], color=color, marker="o")
    ratios = step.ratios[np.isfinite(step.ratios)]
    if len(ratios):  # every one of them: a mean would hide where rounding takes over
        text = "per halving ÷ " + ", ".join(f"{ratio:.1f}" for ratio in ratios)
        axes.text(0.97, 0.05, text, transform=axes.transAxes, ha="right", fontsize=7.6)


def _movement(axes: Axes, step: OneStep, color: str) -> None:
    axes.set_yscale("log")
    good = step.movement > 0
    axes.plot(step.etas[good], step.movement[good], color=color, marker="s")
    if _positive(step.buffers):
        axes.axhline(step.buffers, color=style.INK, linewidth=1.1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"buffers {gan_style.power(float(f'{step.buffers:.2g}'))}", (1, step.buffers), (-2, 3),
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=gan_style.TEXT,
        )  # fmt: skip


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0

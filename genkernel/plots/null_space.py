"""Energies of residuals in null spaces, over the tolerance: on a training set, on the population, on digits."""

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

_ORDER = (style.VERMILION, style.ORANGE, style.GREEN, style.SKY, style.PURPLE)  # sets, from the smallest
_MARKS = "osD^v"


@style.house
def null_curves(
    tolerances: Sequence[float],
    course: Mapping[str, Any],
    population: Sequence[Any],
    digits: Sequence[Any],
    samples: int,
    meta: dict[str, Any],
) -> Figure:
    """E_null(τ) in three studies, and what the training set says of its population.

    Args:
        tolerances: τ ``[t]``, the same for all curves.
        course: step → :class:`genkernel.experiments.null_space_line.Reading`, of one training set.
        population: its :class:`~genkernel.experiments.null_space_line.Case`, the last one of fresh samples.
        digits: its :class:`~genkernel.experiments.null_space_digits.Digits`; may be empty.
        samples: of the one training set.
        meta: for the footer.
    """
    taus = np.asarray(tolerances, dtype=np.float64)
    figure = style.new_figure(5.8, width=7.4)
    grid = figure.subplots(2, 2)
    _course(grid[0, 0], taus, course, samples)
    _population(grid[0, 1], taus, population)
    _stationarity(grid[1, 0], population)
    if digits:
        _digits(grid[1, 1], taus, digits)
    else:
        grid[1, 1].set_visible(False)
    starts = len(population[0].after.rayleigh)
    style.footer(figure, meta, f"bands: ± standard error over {starts} networks (digits: their trainings)")
    return figure


def _axes(axes: Axes, taus: Array, title: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(taus.max(), taus.min())
    axes.set_ylim(-0.02, 1.62)  # the upper third is for the legend
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xlabel("tolerance τ, relative to σ₁")
    axes.set_ylabel(r"$E_{\mathrm{null}}(\tau)$", loc="bottom")
    axes.set_title(title)
    axes.legend(fontsize=6.6, loc="upper left", ncols=2, handlelength=1.6, labelspacing=0.3, columnspacing=1.0)


def _band(axes: Axes, taus: Array, energy: Any, colour: Any, label: str, **looks: Any) -> None:
    each = np.asarray(energy, dtype=np.float64)
    mean = each.mean(0)
    axes.plot(taus, mean, color=colour, label=label, **looks)
    if len(each) > 1:
        error = each.std(0, ddof=1) / np.sqrt(len(each))
        axes.fill_between(taus, np.clip(mean - error, 0, 1), np.clip(mean + error, 0, 1), color=colour, alpha=0.2, lw=0)


def _course(axes: Axes, taus: Array, course: Mapping[str, Any], rows: int) -> None:
    from matplotlib import colormaps

    shades = colormaps[style.SEQUENTIAL](np.linspace(0.9, 0.05, len(course)))
    for (step, one), shade in zip(course.items(), shades, strict=True):
        name = f"step {int(step):,}".replace(",", "\u2009") if step.isdigit() else "LM"
        gradient = float(np.exp(np.log(np.maximum(one.gradient, 1e-300)).mean()))
        _band(axes, taus, one.energy, shade, f"{name}, |∇L| {gradient:.0e}")
    last = list(course.values())[-1]
    random = 1 - last.ranks.mean(0) / rows
    axes.plot(taus, random, color=style.GREY, ls="--", lw=1.2, label="random residual")
    _axes(axes, taus, "One training set, on itself")


def _population(axes: Axes, taus: Array, cases: Sequence[Any]) -> None:
    *reused, fresh = cases
    _band(axes, taus, fresh.before.energy, style.GREY, "before the training", ls="--", lw=1.2)
    for one, colour in zip(reused, _ORDER, strict=False):
        _band(axes, taus, one.after.energy, colour, f"{one.name} samples")
    _band(axes, taus, fresh.after.energy, style.BLUE, "fresh samples")
    _axes(axes, taus, "Residual on the population")


def _stationarity(axes: Axes, cases: Sequence[Any]) -> None:
    *reused, fresh = cases
    every = []
    for one, colour, mark in zip(reused, _ORDER, _MARKS, strict=False):
        x, y = np.sqrt(one.trained.rayleigh), np.sqrt(one.after.rayleigh)
        every += [x, y]
        axes.plot(x, y, ls="", marker=mark, color=colour, alpha=0.8, label=f"{one.name} samples")
    held = np.sqrt(fresh.after.rayleigh)
    low, high = np.quantile(held, [0, 1])
    axes.axhspan(low, high, color=style.BLUE, alpha=0.2, lw=0)
    middle = float(np.exp(np.log(held).mean()))
    axes.axhline(middle, color=style.BLUE, lw=1.2, label="fresh samples (range)")
    least = min(float(np.min(one)) for one in every)
    axes.plot([least, 1], [least, 1], color=style.GREY, lw=1, ls=":")
    axes.text(0.6, 0.35, "equal", color=style.MUTED, fontsize=7, ha="left", va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(None, 2.5)
    axes.set_xlabel(r"$\sqrt{\rho_K}$ of the residual on the training set")
    axes.set_ylabel(r"$\sqrt{\rho_K}$ on the population")
    axes.set_title("Stationary, and where")
    axes.legend(fontsize=6.8, loc="lower right", labelspacing=0.25)


def _digits(axes: Axes, taus: Array, found: Sequence[Any]) -> None:
    names = list(dict.fromkeys(one.name for one in found))
    _band(axes, taus, [one.start for one in found], style.GREY, "before the training", ls="--", lw=1.2)
    for name, colour in zip(names, (*_ORDER[: len(names) - 1], style.BLUE), strict=False):
        label = "fresh images" if name == names[-1] else f"{name} images"
        _band(axes, taus, [one.energy for one in found if one.name == name], colour, label)
    _band(axes, taus, [one.random for one in found], style.INK, "random residual", ls=":", lw=1.2)
    for one in found:
        if one.low is not None:
            axes.fill_between(
                taus, one.low, one.high, facecolor="none", edgecolor=style.BLUE, hatch="////", lw=0.4, alpha=0.35,
                label="bounds, matrix-free", step=None,
            )  # fmt: skip
    _axes(axes, taus, f"Digits, {found[0].rows} held-out rows, P = {found[0].parameters}")
    axes.set_xlim(taus.max(), 1e-6)

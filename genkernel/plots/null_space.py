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
        course: step → :class:`genkernel.experiments.null_space.line.Reading`, of one training set.
        population: its :class:`~genkernel.experiments.null_space.line.Case`, the last one of fresh samples.
        digits: its :class:`~genkernel.experiments.null_space.digits.Digits`; may be empty.
        samples: of the one training set.
        meta: for the footer.
    """
    taus = np.asarray(tolerances, dtype=np.float64)
    figure = style.new_figure(6.4, width=7.4)
    grid = figure.subplots(2, 2)
    _course(grid[0, 0], taus, course, samples)
    _population(grid[0, 1], taus, population)
    _stationarity(grid[1, 0], population)
    if digits:
        _digits(grid[1, 1], taus, digits)
    else:
        grid[1, 1].set_visible(False)
    starts = len(population[0].after.rayleigh)
    also = f", on digits over {len({one.seed for one in digits})} trainings" if digits else ""
    style.footer(figure, meta, f"bands: ± standard error over {starts} networks{also}; in brackets: ‖∇L‖")
    return figure


def _axes(axes: Axes, taus: Array, title: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(taus.max(), taus.min())
    axes.set_ylim(-0.02, 1.03)
    axes.set_xlabel("tolerance τ, relative to σ₁")
    axes.set_ylabel(r"$E_{\mathrm{null}}(\tau)$")
    _named(axes, title, columns=2)


def _named(axes: Axes, title: str, columns: int) -> None:
    """Legend between the title and the axes, so that it covers no curve."""
    count = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        fontsize=7, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, handlelength=1.3, labelspacing=0.3,
        columnspacing=0.8, borderaxespad=0.2,
    )  # fmt: skip
    axes.set_title(title, pad=8 + 10.8 * -(-count // columns))


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
        name = f"step {int(step):,}".replace(",", "\u2009") if step.isdigit() else step
        _band(axes, taus, one.energy, shade, f"{name} ({_power(one.gradient)})")
    last = list(course.values())[-1]
    random = 1 - last.ranks.mean(0) / rows
    axes.plot(taus, random, color=style.GREY, ls="--", lw=1.2, label="random residual")
    _axes(axes, taus, "On the training set")


def _power(gradients: Any) -> str:
    """The geometric mean, as a × 10ᵇ."""
    digit, power = f"{np.exp(np.log(np.maximum(gradients, 1e-300)).mean()):.0e}".split("e")
    return rf"${digit}\times10^{{{int(power)}}}$"


def _population(axes: Axes, taus: Array, cases: Sequence[Any]) -> None:
    *reused, fresh = cases
    _band(axes, taus, fresh.before.energy, style.GREY, "before the training", ls="--", lw=1.2)
    for one, colour in zip(reused, _ORDER, strict=False):
        _band(axes, taus, one.after.energy, colour, f"{one.name} samples")
    _band(axes, taus, fresh.after.energy, style.BLUE, "fresh samples")
    _axes(axes, taus, "On the population")


def _stationarity(axes: Axes, cases: Sequence[Any]) -> None:
    *reused, fresh = cases
    every = []
    for one, colour, mark in zip(reused, _ORDER, _MARKS, strict=False):
        x, y = np.sqrt(one.trained.rayleigh), np.sqrt(one.after.rayleigh)
        every += [x, y]
        axes.plot(x, y, ls="", marker=mark, color=colour, alpha=0.8, label=f"{one.name} samples")
    held = np.sqrt(fresh.after.rayleigh)
    axes.axhspan(float(held.min()), float(held.max()), color=style.BLUE, alpha=0.2, lw=0)
    middle = float(np.exp(np.log(held).mean()))
    axes.axhline(middle, color=style.BLUE, lw=1.2, label="fresh (range)")
    least, most = min(float(np.min(one)) for one in every), max(float(np.max(one)) for one in [*every, held])
    bottom = 0.6 * min(float(held.min()), *(float(np.min(one)) for one in every[1::2]))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.6 * least, 1.6 * most)
    axes.set_ylim(bottom, 1.6 * most)
    ends = [bottom, 1.6 * most]
    axes.plot(ends, ends, color=style.GREY, lw=1, ls=":")
    axes.text(0.85 * most, most, "equal", color=style.MUTED, fontsize=7, ha="right", va="bottom", rotation=0)
    axes.set_xlabel(r"$\sqrt{\rho_K}$ of the residual on the training set")
    axes.set_ylabel(r"$\sqrt{\rho_K}$ on the population")
    _named(axes, "Stationary, and where", columns=3)


def _digits(axes: Axes, taus: Array, found: Sequence[Any]) -> None:
    names = list(dict.fromkeys(one.name for one in found))
    _band(axes, taus, [one.start for one in found], style.GREY, "before the training", ls="--", lw=1.2)
    for place, (name, colour) in enumerate(zip(names, (*_ORDER[: len(names) - 1], style.BLUE), strict=False)):
        fresh = name == names[-1]  # lies on the curve of the largest set: wide, and below it
        _band(
            axes, taus, [one.energy for one in found if one.name == name], colour,
            "fresh images" if fresh else f"{name} images", lw=3.6 if fresh else 1.5, zorder=2 if fresh else 3 + place,
        )  # fmt: skip
    _band(axes, taus, [one.random for one in found], style.INK, "random residual", ls=":", lw=1.2)
    for one in found:
        if one.low is not None:
            axes.fill_between(
                taus, one.low, one.high, facecolor="none", edgecolor=style.BLUE, hatch="////", lw=0.4, alpha=0.35,
                label="bounds, matrix-free", step=None,
            )  # fmt: skip
    _axes(axes, taus, f"On {found[0].rows} held-out rows of digits")
    axes.set_xlim(taus.max(), 1e-6)

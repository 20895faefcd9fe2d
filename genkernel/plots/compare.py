"""Two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import style
from genkernel.plots.names import MAIN, control_title, kernels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult

COLORS = (style.BLUE, style.VERMILION)


@style.house
def compare_indices(a: DiffusionResult, b: DiffusionResult, names: tuple[str, str] = ("A", "B")) -> Figure:
    """Locality indices of two runs with 95 % intervals, row by row."""
    rows = []
    both = [k for k in kernels(a) if k in kernels(b)]
    for key in both:
        rows.append(("Cosine kernel" if key == MAIN else control_title(key), kernels(a)[key], kernels(b)[key]))
        if key == MAIN:
            rows.append(("Unnormalised kernel", a.unnormalized, b.unnormalized))
    figure = style.new_figure(1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color=style.GREY, linewidth=1)
    for place, (_, first, second) in enumerate(rows):
        for kernel, shift, color in ((first, -0.14, COLORS[0]), (second, 0.14, COLORS[1])):
            axes.errorbar(
                kernel.index, place + shift, xerr=1.96 * kernel.index_stderr, fmt="o", color=color, markersize=5,
                elinewidth=1.6,
            )  # fmt: skip
        error = float(np.hypot(first.index_stderr, second.index_stderr))
        axes.text(
            1.02, place, style.pair(second.index - first.index, error), transform=axes.get_yaxis_transform(),
            va="center", fontsize=8,
        )  # fmt: skip
    axes.text(1.02, -0.75, "B − A", transform=axes.get_yaxis_transform(), va="center", fontsize=8, fontweight="bold")
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -1.0)
    axes.grid(False, axis="y")
    axes.set_xlabel("locality index (error bars ±1.96 s.e.)")
    axes.spines["left"].set_visible(False)
    _legend(figure, names)
    style.footer(figure, {}, "B − A: ± s.e. in quadrature, as of independent runs")
    return figure


@style.house
def compare_profiles(a: DiffusionResult, b: DiffusionResult, names: tuple[str, str] = ("A", "B")) -> Figure:
    """Decay over |Δt| and |Δ log-SNR| of two runs."""
    figure = style.new_figure(5.6)
    panels = figure.subplots(2, 1)
    for axes, pick in zip(panels, ("by_timestep", "by_log_snr"), strict=True):
        for result, color, marker in ((a, COLORS[0], "o"), (b, COLORS[1], "s")):
            profile = getattr(result.locality, pick)
            stderr = np.nan_to_num(profile.stderr)
            axes.fill_between(
                profile.lag, profile.mean - stderr, profile.mean + stderr, color=color, alpha=0.22, linewidth=0
            )
            axes.plot(profile.lag, profile.mean, color=color, marker=marker)
            if profile.half_width is not None:
                axes.axvline(profile.half_width, color=color, linewidth=1, linestyle="--")
        axes.set_xlim(0, None)
        axes.set_ylim(min(0, axes.get_ylim()[0]), 1)
        axes.set_ylabel("mean cosine")
    panels[0].set_xlabel(style.lag_label(a.levels))
    panels[1].set_xlabel(style.LOG_SNR_LAG_LABEL)
    _legend(figure, names)
    style.footer(figure, {}, "band ±1 s.e.; dashed: half-widths")
    return figure


@style.house
def compare_half_widths(a: DiffusionResult, b: DiffusionResult, names: tuple[str, str] = ("A", "B")) -> Figure:
    """Half-widths around each level of two runs, against log-SNR, which both have in common."""
    figure = style.new_figure(4.6)
    panels = figure.subplots(2, 1, sharex=True)
    rows = (("half_width_timesteps", "half-width\n(timesteps)" if a.levels.discrete else "half-width\n(time)"),
            ("half_width_log_snr", "half-width\n(nats log-SNR)"))  # fmt: skip
    for axes, (pick, label) in zip(panels, rows, strict=True):
        for result, color, marker in ((a, COLORS[0], "o"), (b, COLORS[1], "s")):
            values = np.array(getattr(result.locality, pick), dtype=float)
            axes.plot(result.levels.log_snr, values, color=color, marker=marker)
        axes.set_ylabel(label)
        axes.set_ylim(0, None)
    panels[-1].set_xlabel(style.LOG_SNR_LABEL + ", clean images to the right")
    _legend(figure, names)
    figure.align_ylabels()
    style.footer(figure, {}, "missing points: no decay beyond two s.e.")
    return figure


@style.house
def compare_map(a: DiffusionResult, b: DiffusionResult, names: tuple[str, str] = ("A", "B")) -> Figure:
    """Difference B − A of the two kernels on symmetric limits; dots where it exceeds two s.e."""
    if a.levels.timesteps.shape != b.levels.timesteps.shape or not np.allclose(a.levels.timesteps, b.levels.timesteps):
        raise InputError("the two runs have different noise levels, so their maps cannot be subtracted")
    difference = b.locality.matrix - a.locality.matrix
    error = np.hypot(a.locality.stderr, b.locality.stderr)
    limit = max(0.1, float(np.ceil(10 * np.nanmax(np.abs(difference))) / 10))
    figure = style.new_figure(5.5)
    axes = figure.subplots()
    image = axes.imshow(difference, origin="lower", cmap=style.DIVERGING, vmin=-limit, vmax=limit)
    style.map_axes(axes)
    style.level_axes(axes, a.levels)
    clear = np.argwhere(np.abs(difference) > 2 * error)
    if len(clear):
        axes.scatter(clear[:, 1], clear[:, 0], s=max(2, 180 / len(difference)), color=style.INK, linewidths=0)
    style.title(figure, "Difference of the two kernels, B − A")
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.62, aspect=32)
    bar.set_label("difference of mean cosines")
    bar.outline.set_visible(False)
    style.footer(figure, {}, "dots: more than two s.e. (in quadrature)")
    return figure


def _legend(figure: Figure, names: tuple[str, str]) -> None:
    """The two runs' names, in their colours, where a title would be."""
    for x, letter, name, color in ((0.012, "A", names[0], COLORS[0]), (0.5, "B", names[1], COLORS[1])):
        label = name if len(name) <= 26 else "…" + name[-25:]
        label = letter if label == letter else f"{letter}  {label}"
        figure.text(
            x,
            1 - 0.06 / figure.get_figheight(),
            label,
            color=color,
            fontsize=9.5,
            fontweight="bold",
            va="top",
            ha="left",
        )
    figure.suptitle(" ", fontsize=10.5)  # keeps the room

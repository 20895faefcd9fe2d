"""How fast the kernel decays with the distance of two noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import style
from genkernel.plots.names import MAIN, control_title, kernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult, Levels, Profile


@style.house
def locality_profile(result: DiffusionResult) -> Figure:
    """Mean cosine against |Δt| and against |Δ log-SNR|, with floor, half-width and error bands."""
    figure = style.new_figure(5.6)
    upper, lower = figure.subplots(2, 1)
    window = result.levels.window_timesteps
    upper.axvspan(0, window, color=style.ORANGE, alpha=0.14, linewidth=0)
    for axes, profile in ((upper, result.locality.by_timestep), (lower, result.locality.by_log_snr)):
        _profile(axes, profile, result.levels)
    style.title(figure, "The kernel against the distance of two noise levels")
    upper.annotate(
        "window of the index",
        (window, 1),
        (4, -10),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=7.5,
        color="#9a6a00",
    )
    figure.align_ylabels()
    style.footer(figure, result.meta, "bands ±1 and ±1.96 s.e.")
    return figure


def _profile(axes: Axes, profile: Profile, levels: Levels) -> None:
    lag, mean, stderr = profile.lag, profile.mean, np.nan_to_num(profile.stderr)
    color = style.BLUE
    axes.fill_between(lag, mean - 1.96 * stderr, mean + 1.96 * stderr, color=color, alpha=0.14, linewidth=0)
    axes.fill_between(lag, mean - stderr, mean + stderr, color=color, alpha=0.28, linewidth=0)
    axes.plot(lag, mean, color=color, marker="o")
    start = profile.floor_from if np.isfinite(profile.floor_from) else lag[-max(1, -(-len(lag) // 4))]
    start = float(start if start < lag[-1] else 0.97 * lag[-1])
    axes.plot([start, lag[-1]], [profile.floor] * 2, "--", color=style.GREY)
    axes.set_xlim(0, lag.max() * 1.02)
    low = min(0.0, float((mean - 2 * stderr).min()))
    axes.set_ylim(low if low < -0.02 else 0, 1)
    axes.set_ylabel("mean cosine")
    axes.set_xlabel(style.lag_label(levels) if profile.unit == "timesteps" else style.LOG_SNR_LAG_LABEL)
    # the floor is named beside its line where the curve leaves room for that, else above it
    width = float(lag.max())
    beside = np.interp(np.linspace(max(0.0, start - 0.35 * width), start, 20), lag, mean)
    free = bool((np.abs(beside - profile.floor) > 0.12).all())
    axes.annotate(
        f"far-lag floor {style.pair(profile.floor, profile.floor_stderr)}",
        (start, profile.floor) if free else (lag[-1], profile.floor),
        (-5, 0) if free else (0, 14),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        color=style.MUTED,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
    )
    if profile.half_width is None:
        text = "no half-width: the decay is within two standard errors"
        axes.text(0.98, 0.93, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=style.MUTED)
        return
    height = float(np.interp(profile.half_width, lag, mean))
    axes.plot([profile.half_width] * 2, [axes.get_ylim()[0], height], color=style.VERMILION, linewidth=1)
    axes.plot(profile.half_width, height, "D", color=style.VERMILION, markersize=5.5, zorder=4)
    unit = ("timesteps" if levels.discrete else "of model time") if profile.unit == "timesteps" else "nats"
    axes.annotate(
        f"half-width {style.number(float(f'{profile.half_width:.3g}'))} {unit}",
        (profile.half_width, height),
        (8, 8) if profile.half_width < 0.6 * width else (-8, -16),
        textcoords="offset points",
        ha="left" if profile.half_width < 0.6 * width else "right",
        fontsize=8.5,
        color=style.VERMILION,
    )


@style.house
def control_profiles(result: DiffusionResult) -> Figure:
    """Every control's profile over |Δt| in its own panel, the kernel's own in grey behind it."""
    shown = {name: kernel for name, kernel in kernels(result).items() if name != MAIN}
    columns = 2
    rows = max(1, -(-len(shown) // columns))
    figure = style.new_figure(0.95 + 1.55 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    colors = [style.BLUE, style.SKY, style.VERMILION, style.ORANGE, style.PURPLE, style.GREEN]
    main = result.locality.by_timestep
    lowest = 0.0
    for place, (axes, (name, kernel)) in enumerate(zip(grid.flat, shown.items(), strict=False)):
        profile, color = kernel.by_timestep, colors[place % len(colors)]
        axes.plot(main.lag, main.mean, color=style.GREY, linewidth=1.2, linestyle=(0, (3, 2)))
        stderr = np.nan_to_num(profile.stderr)
        axes.fill_between(
            profile.lag, profile.mean - stderr, profile.mean + stderr, color=color, alpha=0.25, linewidth=0
        )
        axes.plot(profile.lag, profile.mean, color=color, marker="o", markersize=2.6, linewidth=1.4)
        axes.set_title(control_title(name), fontsize=8.8, pad=4, color=color)
        axes.text(
            0.97,
            0.92,
            f"index {style.pair(kernel.index, kernel.index_stderr)}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=7.6,
        )
        lowest = min(lowest, float((profile.mean - stderr).min()))
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    grid[0, 0].set_xlim(0, main.lag.max() * 1.02)
    grid[0, 0].set_ylim(lowest if lowest < -0.02 else 0, 1.02)
    for place, axes in enumerate(list(grid.flat)[: len(shown)]):
        if place + columns >= len(shown):
            axes.set_xlabel(style.lag_label(result.levels))
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("mean cosine")
    style.title(figure, "The same profile with one factor held fixed or broken")
    style.footer(figure, result.meta, f"band ±1 s.e.; dashed: different images{style.control_note(result.meta)}")
    return figure


@style.house
def level_locality(result: DiffusionResult) -> Figure:
    """Per noise level: its row's locality index, and its half-widths in time and in log-SNR."""
    levels, kernel = result.levels, result.locality
    figure = style.new_figure(6.1)
    panels = figure.subplots(3, 1, sharex=True)
    rows = [
        (kernel.index_rows, "locality index\nof the row", style.BLUE),
        (
            kernel.half_width_timesteps,
            "half-width\n(timesteps)" if levels.discrete else "half-width\n(time)",
            style.GREEN,
        ),
        (kernel.half_width_log_snr, "half-width\n(nats log-SNR)", style.VERMILION),
    ]
    for axes, (values, label, color) in zip(panels, rows, strict=True):
        y = np.full(len(levels.timesteps), np.nan) if values is None else np.array(values, dtype=float)
        axes.plot(levels.timesteps, y, color=color, marker="o")
        axes.set_ylabel(label)
        missing = ~np.isfinite(y)
        if missing.any() and not missing.all():
            axes.plot(
                levels.timesteps[missing],
                np.full(missing.sum(), 0.0),
                "x",
                clip_on=False,
                zorder=5,
                color=style.GREY,
                transform=axes.get_xaxis_transform(),
                label="none: no decay beyond two s.e.",
            )
            if axes is panels[1]:
                axes.legend(loc="upper left", handletextpad=0)
        elif missing.all():
            axes.text(0.5, 0.5, "no decay beyond two s.e. at any level", transform=axes.transAxes, ha="center")
        finite = y[~missing]
        if len(finite) and finite.min() >= 0 and missing.any():  # "none" is marked on the lower edge, clear of zero
            top = finite.max() if finite.max() > 0 else 1.0
            axes.set_ylim(-0.16 * top, top * 1.12)
            axes.axhline(0, color=style.GREY, linewidth=0.8)
        elif len(finite) and finite.min() >= 0:
            axes.set_ylim(0, finite.max() * 1.12 if finite.max() > 0 else 1)
        else:
            axes.axhline(0, color=style.GREY, linewidth=0.8)
    panels[-1].set_xlabel(style.time_label(levels))
    style.title(figure, "Locality of each noise level")
    style.log_snr_axis(panels[0], levels)
    figure.align_ylabels()
    style.footer(figure, result.meta)
    return figure

"""Spectra: eigenvalues and their floor, what groups share, targets and residuals in the modes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.spectra.results import SpectrumResult

SHOWN = (0.1, 0.03, 0.01)  # tolerances of the residual's figure
BELOW = 30.0  # times below the floor of rounding eigenvalues are shown, and times above it the floor itself
COLORS = (style.BLUE, style.VERMILION, style.GREEN)


def spectrum_figures(result: SpectrumResult) -> dict[str, Callable[[], Figure]]:
    """Every figure that a result can fill, by file name, in reading order."""
    groups = result.spectrum.groups
    found: dict[str, Callable[[], Figure]] = {"eigenvalues": partial(eigenvalues, result)}
    if groups is not None:
        found["effective_ranks"] = partial(effective_ranks, result)
        found["mode_shares"] = partial(mode_shares, result)
        if np.isfinite(groups.relative[~np.eye(len(groups.names), dtype=bool)]).any():  # of different groups
            found["overlap"] = partial(overlap, result)
    if result.spectrum.targets is not None:
        found["targets"] = partial(targets, result)
    if result.residual is not None:
        found["residual"] = partial(residual, result)
        found["learnability"] = partial(learnability, result)
    return found


@style.house
def eigenvalues(result: SpectrumResult) -> Figure:
    """Eigenvalues by number, with errors over probes and the floor of rounding; the trace that they add up to."""
    one = result.spectrum
    figure = style.new_figure(3.4, 7.0)
    left, right = figure.subplots(1, 2)
    values = one.eigenvalues
    number = np.arange(1, len(values) + 1)
    seen = values > 0
    if one.stderr is not None:
        low = np.maximum(values - 1.96 * one.stderr, values * 1e-2)
        left.fill_between(
            number[seen], low[seen], (values + 1.96 * one.stderr)[seen], color=style.BLUE, alpha=0.2, linewidth=0
        )
    left.plot(number[seen], values[seen], color=style.BLUE)
    _counted(left, len(values))
    left.set_yscale("log")
    least = float(values[seen].min())
    if least < one.floor * BELOW:  # else far below all there is
        if least < one.floor / BELOW:  # rounding has no end: eigenvalues down to 1e-30 of the largest
            left.set_ylim(bottom=one.floor / BELOW)
        left.axhline(one.floor, color=style.GREY, linestyle="--", linewidth=1)
        left.annotate("rounding", (1, one.floor), (3, 3), textcoords="offset points", fontsize=7.5, color=style.MUTED)
    left.set_xlabel("number of the mode j")
    left.set_ylabel("eigenvalue of K/n")
    left.set_title("Eigenvalues")
    share = np.cumsum(np.maximum(values, 0)) / max(one.trace, 1e-300)
    right.plot(number, share, color=style.BLUE)
    right.axvline(one.effective_rank, color=style.VERMILION, linestyle="--", linewidth=1)
    right.set_title("How many modes hold the kernel")
    late = one.effective_rank > len(values) ** 0.5
    right.annotate(
        f"effective rank\n{style.pair(one.effective_rank, one.effective_rank_stderr)}",
        (one.effective_rank, 0.04), (-5 if late else 5, 0), textcoords="offset points", fontsize=8,
        color=style.VERMILION, ha="right" if late else "left",
    )  # fmt: skip
    _counted(right, len(values))
    right.set_ylim(0, 1.02)
    right.set_xlabel("number of modes")
    right.set_ylabel("share of the trace")
    style.footer(figure, result.meta, _kind(result))
    return figure


@style.house
def effective_ranks(result: SpectrumResult) -> Figure:
    """The effective rank of each group's own kernel."""
    groups = result.spectrum.groups
    assert groups is not None
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    places = _places(axes, result)
    line = "-" if result.timesteps is not None else "none"
    if np.isfinite(groups.shuffled).all():
        axes.axhspan(*groups.shuffled, color=style.GREY, alpha=0.2, linewidth=0)
    axes.plot(places, groups.equal_rank, color=style.BLUE, marker="o", linestyle=line)
    axes.set_ylim(0, 1.08 * max(float(np.nanmax(groups.equal_rank)), float(np.nanmax([*groups.shuffled, 0]))))
    axes.set_ylabel("effective rank")
    style.title(figure, f"How many directions a {result.of} has by itself")
    style.footer(figure, result.meta, f"{groups.equal_size} samples each; band: 95 % of groups at random")
    return figure


@style.house
def mode_shares(result: SpectrumResult) -> Figure:
    """Where the energy of the leading modes lies."""
    groups = result.spectrum.groups
    assert groups is not None
    share = groups.mode_share
    figure = style.new_figure(0.24 * len(share) + 1.9)
    axes = figure.subplots()
    image = axes.imshow(share, aspect="auto", cmap=style.SEQUENTIAL, vmin=0, vmax=max(1e-9, float(share.max())))
    style.map_axes(axes)
    _group_ticks(axes, result)
    axes.set_yticks(range(len(share)), [f"{j + 1}" for j in range(len(share))])
    axes.set_ylabel("mode")
    figure.colorbar(image, ax=axes, label="share of the mode's energy")
    for j, count in enumerate(groups.mode_groups):
        axes.annotate(
            f"{count:.1f}", (1.005, 1 - (j + 0.5) / len(share)), xycoords="axes fraction", fontsize=7,
            color=style.MUTED,
            va="center", ha="left", annotation_clip=False,
        )  # fmt: skip
    style.title(figure, f"Which {result.of}s a mode belongs to")
    style.footer(figure, result.meta, f"right: in how many {result.of}s")
    return figure


@style.house
def overlap(result: SpectrumResult) -> Figure:
    """How far the leading directions of two groups coincide, relative to those of halves of one group."""
    groups = result.spectrum.groups
    assert groups is not None
    figure = style.new_figure(4.6)
    axes = figure.subplots()
    image = axes.imshow(groups.relative, cmap=style.SEQUENTIAL, vmin=0, vmax=1, origin="lower")
    style.map_axes(axes)
    _group_ticks(axes, result)
    _group_ticks(axes, result, vertical=True)
    largest = float(np.nanmax(groups.relative))
    bar = figure.colorbar(image, ax=axes, extend="max" if largest > 1 + 1e-9 else "neither")
    beyond = f" (largest: {largest:.2f})" if largest > 1.005 else ""
    bar.set_label(f"relative overlap of {_directions(groups.directions)}{beyond}")
    style.title(figure, f"What two {result.of}s share")
    style.footer(
        figure, result.meta, f"across halves; 1: as halves of one (mean {np.nanmean(np.diag(groups.overlap)):.2f})"
    )
    return figure


@style.house
def targets(result: SpectrumResult) -> Figure:
    """How much of the targets lies in the leading modes, and what is expected to be learned of them."""
    found = result.spectrum.targets
    assert found is not None
    figure = style.new_figure(3.3, 7.0)
    left, right = figure.subplots(1, 2)
    number = np.arange(1, len(found.power) + 1)
    left.plot(number, np.cumsum(found.power), color=style.BLUE, label="targets")
    left.plot(number, number / result.spectrum.samples, "--", color=style.GREY, label="random targets")
    _counted(left, len(found.power))
    left.set_ylim(0, 1.02)
    left.set_xlabel("number of modes")
    left.set_ylabel("share of the variance")
    left.set_title("Targets in the modes")
    left.legend(loc="upper left")
    right.plot(found.samples, found.learnability, color=style.BLUE, marker="o", label="learnability")
    right.errorbar(
        found.samples, found.test_mse, found.test_mse_stderr, color=style.VERMILION, marker="s",
        label="test error / variance",
    )  # fmt: skip
    right.errorbar(
        found.samples[-1:], [found.shuffled.mean()], [[np.ptp(found.shuffled) / 2]], color=style.GREY, marker="_",
        linestyle="none", label="shuffled targets",
    )  # fmt: skip
    right.axhline(0, color=style.GREY, linestyle="--", linewidth=1)
    right.set_xscale("log", base=2)
    right.set_xticks(found.samples, [f"{n:.0f}" for n in found.samples])
    right.minorticks_off()
    right.axhline(1, color=style.GREY, linestyle=":", linewidth=1)
    low, high = min(0.0, float(found.learnability.min())), max(1.0, float(found.test_mse.max()))
    right.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    right.set_xlabel("training samples n")
    right.set_title("What kernel regression would learn")
    right.legend(loc="best")
    bars = "bars ±1 s.e., shuffled 95 %; dotted: error of the mean"
    style.footer(figure, result.meta, f"{_kind(result)}; {bars}")
    return figure


@style.house
def residual(result: SpectrumResult) -> Figure:
    """The residual's energy where the kernel cannot learn, by noise level, beside random directions."""
    found = result.residual
    assert found is not None
    figure = style.new_figure(3.4, 7.0)
    left, right = figure.subplots(1, 2)
    for tolerance, color in zip(SHOWN, COLORS, strict=True):
        at = int(np.argmin(np.abs(found.tolerances - tolerance)))
        if not np.isfinite(found.residual[:, at]).any():
            continue
        left.errorbar(
            found.timesteps, found.residual[:, at], found.residual_stderr[:, at], color=color, marker="o",
            label=f"τ = {tolerance:g}",
        )  # fmt: skip
        left.plot(found.timesteps, found.random[:, at], "--", color=color, linewidth=1)
    left.set_ylim(0, 1.02)
    left.set_ylabel("share of the residual's energy")
    left.set_title("Out of reach: modes with λ ≤ τ² λ₁")
    left.legend(loc="lower left", title="dashed: random", title_fontsize=7.5)
    right.errorbar(
        found.timesteps, found.rayleigh, np.minimum(found.rayleigh_stderr, 0.9 * found.rayleigh),
        color=style.BLUE, marker="o", label="residual",
    )  # fmt: skip
    right.plot(found.timesteps, found.rayleigh_random, "--", color=style.GREY, label="random")
    right.set_yscale("log")
    right.set_ylabel("ρ = rᵀKr / (λ₁‖r‖²)")
    right.set_title("How fast it would be learned")
    right.legend(loc="best")
    for axes in (left, right):
        axes.set_xlabel(_time(result))
        _log_snr(axes, found.log_snr, found.timesteps)
    style.footer(figure, _without_counts(result), f"{found.evaluated} images per kernel, bars: the two halves")
    return figure


@style.house
def learnability(result: SpectrumResult) -> Figure:
    """What kernel regression on some images explains of the target and of what is left at others."""
    found = result.residual
    assert found is not None
    figure = style.new_figure(3.3)
    axes = figure.subplots()
    for values, stderr, color, marker, label in (
        (found.target, found.target_stderr, style.BLUE, "o", "target"),
        (found.output, found.output_stderr, style.GREEN, "^", "the network's output"),
        (found.rest, found.rest_stderr, style.VERMILION, "s", "residual"),
    ):
        solved = found.converged
        axes.errorbar(
            found.timesteps, np.where(solved, values, np.nan), stderr, color=color, marker=marker, label=label
        )
        if not solved.all():
            axes.errorbar(
                found.timesteps[~solved], values[~solved], stderr[~solved], color=color, marker=marker,
                markerfacecolor="white", linestyle="none",
            )  # fmt: skip
    if not found.converged.all():
        axes.errorbar(
            [], [], color=style.GREY, marker="o", markerfacecolor="white", linestyle="none", label="not converged"
        )
    axes.axhline(0, color=style.GREY, linestyle="--", linewidth=1)
    low = min(0.0, float((found.rest - found.rest_stderr).min()), float((found.target - found.target_stderr).min()))
    axes.set_ylim(max(-1.0, 1.05 * low - 0.02), 1.02)
    axes.set_xlabel(_time(result))
    _log_snr(axes, found.log_snr, found.timesteps)
    axes.set_ylabel("R² at other images")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    style.title(figure, f"What {found.evaluated} images teach about others at each noise level")
    style.footer(
        figure,
        _without_counts(result),
        f"ridge {found.ridge:g} λ₁, {found.steps} steps (residual ≤ {found.unsolved.max():.2g}); bars: the two halves",
    )
    return figure


def _counted(axes: Axes, last: int) -> None:
    """A logarithmic x-axis of whole numbers from 1."""
    from matplotlib.ticker import NullFormatter

    steps = (1, 2, 5) if last < 100 else (1,)
    ticks = [m * 10**k for k in range(len(str(last))) for m in steps if m * 10**k <= last]
    if last < 5:
        ticks = list(range(1, last + 1))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _directions(count: int) -> str:
    return "the leading direction" if count == 1 else f"{count} leading directions"


def _kind(result: SpectrumResult) -> str:
    count = result.spectrum.samples
    return f"{style.counted(count, 'sample')}; {'cosine kernel' if result.spectrum.normalized else 'kernel as it is'}"


def _without_counts(result: SpectrumResult) -> dict[str, Any]:
    return {key: value for key, value in result.meta.items() if key not in ("images", "probes")}


def _time(result: SpectrumResult) -> str:
    return "timestep t" if result.discrete else "time t"


def _log_snr(axes: Axes, log_snr: np.ndarray, places: np.ndarray) -> None:
    """The second x-axis, on top."""
    top = axes.secondary_xaxis("top")
    top.set_xticks(*style.level_ticks(log_snr, places))
    top.set_xlabel(style.LOG_SNR_LABEL, color=style.MUTED, fontsize=8.5)
    top.tick_params(labelsize=7.5, labelcolor=style.MUTED)


def _places(axes: Axes, result: SpectrumResult) -> np.ndarray:
    """Where groups stand on the x-axis: at their timesteps, or side by side."""
    groups = result.spectrum.groups
    assert groups is not None
    if result.timesteps is not None:
        axes.set_xlabel(_time(result))
        if result.log_snr is not None:
            _log_snr(axes, result.log_snr, result.timesteps)
        return result.timesteps
    _group_ticks(axes, result)
    return np.arange(len(groups.names))


def _group_ticks(axes: Axes, result: SpectrumResult, vertical: bool = False) -> None:
    groups = result.spectrum.groups
    assert groups is not None
    places = np.arange(len(groups.names))
    which = axes.yaxis if vertical else axes.xaxis
    if result.timesteps is not None:
        at, names = style.level_ticks(result.timesteps, places.astype(float))
        which.set_ticks(at, names)
        label = _time(result) + ("′" if vertical else "")
        if not vertical and result.log_snr is not None:
            _log_snr(axes, result.log_snr, places.astype(float))
    else:
        step = -(-len(places) // 16)
        labels = [name if len(name) <= 12 else name[:11] + "…" for name in groups.names]
        if len(set(groups.sizes.tolist())) > 1:
            labels = [f"{label} (n={size})" for label, size in zip(labels, groups.sizes, strict=True)]
        which.set_ticks(places[::step], labels[::step])
        if not vertical and max(map(len, labels)) > 4:
            axes.tick_params(axis="x", labelrotation=45)
        label = result.of
    (axes.set_ylabel if vertical else axes.set_xlabel)(label)

"""Rank gaps over training: five ReLUs on a line, and networks on digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REGIMES = (("all inside", style.BLUE, "o"), ("one at 1.5", style.VERMILION, "s"))
_SETS = (
    ("held-out digits", style.BLUE, "o"),
    ("class left out", style.ORANGE, "D"),
    ("Fashion-MNIST", style.VERMILION, "s"),
)
_ROUNDING = 1e-17
_NEAR = 1e-3  # projection distances below it are on a linear axis, with zero


@style.house
def line_gaps(
    lines: Mapping[str, Mapping[str, Any]], details: Mapping[str, Any], starts: int, meta: dict[str, Any]
) -> Figure:
    """Gaps over training, thresholds, singular values with the tolerance, projection distances over the line.

    Args:
        lines: target → regime → :class:`genkernel.experiments.rank_gap.line.Descent`;
            thresholds are of the last target.
        details: regime → :class:`genkernel.experiments.rank_gap.line.Detail` of the first target.
        starts: runs of each.
        meta: for the footer.
    """
    figure = style.new_figure(5.6, width=7.4)
    grid = figure.subplots(2, 2)
    first, last = next(iter(lines)), list(lines)[-1]
    _gaps(grid[0, 0], lines)
    _thresholds(grid[0, 1], lines[last][_REGIMES[0][0]], last)
    _values(grid[1, 0], details, first)
    _distances(grid[1, 1], details, first)
    style.footer(figure, meta, f"means of {starts} starts ± standard error; lower row: first start at the end")
    return figure


def _gaps(axes: Axes, lines: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    dashes = ("-", "--", ":")
    for regimes, dash in zip(lines.values(), dashes, strict=False):
        for regime, colour, mark in _REGIMES:
            d = regimes[regime]
            axes.errorbar(
                _places(d.steps), d.gaps.mean(1), yerr=_error(d.gaps.T), color=colour, marker=mark, ls=dash, lw=1.3
            )
    _steps(axes, next(iter(lines.values()))[_REGIMES[0][0]].steps)
    axes.set_ylabel("rank gap")
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.15, 1.5 * top)
    axes.set_yticks(range(int(top) + 1))
    handles = [Line2D([], [], color=c, marker=m, label=f"{r} at the start") for r, c, m in _REGIMES]
    handles += [Line2D([], [], color=style.INK, ls=s, lw=1.3, label=t) for t, s in zip(lines, dashes, strict=False)]
    axes.legend(handles=handles, fontsize=7, ncols=2, loc="upper left", columnspacing=1.0, handlelength=2.4)
    axes.set_title("Gap over training, five ReLUs")


def _places(steps: Sequence[int]) -> np.ndarray:
    """On a logarithmic axis, the start a third of a decade before the first step that is measured."""
    at = np.asarray(steps, dtype=np.float64)
    return np.where(at > 0, at, at[at > 0].min() / 10**0.5)


def _steps(axes: Axes, steps: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(_places(steps), [f"{s:g}" for s in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step of gradient descent")


def _thresholds(axes: Axes, descent: Any, target: str) -> None:
    axes.axhspan(-1, 1, color=style.SKY, alpha=0.2, lw=0)
    places = _places(descent.steps)
    colours = (style.BLUE, style.GREEN, style.ORANGE, style.PURPLE, style.INK)
    for unit, colour in enumerate(colours):
        each = -descent.biases[:, :, unit].numpy()
        axes.plot(places, each, color=colour, lw=0.5, alpha=0.35)
        axes.plot(places, np.median(each, 1), color=colour, lw=1.8, label=f"$-b_{unit + 1}$")
    _steps(axes, descent.steps)
    axes.set_ylim(1.1 * min(-1.2, -float(descent.biases.max())), 0.8 + max(1.0, -float(descent.biases.min())))
    axes.text(places[-1], 1.03, "training interval", fontsize=7, color=style.MUTED, va="bottom", ha="right")
    axes.set_ylabel("threshold $-b_j$")
    axes.legend(fontsize=7, ncols=5, loc="upper left", columnspacing=0.9, handlelength=1.2)
    axes.set_title(f"Thresholds over training, {target}")


def _values(axes: Axes, details: Mapping[str, Any], target: str) -> None:
    tau = 0.0
    for (regime, colour, mark), shift in zip(_REGIMES, (-0.12, 0.12), strict=True):
        d = details[regime]
        for values, filled, what in ((d.mixed, False, "with test points"), (d.trained, True, "training points")):
            axes.plot(
                np.arange(1, len(values) + 1) + shift, np.maximum(values, _ROUNDING), ls="", marker=mark,
                ms=5 if filled else 7, color=colour, mfc=colour if filled else "none", label=f"{regime}: {what}",
            )  # fmt: skip
        tau = max(tau, d.tolerance)
    axes.axhspan(1e-2 * tau, 1e2 * tau, color=style.GREY, alpha=0.25, lw=0)
    axes.axhline(tau, color=style.GREY, lw=1)
    axes.text(1, tau, "tolerance, and 1/100 to 100 times it", fontsize=7, color=style.INK, va="bottom")
    axes.set_yscale("log")
    axes.set_ylim(_ROUNDING / 4, 30)
    axes.set_xticks(range(1, 11))
    axes.set_xlabel("number of the singular value")
    axes.set_ylabel("σ / σ₁ (at 10⁻¹⁷: that or less)")
    axes.legend(fontsize=6.8, loc="center left", bbox_to_anchor=(0.0, 0.5))
    axes.set_title(f"Singular values, {target}")


def _distances(axes: Axes, details: Mapping[str, Any], target: str) -> None:
    axes.axvspan(-1, 1, color=style.SKY, alpha=0.2, lw=0)
    for (regime, colour, _), dash in zip(_REGIMES, ("--", "-"), strict=True):
        d = details[regime]
        axes.plot(d.line, d.distance, color=colour, ls=dash, label=regime)
    axes.axvline(1.5, color=style.VERMILION, lw=0.8, ls=":")
    axes.set_ylim(-0.02, 1.05)
    axes.text(1.54, 0.98, "$-b_5$", color=style.VERMILION, fontsize=8, ha="left", va="top")
    axes.text(0, 0.42, "training interval", fontsize=7, color=style.MUTED, ha="center")
    axes.set_xlabel("x")
    axes.set_ylabel("projection distance d(x)")
    axes.legend(
        fontsize=7.5,
        loc="upper center",
        bbox_to_anchor=(0.54, 1.0),
        title="thresholds at the start",
        title_fontsize=7.5,
    )
    axes.set_title(f"Distance to the span, {target}")


@style.house
def activations(
    thresholds: Mapping[str, Mapping[str, np.ndarray]],
    start: Mapping[str, Sequence[float]],
    ends: tuple[float, float],
    meta: dict[str, Any],
) -> Figure:
    """Where on the line units are active at the end: of one start, and in which share of all starts.

    Args:
        thresholds: target → regime → thresholds at the end ``[starts, units]``; a unit is active beyond its own.
        start: regime → thresholds at the start.
        ends: of the training interval and of the test interval, which are about 0.
        meta: for the footer.
    """
    from matplotlib.patches import Patch

    within, beyond = ends
    figure = style.new_figure(1.6 + 1.35 * len(thresholds), width=7.4)
    grid: Any = figure.subplots(
        1 + len(thresholds),
        len(start),
        sharex=True,
        sharey=True,
        squeeze=False,
        height_ratios=[1.3, *[1] * len(thresholds)],
    )
    x = np.linspace(-beyond, beyond, 401)
    looks = {
        "switches among the training points": style.BLUE,
        "active at all of them": style.ORANGE,
        "active at none of them": style.VERMILION,
    }
    first, image, count = next(iter(thresholds)), None, 0
    for column, (regime, before) in enumerate(start.items()):
        units = range(1, len(before) + 1)
        for row, (target, regimes) in enumerate(thresholds.items(), 1):
            axes, final = grid[row, column], regimes[regime]
            count = len(final)
            share = (x[None, None] > final[:, :, None]).mean(0)
            image = axes.imshow(
                share,
                extent=(-beyond, beyond, len(before) + 0.5, 0.5),
                aspect="auto",
                vmin=0,
                vmax=1,
                cmap=style.SEQUENTIAL,
            )
            style.map_axes(axes)
            for edge in (-within, within):
                axes.axvline(edge, color="white", lw=1.2, ls="--")
            axes.scatter(
                before, units, s=16, marker="D", facecolor="white", edgecolor=style.INK, linewidths=0.8, zorder=3
            )
            if not column:
                axes.set_ylabel(f"unit\n{target}", fontsize=8.5)
        axes = grid[0, column]
        axes.axvspan(-within, within, color=style.SKY, alpha=0.2, lw=0)
        for unit, threshold in zip(units, thresholds[first][regime][0], strict=True):
            of = 0 if -within < threshold < within else 1 if threshold <= -within else 2
            place = float(np.clip(threshold, -beyond, beyond))
            axes.barh(unit, beyond - place, left=place, height=0.55, color=list(looks.values())[of])
        axes.grid(axis="y", visible=False)
        axes.set_title(f"Thresholds at the start: {regime}", fontsize=9)
        grid[-1, column].set_xlabel("x")
    grid[0, 0].set_ylabel(f"unit, one start\n{first}", fontsize=8.5)
    grid[0, 0].set_xlim(-beyond, beyond)
    grid[0, 0].set_ylim(len(units) + 0.5, 0.5)
    grid[0, 0].set_yticks(units)
    handles = [Patch(color=colour, label=name) for name, colour in looks.items()]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=3,
        fontsize=8,
        title="unit is active along its bar and",
        title_fontsize=8,
    )
    assert image is not None
    figure.colorbar(image, ax=grid[1:, :].ravel().tolist(), shrink=0.7, pad=0.02).set_label(
        f"share of {count} starts in which it is active", fontsize=8
    )
    style.footer(
        figure, meta, "at the end of the training · blue, dashes: training interval · diamonds: thresholds at the start"
    )
    return figure


@style.house
def image_gaps(found: Sequence[Any], rows: int, meta: dict[str, Any]) -> Figure:
    """Gaps of other images over training with few and many training rows, and projection distances.

    Args:
        found: :class:`genkernel.experiments.rank_gap.images.Digits`, of two numbers of training images.
        rows: of new features in each set.
        meta: for the footer.
    """
    counts = sorted({one.count for one in found})
    figure = style.new_figure(5.2, width=7.4)
    grid = figure.subplots(2, len(counts), squeeze=False)
    for column, count in enumerate(counts):
        group = [one for one in found if one.count == count]
        axes = grid[0, column]
        for (name, colour, mark), size in zip(_SETS, (9, 6.5, 4), strict=True):
            gaps = np.array([one.gaps[name] for one in group], dtype=np.float64)
            axes.errorbar(
                _places(group[0].steps), gaps.mean(0), yerr=_error(gaps), color=colour, marker=mark, ms=size, label=name
            )  # fmt: skip
        axes.axhline(rows, color=style.GREY, lw=1, ls=":")
        axes.text(
            _places(group[0].steps)[-1],
            1.9 * rows,
            f"at most: {rows} new rows",
            fontsize=7,
            color=style.MUTED,
            ha="right",
        )
        _steps(axes, group[0].steps)
        axes.set_xlabel("step of training")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(-0.2, 8 * rows)
        axes.set_ylabel("rank gap")
        few = group[0].rows < group[0].parameters
        axes.set_title(f"Digits: {group[0].rows} rows {'<' if few else '>'} {group[0].parameters} parameters")
        below = grid[1, column]
        for (name, colour, _), width in zip(_SETS, (2.8, 1.9, 1.4), strict=True):  # where they coincide, all show
            values = np.sort(np.concatenate([one.distances[name] for one in group]))
            shares = np.arange(1, len(values) + 1) / len(values)
            below.step(np.r_[0, values, 1], np.r_[0, shares, 1], where="post", color=colour, label=name, lw=width)
        below.set_xscale("symlog", linthresh=_NEAR, subs=range(2, 10))
        below.set_xlim(-0.1 * _NEAR, 1)
        below.set_ylim(0, 1.02)
        below.set_xlabel("projection distance d at the end")
        below.set_ylabel("share of images below")
    grid[1, 0].legend(fontsize=7.5, loc="upper left")
    style.footer(figure, meta, f"{len(found) // len(counts)} trainings, mean ± standard error; below: all their images")
    return figure


def _error(values: np.ndarray) -> np.ndarray | None:
    return values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None

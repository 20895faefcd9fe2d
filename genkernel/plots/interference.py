"""What a gradient step on one noise level does to the loss at the others."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult

PALE = 0.3  # opacity of a cosine that may be zero
SCHEME_COLORS = (style.INK, style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)


@style.house
def interference_map(result: DiffusionResult, preconditioned: bool = False) -> Figure:
    """cos(∇L_t, ∇L_b) on −1 … 1: blue helps, red hurts; dots mark pairs below 0 by two s.e.

    Cells within two standard errors of zero are pale, and black lines are stage boundaries.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    found = result.interference
    if found is not None and preconditioned:
        found = found.preconditioned
    if found is None:
        raise InputError(f"this result has no {'preconditioned ' if preconditioned else ''}interference to draw")
    levels = result.levels
    figure = style.new_figure(5.5)
    axes = figure.subplots()
    clear = ~(np.abs(found.matrix) < 2 * found.stderr)
    opacity = np.where(clear, 1.0, PALE)
    axes.imshow(found.matrix, origin="lower", cmap="RdBu", vmin=-1, vmax=1, alpha=opacity)
    style.map_axes(axes)
    style.level_axes(axes, levels)
    axes.set_xlabel(style.time_label(levels).replace(" t", " b") + " (where the step is taken)")
    axes.set_ylabel(style.time_label(levels) + " (where the loss changes)")
    if found.conflicting:
        pairs = np.array([(a, b) for a, b, _, _ in found.conflicting])
        both = np.concatenate([pairs, pairs[:, ::-1]])
        axes.scatter(both[:, 0], both[:, 1], s=max(3, 260 / len(levels.timesteps)), color=style.INK, linewidths=0)
    if result.stages is not None:
        places = np.arange(len(levels.timesteps), dtype=float)
        for boundary in result.stages.boundaries:
            at = float(np.interp(boundary, levels.timesteps, places))
            axes.axvline(at, color=style.INK, linewidth=1)
            axes.axhline(at, color=style.INK, linewidth=1)
    title = "Does a step at level b help the loss at level t?"
    style.title(figure, title if not preconditioned else f"{title}\npreconditioned ({found.preconditioner})")
    scale = ScalarMappable(Normalize(-1, 1), "RdBu")  # the image itself has an opacity per cell
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.62, aspect=32, ticks=np.linspace(-1, 1, 5))
    bar.set_label("gradient cosine (red: raises the loss · blue: lowers it)")
    bar.outline.set_visible(False)
    count = len(levels.timesteps) * (len(levels.timesteps) - 1) // 2
    if found.matrix_disjoint is not None:
        known = int(np.isfinite(np.diagonal(found.matrix_disjoint)).sum())
        note = f"expected gradient distinguishable from zero at {known} of {len(found.matrix)} levels"
        axes.set_title(note, fontsize=7.6, fontweight="normal", color=style.MUTED)
    style.footer(figure, result.meta, f"dots: {len(found.conflicting)} of {count} < −2 s.e.; pale: within 2 s.e.")
    return figure


@style.house
def weighting_change(result: DiffusionResult) -> Figure:
    """Loss weights of each scheme, and the first-order change of every level's loss under it."""
    found = result.weighting
    if found is None:
        raise InputError("this result has no what-if weighting to draw")
    levels = result.levels
    figure = style.new_figure(2.6 + 1.15 * len(found.schemes))
    panels = figure.subplots(1 + len(found.schemes), 1, sharex=True, height_ratios=(1.4,) + (1,) * len(found.schemes))
    upper = panels[0]
    for place, (lower, (name, weights)) in enumerate(zip(panels[1:], found.schemes.items(), strict=True)):
        color = SCHEME_COLORS[place % len(SCHEME_COLORS)]
        line = "-" if place < len(SCHEME_COLORS) else "--"
        upper.plot(levels.timesteps, weights / np.mean(weights), line, color=color, label=name)
        change, stderr = found.predicted_change[name], np.nan_to_num(found.stderr[name])
        lower.errorbar(levels.timesteps, change, yerr=stderr, fmt="o", color=color, markersize=2.8, elinewidth=1)
        lower.axhline(0, color=style.GREY, linewidth=0.9)
        _signed_scale(lower, np.concatenate([*found.predicted_change.values()]))
        lower.set_ylabel("change\nof the loss", fontsize=8)
        lower.set_title(name, fontsize=8.5, pad=3, color=color)
    if any((w > 0).all() for w in found.schemes.values()):
        upper.set_yscale("log")
        _decades(upper)
    upper.set_ylabel("weight\n(mean 1)")
    upper.legend(loc="best", ncols=2, fontsize=7.8)
    style.title(figure, "What other loss weights would do to each level")
    limits = np.array([panel.get_ylim() for panel in panels[1:]])  # one scale, wide enough for every scheme
    for panel in panels[1:]:
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    panels[-1].set_xlabel(style.time_label(levels))
    style.log_snr_axis(upper, levels)
    figure.align_ylabels()
    style.footer(figure, result.meta, "bars ±1 s.e.; learning rate 1, equal gradient norm")
    return figure


def _signed_scale(axes: Any, values: np.ndarray) -> None:
    """A symmetric logarithmic axis over two decades when the changes span more than that."""
    size = np.abs(values[np.isfinite(values)])
    size = size[size > 0]
    if not len(size) or size.max() / np.quantile(size, 0.1) <= 100:
        return
    threshold = float(size.max()) / 100
    axes.set_yscale("symlog", linthresh=threshold)
    reach = max(abs(limit) for limit in axes.get_ylim())
    decades = 10.0 ** np.arange(np.ceil(np.log10(threshold)), np.floor(np.log10(reach)) + 1)
    axes.set_yticks([*-decades[::-1], 0, *decades], minor=False)


def _decades(axes: Any) -> None:
    """Do not let a nearly constant quantity look dramatic on a logarithmic axis."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.3), max(high, 3))


@style.house
def stage_choice(result: DiffusionResult) -> Figure:
    """The kernel cut into stages, and the criterion that chose their number."""
    found = result.stages
    if found is None:
        raise InputError("this result has no stages to draw")
    levels = result.levels
    figure = style.new_figure(3.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.12, 1))
    left.imshow(result.locality.matrix, origin="lower", cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    style.map_axes(left)
    style.level_axes(left, levels, minor=False)
    left.set_xlabel(style.time_label(levels))
    left.set_ylabel(style.time_label(levels).replace(" t", " t′"))
    places = np.arange(len(levels.timesteps), dtype=float)
    edges = [-0.5, *np.interp(found.boundaries, levels.timesteps, places), len(places) - 0.5]
    for low, high in itertools.pairwise(edges):
        left.plot([low, high, high, low, low], [low, low, high, high, low], color="white", linewidth=1.6)
    left.set_title("One stage" if found.k == 1 else f"{found.k} stages", fontsize=9.5)
    counts = sorted(found.scores)
    scores = [found.scores[k] for k in counts]
    errors = [found.margin_stderr.get(k, 0.0) for k in counts]
    right.errorbar(counts, scores, yerr=errors, color=style.BLUE, marker="o", label="this kernel")
    if found.null_scores:
        null = sorted(found.null_scores)
        right.plot(null, [found.null_scores[k] for k in null], "--", color=style.GREY, label="kernel without stages")
    right.plot(
        found.k, found.scores.get(found.k, np.nan), "o", markersize=10, markerfacecolor="none",
        markeredgecolor=style.VERMILION, markeredgewidth=1.6,
    )  # fmt: skip
    right.set_xticks(counts)
    right.set_xlabel("number of stages k")
    right.set_ylabel("criterion")
    right.set_title("Chosen number", fontsize=9.5)
    right.legend(loc="best", fontsize=7.6)
    style.title(figure, "Stages of noise levels that the kernel sees as alike")
    style.footer(figure, result.meta, "ring: chosen; bars: s.e. of score − null")
    return figure

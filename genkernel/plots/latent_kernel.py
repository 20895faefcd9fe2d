"""The tangent kernel of a generator over its latents: map, means between clusters, and eigenvalues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult


@style.house
def latent_kernel_map(result: GanResult) -> Figure:
    """The normalised kernel over latents ordered by cluster, and its mean between clusters, both on −1 … 1.

    The coloured strip shows how many latents each cluster has.
    """
    kernel, table = result.kernel, result.clusters
    n, count = len(table.labels), len(table.names)
    order = np.argsort(table.labels, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(table.labels, minlength=count))])
    names = gan_style.name_width(result)  # inches, like all that follow
    left, gap, top = 0.48 + names, 0.24 + names, 0.56
    side = 0.64 * (style.WIDTH - left - gap - 0.13)
    small, right = side * 0.36 / 0.64, left + side + gap
    below = top + small + gan_style.name_depth(result) + 0.33  # the colour bar, and under it the numbers
    bottom = max(top + side + 0.3, below + 1.02)
    figure = gan_style.by_hand(bottom + 0.36)
    axes = gan_style.panel(figure, left, top, side, side)
    image = axes.imshow(
        kernel.normalized[np.ix_(order, order)], cmap=style.DIVERGING, vmin=-1, vmax=1, extent=(0, n, n, 0),
        # more latents than dots: the colours of those that share a dot are averaged
        interpolation="antialiased" if n > 200 else "nearest",
    )  # fmt: skip
    style.map_axes(axes)
    for edge in np.unique(edges[(edges > 0) & (edges < n)]):
        for line in (axes.axvline, axes.axhline):  # many lines are thinner, so that they do not cover the map
            line(edge, color=style.INK, linewidth=min(0.6, 8 / count))
    axes.set_yticks([])
    axes.set_xticks([0, n])
    axes.tick_params(axis="x", length=2, labelsize=gan_style.TEXT)
    axes.set_xlabel("latent z, in the same order", labelpad=-3)
    axes.set_title(f"latents z, z′, ordered by {gan_style.kind(result)}", fontsize=8.5, fontweight="normal", pad=5)
    _strip(gan_style.panel(figure, left - 0.15, top, 0.11, side), result, edges)
    _between(gan_style.panel(figure, right, top, small, small), result)
    bar = figure.colorbar(
        image, cax=gan_style.panel(figure, right, below, small, 0.08), orientation="horizontal", ticks=[-1, 0, 1]
    )
    bar.ax.tick_params(labelsize=gan_style.TEXT)
    bar.set_label("cosine of tangent features", fontsize=8, labelpad=1)
    bar.outline.set_visible(False)
    _numbers(figure, result, right, bottom)
    style.title(figure, "The generator's kernel over its latents")
    gan_style.footer(figure, result, _stderr(result) + "strip: occupancy", how=gan_style.probes(result))
    return figure


def _strip(axes: Axes, result: GanResult, edges: np.ndarray) -> None:
    """One coloured piece per cluster, as long as it has latents, with its name."""
    names, word = gan_style.short_names(result)
    sizes = np.diff(edges)
    colors = [gan_style.color(c) for c in range(len(names))]
    axes.bar(0.5, sizes, bottom=edges[:-1], width=1, color=colors, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(edges[-1], 0)
    axes.set_xticks([])
    middles = edges[:-1] + sizes / 2
    kept = gan_style.apart(middles, sizes, 0.042 * edges[-1])
    axes.set_yticks(middles[kept], [names[c] for c in kept], fontsize=gan_style.TEXT)
    axes.tick_params(axis="y", length=0, pad=2)
    axes.set_ylabel(word, labelpad=2)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _between(axes: Axes, result: GanResult) -> None:
    """Mean cosine between clusters, with numbers where there are few."""
    values = result.kernel.by_cluster
    axes.set_facecolor(gan_style.EMPTY)
    axes.imshow(values, cmap=style.DIVERGING, vmin=-1, vmax=1)
    style.map_axes(axes)
    gan_style.cluster_ticks(axes, result, "x", 10)
    gan_style.cluster_ticks(axes, result, "y", 10)
    grey = " (grey: no pair)" if np.isnan(values).any() else ""
    axes.set_xlabel(gan_style.kind(result) + grey, fontsize=8, labelpad=1)
    axes.set_title(f"mean between {gan_style.kind(result, plural=True)}", fontsize=8.5, fontweight="normal", pad=5)
    if len(values) > 6:
        return
    for (i, j), value in np.ndenumerate(values):
        if math.isfinite(value):
            axes.text(
                j, i, f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center", fontsize=6,
                color="white" if abs(value) > 0.62 else style.INK,
            )  # fmt: skip


def _numbers(figure: Figure, result: GanResult, left: float, bottom: float) -> None:
    kernel = result.kernel
    lines = [
        "mean cosine, z ≠ z′",
        gan_style.estimate(kernel.mean_off_diagonal, kernel.mean_off_diagonal_stderr),
        "effective rank",
        _rank(result),
    ]
    across, down = figure.get_size_inches()
    for place, line in enumerate(reversed(lines)):
        named = place % 2 == 1
        figure.text(
            left / across, 1 - (bottom - 0.145 * place) / down, line, va="bottom", fontsize=6.8 if named else 8,
            color=style.MUTED if named else style.INK, fontweight="normal" if named else "bold",
        )  # fmt: skip


@style.house
def kernel_spectrum(result: GanResult) -> Figure:
    """Eigenvalues of the normalised kernel as shares of their sum, with the effective rank.

    All of them lie at 1/n, the dashed line, where no latent has anything to do with another.
    A kernel has no negative eigenvalues, so the size of the most negative one says what rounding leaves.
    """
    kernel = result.kernel
    values = kernel.eigenvalues / kernel.eigenvalues.sum()
    n = len(values)
    shown = values > max(-3 * float(values.min()), 1e-12)
    index = np.arange(1, n + 1)
    figure = style.new_figure(3.1)
    axes, sums = figure.subplots(1, 2, width_ratios=(1.25, 1))
    axes.loglog(index[shown], values[shown], color=style.BLUE, marker="o", markersize=2.6, linewidth=1.1)
    axes.axhline(1 / n, color=style.GREY, linewidth=1, linestyle=(0, (3, 2)))
    axes.text(
        1.01, 1 / n, "1/n", transform=axes.get_yaxis_transform(), va="center", fontsize=gan_style.TEXT,
        color=style.MUTED,
    )  # fmt: skip
    axes.set_ylim(min(float(values[shown].min()), 1 / n) / 3, 1.5)
    axes.set_ylabel("eigenvalue λ / Σλ")
    sums.semilogx(index, np.cumsum(np.clip(values, 0, None)), color=style.BLUE)
    sums.set_ylim(0, 1.03)
    sums.set_ylabel("sum of the largest / Σλ")
    rank, error = kernel.effective_rank, kernel.effective_rank_stderr
    for part in (axes, sums):
        part.axvline(rank, color=style.VERMILION, linewidth=1.2)
        if math.isfinite(error) and error > 0:
            part.axvspan(max(rank - error, 0.5), rank + error, color=style.VERMILION, alpha=0.2, linewidth=0)
        part.set_xlim(0.85, n * 1.15)
        part.set_xlabel("index")
    late = math.log(rank) > 0.55 * math.log(n)  # on the right of the panel there is no room for words
    sums.annotate(
        f"effective rank\n{_rank(result)}", (rank, 0), (-4 if late else 4, 5), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right" if late else "left", fontsize=8, color=style.VERMILION,
    )  # fmt: skip
    style.title(figure, "Eigenvalues of the kernel over latents")
    hidden = n - int(shown.sum())
    extra = "dashed: independent latents" + (f"; {hidden} within rounding" if hidden else "")
    gan_style.footer(figure, result, extra, how=gan_style.probes(result))
    return figure


def _rank(result: GanResult) -> str:
    kernel = result.kernel
    return f"{gan_style.estimate(kernel.effective_rank, kernel.effective_rank_stderr)} of {len(kernel.eigenvalues)}"


def _stderr(result: GanResult) -> str:
    """The errors of the entries over probes, for the footer."""
    if result.kernel.stderr is None:
        return ""
    known = result.kernel.stderr[np.isfinite(result.kernel.stderr)]
    return f"s.e. median {np.median(known):.2g} · " if len(known) else ""

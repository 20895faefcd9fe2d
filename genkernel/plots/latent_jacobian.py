"""How a generator stretches its latent space: singular values of ∂G/∂z over latents, and per cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

BANDS = ((0.05, 0.95, 0.16), (0.25, 0.75, 0.28))  # quantiles over latents, and the opacity between them


@style.house
def singular_value_fan(result: GanResult) -> Figure:
    """Sorted singular values of the latent Jacobians, and condition number and log-volume of every cluster.

    Bands are quantiles over latents, thin lines the medians of clusters. The rounding of the run is grey, or said in
    words where it lies far below.
    """
    found = result.jacobian
    labels = result.clusters.labels[found.latents]
    figure = style.new_figure(3.7)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.05, 1))
    _fan(figure.add_subplot(grid[:, 0]), result, labels)
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    k, count = found.singular_values.shape[1], len(result.clusters.names)
    upper.set_yscale("log")
    # files do not hold infinity; the ranks say where it was
    _per_cluster(upper, labels, np.where(found.rank < k, math.inf, found.condition_number), count)
    last = str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    upper.set_ylabel(f"condition number\nσ₁/σ{last}", fontsize=8.5)
    upper.tick_params(labelbottom=False)
    _per_cluster(lower, labels, np.where(found.rank == 0, -math.inf, found.log_volume), count)
    lower.set_ylabel("log-volume Σ ln σ\n(nats)", fontsize=8.5)
    lower.set_xlabel(gan_style.kind(result))
    gan_style.cluster_ticks(lower, result, "x")
    figure.align_ylabels([upper, lower])
    style.title(figure, "How the generator stretches its latent space")
    notes = ["bands: 5–95, 25–75 %"]
    if (found.rank < k).any():
        notes.append("log-volume: σ in the noise count as noise")
    gan_style.footer(
        figure, result, "; ".join(notes), n=f"n = {len(found.latents)} latents",
        how="exact σ" if found.exact else f"{k} largest σ",
    )  # fmt: skip
    return figure


def _fan(axes: Axes, result: GanResult, labels: np.ndarray) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    found = result.jacobian.singular_values
    values = np.where(found > 0, found, np.nan)
    k = values.shape[1]
    known = np.isfinite(values).any(0)
    values, index = values[:, known], np.arange(1, k + 1, dtype=float)[known]
    axes.set_yscale("log")
    axes.set_xlabel("index")
    axes.set_ylabel("singular value σ of ∂G/∂z")
    axes.set_xlim(1 - 0.04 * (k - 1) - 0.3 * (k == 1), k + 0.04 * (k - 1) + 0.3 * (k == 1))
    axes.xaxis.set_major_locator(FixedLocator(range(1, k + 1)) if k < 7 else MaxNLocator(integer=True, nbins=6))
    if not known.any():
        axes.yaxis.set_major_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.text(0.5, 0.5, "∂G/∂z is zero\nat every latent", transform=axes.transAxes, ha="center", va="center")
        return
    if k == 1:  # a band needs some width
        values, index = np.repeat(values, 2, axis=1), np.array([0.85, 1.15])
    for low, high, alpha in BANDS:
        edges = np.nanquantile(values, (low, high), axis=0)
        axes.fill_between(index, *edges, color=style.BLUE, alpha=alpha, linewidth=0)
    present = np.unique(labels)
    for c in present:
        mine = values[labels == c]
        some = np.isfinite(mine).any(0)
        axes.plot(
            index[some], np.nanmedian(mine[:, some], axis=0), color=gan_style.color(c), linewidth=0.7,
            alpha=min(0.9, 16 / len(present)),
        )  # fmt: skip
    median = np.nanmedian(values, axis=0)
    axes.plot(index, median, color="white", linewidth=3.4)
    axes.plot(index, median, color=style.BLUE, linewidth=2.2, marker="o" if 1 < k < 20 else "")
    low, high = np.nanmin(np.nanquantile(values, 0.05, axis=0)), np.nanmax(np.nanquantile(values, 0.95, axis=0))
    axes.set_ylim(low / 1.5, high * 1.5)
    _noise(axes, result)
    gan_style.log_ticks(axes, "y")
    axes.text(
        0.97, 0.98, f"thick: median\nthin: {gan_style.kind(result)} medians", transform=axes.transAxes, ha="right",
        va="top", fontsize=gan_style.TEXT, color=style.MUTED,
    )  # fmt: skip


def _noise(axes: Axes, result: GanResult) -> None:
    """The rounding of the run as a grey region, or in words where it lies far below."""
    largest = result.jacobian.singular_values[:, 0]
    if not (largest > 0).any():
        return
    noise = result.jacobian.noise * float(np.median(largest[largest > 0]))
    low, high = axes.get_ylim()
    name = f"noise of {result.meta['dtype']}"
    if noise < low / 30:
        axes.text(
            0.04, 0.03, f"{name}\nfar below, at {gan_style.power(noise)}", transform=axes.transAxes,
            fontsize=gan_style.TEXT, color=style.MUTED,
        )  # fmt: skip
        return
    low = min(max(low, noise / 30), noise / 5)
    axes.set_ylim(low, high)
    axes.axhspan(low, noise, color=style.GREY, alpha=0.25, linewidth=0, zorder=0)
    axes.axhline(noise, color=style.GREY, linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate(
        name, (0.03, noise), (0, -3), xycoords=("axes fraction", "data"), textcoords="offset points", va="top",
        fontsize=gan_style.TEXT, color=style.MUTED,
    )  # fmt: skip


def _per_cluster(axes: Axes, labels: np.ndarray, values: np.ndarray, count: int) -> None:
    """Every latent as a dot, its cluster's median as a bar; what is infinite on the edge of the axes."""
    from matplotlib.ticker import NullLocator

    good = np.isfinite(values)
    colors = [gan_style.color(c) for c in labels[good]]
    axes.scatter(labels[good], values[good], s=7 if count <= 30 else 4, color=colors, alpha=0.45, linewidths=0)
    medians = {int(c): float(np.median(values[labels == c])) for c in np.unique(labels)}
    real = np.array([c for c, median in medians.items() if math.isfinite(median)])
    axes.hlines([medians[c] for c in real], real - 0.38, real + 0.38, color=style.INK, linewidth=1.3)
    if not len(real):
        axes.yaxis.set_major_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    elif axes.get_yscale() == "log":
        gan_style.log_ticks(axes, "y")
    for sign, name, at, mark in ((math.inf, "∞", 1.0, "^"), (-math.inf, "−∞", 0.0, "v")):
        for c in np.unique(labels[values == sign]):
            infinite = int((values[labels == c] == sign).sum())
            axes.plot(c, at, mark, transform=axes.get_xaxis_transform(), color=gan_style.color(c), clip_on=False)
            axes.annotate(
                f"{name} ×{infinite}", (c, at), (0, -10 if at else 6), xycoords=axes.get_xaxis_transform(),
                textcoords="offset points", ha="center", fontsize=6, color=style.MUTED,
            )  # fmt: skip
    axes.set_xlim(-0.6, count - 0.4)
    axes.grid(False, axis="x")

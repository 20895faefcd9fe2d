"""Locality in noise level: three indices over a training, controls, maps between levels, profiles over the distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_LOOKS = {
    "cosine kernel": (style.VERMILION, "o", "-"),
    "kernel": (style.PURPLE, "s", "-"),
    "contributions, gross": (style.BLUE, "D", "-"),
    "contributions, net": (style.SKY, "^", "--"),
}
_WHEN = ("start", "middle", "end")


@style.house
def side_by_side(
    found: Mapping[str, Mapping[str, Mapping[str, Sequence[Array]]]], local: float, meta: dict[str, Any], note: str
) -> Figure:
    """Indices at three moments, a row of panels per domain.

    Args:
        found: domain → training → index → values over seeds at the start, in the middle, at the end.
        local: the index from which on the study speaks of locality, a dotted line.
        meta, note: for the footer.
    """
    columns = max(len(cases) for cases in found.values())
    figure = style.new_figure(0.9 + 2.0 * len(found), width=7.4)
    grid = figure.subplots(len(found), columns, squeeze=False, sharex=True, sharey=True)
    lowest, highest = 0.0, 0.2
    for row, (domain, cases) in zip(grid, found.items(), strict=True):
        for axes, (case, indices) in zip(row, cases.items(), strict=True):
            axes.axhline(0, color=style.MUTED, linewidth=0.8)
            axes.axhline(local, color=style.MUTED, linewidth=0.9, linestyle=":")
            for k, (name, values) in enumerate(indices.items()):
                colour, mark, dash = _LOOKS[name]
                mean = np.array([each.mean() for each in values])
                half = np.array([_half(each) for each in values])
                lowest, highest = min(lowest, float((mean - half).min())), max(highest, float((mean + half).max()))
                places = np.arange(3) + 0.07 * (k - 1.5)
                axes.errorbar(
                    places, mean, yerr=half, color=colour, marker=mark, linestyle=dash, linewidth=1.2, label=name
                )
            axes.set_title(case.replace(", ", ",\n"), fontsize=8.2)
            axes.set_xlim(-0.35, 2.35)
            axes.set_xticks(range(3), _WHEN)
        row[0].set_ylabel(f"{domain}: locality index")
    margin = 0.05 * (highest - lowest)
    grid[0, 0].set_ylim(max(-0.5, lowest - margin), min(1.0, highest + margin))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    style.footer(figure, meta, f"{note}; contributions: tenths of the training")
    return figure


@style.house
def controls(
    found: Mapping[str, Mapping[str, tuple[Array | None, Array | None]]], meta: dict[str, Any], note: str
) -> Figure:
    """Indices of the cosine kernel and of gross contributions under every control, a panel per domain.

    Args:
        found: domain → control → values over seeds of the kernel's index, and of that of contributions over the whole
            training, where there are any.
        meta, note: for the footer.
    """
    names = list(next(iter(found.values())))
    figure = style.new_figure(1.3 + 0.27 * len(names), width=7.4)
    row = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (domain, rows) in zip(row, found.items(), strict=True):
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
        for which, (colour, mark, label) in enumerate(
            (
                (style.VERMILION, "o", "cosine kernel, trained"),
                (style.BLUE, "D", "contributions, gross, whole training"),
            )
        ):
            known = [(k, each) for k, values in enumerate(rows.values()) if (each := values[which]) is not None]
            mean = [each.mean() for _, each in known]
            half = [_half(each) for _, each in known]
            places = np.array([k for k, _ in known]) + (which - 0.5) * 0.24
            axes.errorbar(mean, places, xerr=half, fmt=mark, color=colour, linewidth=1.2, label=label)
        for k, values in enumerate(rows.values()):
            if all(each is None for each in values):
                axes.text(0.98, k, "not trained", transform=axes.get_yaxis_transform(), ha="right", va="center",
                          fontsize=7.5, color=style.MUTED)  # fmt: skip
        for edge in (0.5, 4.5, 9.5):
            axes.axhline(edge, color=style.RULE, linewidth=0.9)
        axes.set_title(domain)
        axes.set_xlabel("locality index")
        axes.grid(False, axis="y")
    row[0].set_yticks(range(len(names)), names)
    row[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8)
    style.footer(figure, meta, f"sinusoidal, linear schedule; {note}")
    return figure


@style.house
def maps(found: Mapping[str, Mapping[str, Array]], meta: dict[str, Any], note: str) -> Figure:
    """Matrices between noise levels, a row per domain: cosines of the kernel, and shares of rows of contributions.

    Args:
        found: domain → name → ``[L, L]``; names that begin with "kernel" are cosines.
        meta, note: for the footer.
    """
    columns = max(len(row) for row in found.values())
    figure = style.new_figure(1.2 + 1.95 * len(found), width=7.4)
    grid = figure.subplots(len(found), columns, squeeze=False)
    shares = [m for row in found.values() for name, m in row.items() if not name.startswith("kernel")]
    top = 100 * max(float(m.max()) for m in shares)
    lowest = min(float(m.min()) for row in found.values() for name, m in row.items() if name.startswith("kernel"))
    images: dict[bool, Any] = {}
    for line, (domain, row) in zip(grid, found.items(), strict=True):
        for k, (axes, (name, matrix)) in enumerate(zip(line, row.items(), strict=True)):
            cosines = name.startswith("kernel")
            images[cosines] = axes.imshow(
                matrix if cosines else 100 * matrix,
                origin="lower",
                cmap=style.SEQUENTIAL,
                vmin=min(0.0, lowest) if cosines else 0,
                vmax=1 if cosines else top,
            )
            style.map_axes(axes)
            axes.set_title(name, fontsize=8.5)
            ticks = range(0, len(matrix), 2)
            axes.set_xticks(ticks)
            axes.set_yticks(ticks)
            axes.set_xlabel("noise level" if cosines else "learned from level", fontsize=8)
            axes.set_ylabel(f"{domain}: noise level" if k == 0 else "noise level", fontsize=8)
    half = columns // 2
    for cosines, some, label in ((True, grid[:, :half], "cosine"), (False, grid[:, half:], "share of the row (%)")):
        bar = figure.colorbar(images[cosines], ax=some, orientation="horizontal", shrink=0.6, aspect=30, pad=0.02)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set_visible(False)
    style.footer(figure, meta, f"sinusoidal, linear schedule; {note}; level 0: least noise")
    return figure


@style.house
def lags(found: Mapping[str, Mapping[str, Array]], timesteps: int, meta: dict[str, Any], note: str) -> Figure:
    """Mean cosine kernel over the distance of levels, with its controls, a panel per domain.

    Args:
        found: domain → kernel or control → profiles ``[seeds, L]``.
        timesteps: of the schedule.
        meta, note: for the footer.
    """
    looks = {
        "kernel": (style.VERMILION, "o", "-"),
        "embedding only": (style.GREEN, "^", "--"),
        "input only": (style.ORANGE, "s", "--"),
        "shuffled levels": (style.GREY, "x", ":"),
    }
    figure = style.new_figure(2.9, width=7.4)
    row = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (domain, profiles) in zip(row, found.items(), strict=True):
        for name, values in profiles.items():
            colour, mark, dash = looks[name]
            lag = np.arange(values.shape[1]) * timesteps / values.shape[1]
            mean, half = values.mean(0), np.array([_half(each) for each in values.T])
            axes.fill_between(lag, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
            axes.plot(lag, mean, color=colour, marker=mark, linestyle=dash, label=name)
        axes.axhline(0, color=style.MUTED, linewidth=0.8)
        axes.set_title(domain)
        axes.set_xlabel("|Δt| (timesteps)")
        axes.set_ylim(-0.3, 1.0)
    row[0].set_ylabel("mean cosine of the kernel")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    style.footer(figure, meta, f"trained; sinusoidal, linear schedule; {note}")
    return figure


def _half(values: Array) -> float:
    """Half of the 95 % interval of the mean."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else 0.0

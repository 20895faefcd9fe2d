"""Sequences with peaks: the kernel by peaks in common, accuracies, and predictions of Adam taken apart."""

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
Case = tuple[int, int]

_PEAKS = {2: (style.BLUE, "o"), 3: (style.VERMILION, "s"), 4: (style.GREEN, "D")}
_SHARED = (style.GREY, style.SKY, style.BLUE, style.PURPLE)


@style.house
def two_peaks(
    pairs: Mapping[str, Array],
    accuracy: Mapping[str, Mapping[Case, Sequence[float]]],
    margins: Mapping[Case, Array],
    alone: Mapping[Case, Mapping[str, Sequence[float]]],
    level: float,
    meta: dict[str, Any],
) -> Figure:
    """Four panels.

    Args:
        pairs: "untrained", "trained" → mean cosines ``[seeds, 4]``: none shared and one, same label and other.
        accuracy: optimizer → (peaks, training sequences) → on unseen sequences.
        margins: (peaks, training sequences) → contributions towards the right sign by peaks in common
            ``[seeds, peaks]``.
        alone: likewise → "unseen", "sharing", "none": accuracies over seeds.
        level: share of unseen sequences from which on a draw's network counts as right.
        meta: for the footer.
    """
    figure = style.new_figure(6.2, width=7.4)
    grid = figure.subplots(2, 2)
    _pairs(grid[0, 0], pairs)
    _accuracy(grid[0, 1], accuracy)
    _margins(grid[1, 0], margins, {case: np.asarray(one["unseen"]) >= level for case, one in alone.items()}, level)
    _alone(grid[1, 1], alone)
    style.footer(figure, meta, "means and 95 % over draws; below on the left: means and draws")
    return figure


def _pairs(axes: Axes, pairs: Mapping[str, Array]) -> None:
    for (name, values), mark, filled, shift in zip(pairs.items(), "so", (False, True), (-0.08, 0.08), strict=True):
        for column, colour in enumerate((style.BLUE, style.VERMILION)):
            v = values[:, [column, column + 2]]
            axes.errorbar(
                np.arange(2) + shift + 0.04 * (column - 0.5), v.mean(0), yerr=_half(v), color=colour, marker=mark, ms=6,
                mfc=colour if filled else "white", ls="-" if filled else "--", lw=1.2,
                label=f"{name}, {('same', 'other')[column]} label",
            )  # fmt: skip
    axes.set_xticks([0, 1], ["none", "one"])
    axes.set(xlim=(-0.4, 1.4), ylim=(min(0.0, *(float(v.min()) - 0.3 for v in pairs.values())), 1.05))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("peaks in common")
    axes.set_ylabel("mean normalised kernel")
    axes.legend(fontsize=7, loc="lower center", ncols=2, columnspacing=1.0)
    axes.set_title("Pairs with two peaks")


def _accuracy(axes: Axes, accuracy: Mapping[str, Mapping[Case, Sequence[float]]]) -> None:
    from matplotlib.lines import Line2D

    for name, dash, filled in (("SGD", "--", False), ("Adam", "-", True)):
        cases = accuracy[name]
        for peaks in sorted({p for p, _ in cases}):
            colour, mark = _PEAKS[peaks]
            counts = sorted(n for p, n in cases if p == peaks)
            v = np.array([cases[peaks, n] for n in counts]).T
            shift = 0.96 if filled else 1.04
            half = _half(v)
            ends = np.stack([np.minimum(half, v.mean(0)), np.minimum(half, 1 - v.mean(0))])
            axes.errorbar(
                np.array(counts) * shift, v.mean(0), yerr=ends, color=colour, marker=mark, ms=6, ls=dash, lw=1.3,
                mfc=colour if filled else "white",
            )  # fmt: skip
    counts = sorted({n for cases in accuracy.values() for _, n in cases})
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(n) for n in counts], fontsize=7)
    axes.set_xticks([], minor=True)
    axes.axhline(0.5, color=style.MUTED, lw=0.8, ls=":")
    axes.set_ylim(0.37, 1.03)
    axes.set_yticks([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    axes.set_xlabel("training sequences")
    axes.set_ylabel("unseen sequences right")
    known = sorted({p for cases in accuracy.values() for p, _ in cases})
    handles = [Line2D([], [], color=_PEAKS[p][0], marker=_PEAKS[p][1], ls="", label=f"{p} peaks") for p in known]
    handles += [
        Line2D([], [], color=style.INK, marker="o", label="Adam"),
        Line2D([], [], color=style.INK, marker="o", mfc="white", ls="--", label="gradient descent"),
    ]
    axes.legend(handles=handles, fontsize=7, loc="lower right", frameon=True, facecolor="white", edgecolor="none")
    axes.set_title("Outside of the training set")


def _margins(axes: Axes, margins: Mapping[Case, Array], learned: Mapping[Case, Any], level: float) -> None:
    from matplotlib.lines import Line2D

    most = max(peaks for peaks, _ in margins)
    width = 0.8 / most
    for column, (case, values) in enumerate(margins.items()):
        right = learned[case]
        for k in range(case[0]):
            place = column + (k - (case[0] - 1) / 2) * width
            axes.bar(place, values[:, k].mean(), 0.9 * width, color=_SHARED[k], alpha=0.75)
            spots = place + np.linspace(-0.25, 0.25, len(values)) * width
            for which, face in ((right, style.INK), (~right, "white")):
                axes.plot(spots[which], values[which, k], ls="", marker="o", ms=3.4, mfc=face, mec=style.INK, mew=0.7)
    for k in range(most):
        axes.bar([np.nan], [np.nan], color=_SHARED[k], alpha=0.75, label=f"{k} shared" if k else "none shared")
    axes.axhline(0, color=style.INK, lw=0.8)
    reach = 1.15 * max(float(np.abs(v).max()) for v in margins.values())
    axes.set(ylim=(-reach, reach), xlim=(-0.5, len(margins) - 0.5))
    axes.set_xticks(range(len(margins)), [_name(case) for case in margins], fontsize=7.5)
    axes.grid(False, axis="x")
    axes.set_ylabel("contribution towards\nthe right sign (target: 1)")
    handles, labels = axes.get_legend_handles_labels()
    for face, label in ((style.INK, f"draw, {level:.0%} right"), ("white", "draw, fewer right")):
        handles.append(Line2D([], [], ls="", marker="o", ms=3.4, mfc=face, mec=style.INK, mew=0.7))
        labels.append(label)
    axes.legend(handles, labels, fontsize=7, loc="lower left", handlelength=1.0)
    axes.set_title("Unseen outputs under Adam")


def _alone(axes: Axes, alone: Mapping[Case, Mapping[str, Sequence[float]]]) -> None:
    looks = (
        ("unseen", "network", style.INK, "o"),
        ("sharing", "those sharing a peak alone", style.BLUE, "s"),
        ("none", "those sharing none alone", style.GREY, "D"),
    )
    for (key, label, colour, mark), shift in zip(looks, (-0.15, 0.0, 0.15), strict=True):
        v = np.array([values[key] for values in alone.values()]).T
        half = _half(v)
        ends = np.stack([np.minimum(half, v.mean(0)), np.minimum(half, 1 - v.mean(0))])
        axes.errorbar(
            np.arange(len(alone)) + shift, v.mean(0), yerr=ends, ls="", color=colour, marker=mark, ms=6, label=label
        )
    axes.axhline(0.5, color=style.MUTED, lw=0.8, ls=":")
    axes.set(ylim=(0, 1.03), xlim=(-0.5, len(alone) - 0.5))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xticks(range(len(alone)), [_name(case) for case in alone], fontsize=7.5)
    axes.set_ylabel("unseen sequences right")
    axes.legend(fontsize=7, loc="lower right", frameon=True, facecolor="white", edgecolor="none")
    axes.set_title("Whose contributions decide")


def _name(case: Case) -> str:
    return f"{case[0]} peaks,\n{case[1]} seen"


def _half(values: Array) -> Array:
    """Half of the 95 % interval of the mean over the first axis; 0 for one seed."""
    from scipy.stats import t

    n = len(values)
    return t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5 if n > 1 else np.zeros(values.shape[1])

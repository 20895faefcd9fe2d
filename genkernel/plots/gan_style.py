"""House rules of GAN figures, beside :mod:`genkernel.plots.style`: clusters on axes, panels by hand, the footer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

Which = Literal["x", "y"]

# eight that differ in lightness too; neighbours on a ring of 8 and on a grid of 25 never share one
PALETTE = (
    style.BLUE, style.ORANGE, style.GREEN, style.VERMILION, style.SKY, style.PURPLE, "#332288", "#8c6d46",
)  # fmt: skip
EMPTY = "#cdd2d9"  # cells of clusters without latents: unlike any colour of the maps
TEXT = 7.2  # size of annotations
_LETTER = 0.062  # inches, at that size


# -------------------------------------------------------------------------------- clusters


def color(cluster: int) -> str:
    """Colours repeat after eight clusters, which is why no figure needs them to be read."""
    return PALETTE[cluster % len(PALETTE)]


def short_names(result: GanResult) -> tuple[list[str], str]:
    """What clusters are called on an axis, and the axis: ``mode 0``, ``mode 1``, … are 0, 1, … on an axis ``mode``."""
    names = result.clusters.names
    parts = [name.rsplit(" ", 1) for name in names]
    if len(names) > 1 and all(len(part) == 2 and part[0] == parts[0][0] for part in parts):
        return [shorten(part[1], 8) for part in parts], shorten(parts[0][0], 16)
    return [shorten(name, 8) for name in names], "cluster"


def kind(result: GanResult, plural: bool = False) -> str:
    """What a cluster is, in one word: a mode, a class or a cluster."""
    word = short_names(result)[1]
    return word if not plural else f"{word}es" if word.endswith("s") else f"{word}s"


def name_width(result: GanResult) -> float:
    """Inches that the longest name takes beside an axis."""
    return _LETTER * max(map(len, short_names(result)[0]))


def name_depth(result: GanResult) -> float:
    """Inches that names take below an axis, where those of more than three letters are slanted."""
    width = name_width(result)
    return 0.13 if width <= 3 * _LETTER else 0.1 + 0.75 * width


def cluster_ticks(axes: Axes, result: GanResult, which: Which = "x", most: int = 13) -> None:
    """Ticks at clusters 0 … M − 1, at most ``most`` of them, with their short names."""
    names, _ = short_names(result)
    kept = range(0, len(names), math.ceil(len(names) / most))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(kept), [names[i] for i in kept], fontsize=TEXT)
    axes.tick_params(axis=which, length=2 if len(names) > most else 0)
    if which == "x" and max(map(len, names)) > 3:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")


def apart(places: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray, gap: float) -> list[int]:
    """Which of some labels to keep so that they are at least ``gap`` apart: the weightiest first, none of weight 0."""
    kept: list[int] = []
    for i in np.argsort(-np.asarray(weights), kind="stable"):
        if weights[i] > 0 and all(abs(places[i] - places[k]) >= gap for k in kept):
            kept.append(int(i))
    return sorted(kept)


def shorten(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"


# ------------------------------------------------------------------------------------ axes


def by_hand(height: float) -> Figure:
    """A figure whose axes are put by :func:`panel`."""
    figure = style.new_figure(height)
    figure.set_layout_engine("none")
    return figure


def panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner: square maps are what automatic layouts are worst at."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def log_ticks(axes: Axes, which: Which) -> None:
    """Ticks that can be read on a logarithmic axis of fewer than three decades; its limits have to be final."""
    from matplotlib.ticker import NullFormatter

    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    decades = math.log10(high / low)
    if decades >= 2.7:
        return
    leading = (1, 2, 5) if decades < 1.6 else (1, 3)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in leading if low <= m * 10.0**e <= high]
    if len(ticks) < 2:  # a nearly constant quantity
        ticks = [float(f"{v:.2g}") for v in (low, high) if low <= float(f"{v:.2g}") <= high]
    axis.set_ticks(ticks, [power(tick) for tick in ticks])
    axis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
    """A number as on a logarithmic axis: plain between a thousandth and ten thousand, with a power of ten beyond."""
    if 1e-3 <= abs(value) < 1e4:
        return style.number(value)
    digits, exponent = f"{value:.0e}".split("e")
    factor = "" if digits == "1" else rf"{digits}\times"
    return f"${factor}10^{{{int(exponent)}}}$"


# -------------------------------------------------------------------------------- in words


def footer(figure: Figure, result: GanResult, extra: str = "", *, n: str | None = None, how: str = "no probes") -> None:
    """The small line under a GAN figure: generator, seed, dtype, latents, probes, and what the marks are.

    Args:
        n: the latents of this figure, in words; those of the analysis by default.
        how: whether the numbers are estimates by random probes.
    """
    meta = result.meta
    known = {
        "model": (meta.get("generator") or {}).get("name"),
        "seed": meta.get("seed"),
        "dtype": meta.get("dtype"),
    }
    parts = [n or f"n = {len(result.clusters.labels)} latents", how, extra]
    style.footer(figure, known, " · ".join(part for part in parts if part))


def probes(result: GanResult) -> str:
    """How the trace of the kernel was taken."""
    return style.counted(result.kernel.probes, "probe") if result.kernel.probes else "exact trace"


def driven(result: GanResult) -> str:
    """What the updates are of: the loss, and the preconditioner where there is one."""
    loss = f"{result.meta.get('loss', 'unknown')} loss"
    return loss if result.meta.get("preconditioner", "none") == "none" else f"{loss}, preconditioned"


def estimate(value: float, stderr: float) -> str:
    """A number with its error, or with three digits where it has none."""
    return style.pair(value, stderr) if math.isfinite(stderr) and stderr > 0 else style.number(float(f"{value:.3g}"))


def percent(share: float) -> str:
    """A share with two digits, and no 0 % of what is there."""
    if not math.isfinite(share):
        return "n/a"
    if 0 < share < 1e-3:
        return "< 0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"

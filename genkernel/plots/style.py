"""House rules of every figure: type, colour, axes, footer, and how a figure becomes a file.

Figures are made without pyplot and inside :func:`house`, so neither the user's backend nor
their rcParams are touched.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import Levels

P = ParamSpec("P")

WIDTH = 5.4  # inches: a column and a half in print, and still legible on a phone
DPI = 160

# Okabe & Ito (2008): distinguishable with any common colour vision, and in grey
INK, MUTED, RULE = "#22272e", "#667080", "#d9dde3"
BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
SKY, PURPLE, GREY = "#56b4e9", "#b0568c", "#8a929c"

SEQUENTIAL = "viridis"  # perceptually uniform
DIVERGING = "RdBu_r"  # symmetric about zero, safe for red-green confusion

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "errorbar.capsize": 2.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "path",
    "svg.hashsalt": "genkernel",  # the same figure gives the same bytes
    "image.interpolation": "nearest",
}


def house(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style and leave the user's settings alone."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of ``width`` × ``height`` inches with room for the footer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    strip = 0.22 / height
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, strip, 1.0, 1.0 - strip), w_pad=0.06, h_pad=0.06)
    return figure


def title(figure: Figure, text: str) -> None:
    """The figure's title, flush with its left edge."""
    figure.suptitle(text, x=0.012, ha="left", fontsize=10.5, fontweight="bold")


def footer(figure: Figure, meta: dict[str, Any], extra: str = "") -> None:
    """The small line under every figure: model, images, probes, seed, dtype, and what the bars are."""
    parts = []
    if meta.get("model"):
        parts.append(str(meta["model"]))
    if meta.get("images") is not None:
        parts.append(f"n = {counted(int(meta['images']), 'image')}")
    if meta.get("probes") is not None:
        parts.append(counted(int(meta["probes"]), "probe"))
    if meta.get("seed") is not None:
        parts.append(f"seed {meta['seed']}")
    if meta.get("dtype") is not None:
        parts.append(str(meta["dtype"]).removeprefix("torch."))
    if extra:
        parts.append(extra)
    text = " · ".join(parts)
    room = int(figure.get_figwidth() * 21)  # characters at this size
    if len(text) > room and len(parts) > 1:  # the model's name gives way first
        name = parts[0]
        parts[0] = name[: max(8, len(name) - (len(text) - room) - 1)] + "…"
        text = " · ".join(parts)
    figure.text(0.012, 0.06 / figure.get_figheight(), text, fontsize=6.3, color=MUTED, ha="left", va="bottom")


def control_note(meta: dict[str, Any]) -> str:
    """For footers: the controls' own number of images, when it is another."""
    count = meta.get("control_images")
    return f"; controls n = {count}" if count and count != meta.get("images") else ""


def to_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The figure as a file: PNG at 160 dpi, or SVG with text as outlines; no dates inside."""
    import matplotlib

    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": "genkernel"}
    with matplotlib.rc_context(RC):
        if figure.get_layout_engine() is not None:  # lay out once: a second pass moves things by a hair
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


# ---------------------------------------------------------------------------- axes


def time_label(levels: Levels) -> str:
    return "timestep t" if levels.discrete else "time t"


def lag_label(levels: Levels) -> str:
    return "|Δt| (timesteps)" if levels.discrete else "|Δt| (model time)"


LOG_SNR_LABEL = "log-SNR = ln(α²/σ²)"
LOG_SNR_LAG_LABEL = "|Δ log-SNR| (nats)"


def nice_ticks(low: float, high: float, count: int = 5) -> np.ndarray:
    """Round numbers within [low, high]."""
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    margin = 1e-9 * max(abs(low), abs(high), 1.0)
    return ticks[(ticks >= low - margin) & (ticks <= high + margin)]


def number(value: float) -> str:
    """A tick label: no trailing zeros, a true minus sign."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def counted(count: int, noun: str) -> str:
    """A number of things: "1 probe", "1,024 probes"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def level_ticks(values: np.ndarray, places: np.ndarray, count: int = 5) -> tuple[np.ndarray, list[str]]:
    """Where round values of a level coordinate fall on an axis that measures something else.

    Args:
        values: the coordinate at each level [L], monotone (timesteps, log-SNR).
        places: the axis position of each level [L].
        count: about how many ticks.

    Returns:
        positions [k] and their labels.
    """
    values, places = np.asarray(values, float), np.asarray(places, float)
    good = np.isfinite(values)
    values, places = values[good], places[good]
    if len(values) < 2 or np.ptp(values) == 0:
        return places, [number(v) for v in values]
    order = np.argsort(values, kind="stable")
    values, places = values[order], places[order]
    # the outermost level may lie a hair inside a round number (999 of 1000 timesteps)
    reach = 0.01 * (values[-1] - values[0])
    slope = (places[-1] - places[0]) / (values[-1] - values[0])
    known = np.array([values[0] - reach, *values, values[-1] + reach])
    spots = np.array([places[0] - slope * reach, *places, places[-1] + slope * reach])
    ticks = nice_ticks(known[0], known[-1], count)
    at = np.interp(ticks, known, spots)
    kept: list[int] = []  # a steep schedule crowds log-SNR ticks together: keep those that can be read
    for i in np.argsort(at, kind="stable"):
        if not kept or at[i] - at[kept[-1]] >= 0.07 * np.ptp(places):
            kept.append(int(i))
    return at[kept], [number(ticks[i]) for i in kept]


def level_axes(axes: Axes, levels: Levels, *, minor: bool = True) -> None:
    """Timestep below and left, log-SNR above and right of a levels × levels map.

    ``minor=False`` leaves log-SNR and the y-axis away, for small multiples.
    """
    places = np.arange(len(levels.timesteps), dtype=float)
    span = (-0.5, len(places) - 0.5)
    at, names = level_ticks(levels.timesteps, places, 5 if minor else 3)
    axes.set_xlim(*span)
    axes.set_ylim(*span)  # clean images at the lower left, as on a plot
    axes.set_xticks(at, names)
    axes.set_yticks(at, names)
    if not minor:
        axes.tick_params(labelsize=7.5)
        return
    axes.set_xlabel(time_label(levels))
    axes.set_ylabel(time_label(levels).replace(" t", " t′"))
    log_snr_axis(axes, levels, places)
    right = axes.secondary_yaxis("right")
    at, names = level_ticks(levels.log_snr, places)
    right.set_yticks(at, names)
    right.set_ylabel(LOG_SNR_LABEL, color=MUTED, fontsize=8.5)
    right.tick_params(labelsize=7.5, labelcolor=MUTED)


def log_snr_axis(axes: Axes, levels: Levels, places: np.ndarray | None = None) -> None:
    """The second x-axis, on top: log-SNR where the levels are (``places`` [L], else their times)."""
    top = axes.secondary_xaxis("top")
    at, names = level_ticks(levels.log_snr, levels.timesteps if places is None else places)
    top.set_xticks(at, names)
    top.set_xlabel(LOG_SNR_LABEL, color=MUTED, fontsize=8.5)
    top.tick_params(labelsize=7.5, labelcolor=MUTED)


def map_axes(axes: Axes) -> None:
    """A heat map has a full frame and no grid."""
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)


def pair(value: float, stderr: float | None) -> str:
    """``0.412 ± 0.021``: two digits of an error that begins with 1 or 2, one of any other."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if stderr is None or not math.isfinite(stderr) or stderr <= 0:
        return number(round(value, 3))
    leading = math.floor(math.log10(stderr))
    digits = min(max(0, (1 if stderr < 3 * 10.0**leading else 0) - leading), 6)
    value = round(value, digits) + 0.0  # no negative zero
    return f"{value:.{digits}f} ± {stderr:.{digits}f}".replace("-", "\N{MINUS SIGN}")

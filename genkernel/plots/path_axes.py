"""What figures of path decompositions share: sources as rows, directions in words, the axis of steps, the footer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from genkernel.paths import PathDecomposition
    from genkernel.paths.sources import Label

Query = int | Literal["mean"]

# as on the interference map: blue helps, red is against
SIGNED = "RdBu"
TOWARDS, AGAINST = style.BLUE, style.VERMILION
MOST = 32  # groups with a row of their own
LINE, NAME = 28, 50  # letters of a line, and of a name, which has two lines at most
FAINT, LINEAR = 1 / 20, 1 / 100  # of the largest value: hardly seen on a linear scale; where a logarithmic one begins


# ------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Rows:
    """Sources as rows of a figure: groups of samples, the smallest ones as one row, then what is not data.

    Attributes:
        names: of the R rows, short enough for two lines of an axis, and no two the same.
        data: whether a row is of samples ``[R]``.
        members: numbers of the sources in each row.
    """

    names: list[str]
    data: list[bool]
    members: list[list[int]]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Sums over the members: ``[S, ...]`` → ``[R, ...]``."""
        return np.stack([values[numbers].sum(0) for numbers in self.members])

    def colors(self, values: np.ndarray) -> list[str]:
        """By sign ``[R]``; grey for what is not data."""
        return [
            style.GREY if not data else TOWARDS if value >= 0 else AGAINST
            for value, data in zip(values, self.data, strict=True)
        ]


def rows(parts: PathDecomposition, size: np.ndarray, most: int = MOST, *, by_size: bool = False) -> Rows:
    """The rows of a figure.

    Args:
        size: by which the ``most`` groups are chosen that have a row of their own ``[S]``.
        by_size: the largest first; else in the order of the sources.
    """
    groups = [a for a, data in enumerate(parts.data) if data]
    ranked = sorted(groups, key=lambda a: -size[a])
    shown = ranked if len(ranked) <= most else ranked[: most - 1]
    rest = ranked[len(shown) :]
    if not by_size:
        shown = sorted(shown)
    extra = [a for a, data in enumerate(parts.data) if not data]
    names = short_names([source_name(parts.sources[a]) for a in shown]) + ([f"{len(rest)} others"] if rest else [])
    return Rows(
        names + [str(parts.sources[a]) for a in extra],
        [True] * len(names) + [False] * len(extra),
        [[a] for a in shown] + ([rest] if rest else []) + [[a] for a in extra],
    )


def source_name(label: Label) -> str:
    """A bare number would be read as a quantity."""
    return label if isinstance(label, str) else f"group {label}"


def shorten(name: str, room: int = NAME) -> str:
    """Cut in the middle: long names mostly differ at their ends."""
    return name if len(name) <= room else f"{name[: room // 2]}…{name[-(room - room // 2 - 1) :]}"


def short_names(names: Sequence[str], room: int = NAME) -> list[str]:
    """Cut in the middle, and those that would then look the same around what tells them apart."""
    found = [shorten(name, room) for name in names]
    side = room // 6
    for same in {name for name in found if found.count(name) > 1}:
        places = [i for i, name in enumerate(found) if name == same]
        start, end = _alike([names[i] for i in places]), _alike([names[i][::-1] for i in places])
        for i in places:
            # six letters more, to know it by
            core = shorten(names[i][max(start - 6, 0) : len(names[i]) - end], room - 2 * side - 2)
            found[i] = f"{names[i][:side]}…{core}…{names[i][-side:]}"
    return [f"{name} ({i + 1})" if found.count(name) > 1 else name for i, name in enumerate(found)]


def _alike(names: Sequence[str]) -> int:
    """With how many letters all of them start."""
    return len(list(takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))))


def wrap(name: str, room: int = LINE) -> str:
    """On two lines where one is too short for it, broken at the end of a word near the middle if there is one.

    Dollars are dollars, and no formula's ends.
    """
    if len(name) <= room:
        return plain(name)
    ends = [i for i in range(len(name) - room, room + 1) if name[i - 1] in " _-/.,:;…"]
    cut = min(ends, key=lambda i: abs(2 * i - len(name)), default=len(name) // 2)
    return plain(f"{name[:cut].rstrip()}\n{name[cut:]}")


def plain(text: str) -> str:
    """As matplotlib is to be given it, for what is no formula."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text).replace("$", r"\$")


def body_height(found: Rows, least: float = 0.9) -> float:
    """Inches of all rows, so that few are not bars of lead and many fit a page, and names on two lines their row."""
    count = len(found.names)
    row = 0.25 if count <= 12 else 0.2 if count <= 20 else 0.165
    return max(least, count * (max(row, 0.215) if any(len(name) > LINE for name in found.names) else row))


def name_rows(axes: Axes, found: Rows) -> None:
    """The names of the rows on the y-axis, first above; what is not data in grey and set off by a line."""
    count = len(found.names)
    axes.set_yticks(range(count), [wrap(name) for name in found.names], fontsize=8 if count <= 20 else 6.8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(count - 0.5, -0.5)
    dress_names(axes.get_yticklabels(), found.data)


def dress_names(labels: Iterable[Text], data: Iterable[bool]) -> None:
    """What is not data is grey and slanted; two lines are smaller than one."""
    for text, is_data in zip(labels, data, strict=True):
        text.set_color(style.INK if is_data else style.MUTED)
        text.set_fontstyle("normal" if is_data else "italic")
        if "\n" in text.get_text():
            text.set_fontsize(6.6)
            text.set_linespacing(1.0)


def set_off(axes: Axes, found: Rows) -> None:
    """A line between groups of samples and what is not data."""
    groups = sum(found.data)
    if 0 < groups < len(found.data):
        axes.axhline(groups - 0.5, color=style.MUTED, linewidth=0.8)


# ---------------------------------------------------------------------- queries, directions


def along(parts: PathDecomposition, query: Query, direction: Any) -> np.ndarray:
    """Contributions along a direction ``[W, S]``, of one query or their mean over all of them.

    Raises:
        InputError: there is no such query or direction, or the change that is to be the direction is zero.
    """
    check(parts, query, direction)
    values = parts.along(direction).numpy()
    return np.asarray(values.mean(2) if query == "mean" else values[:, :, query])


def outputs_along(parts: PathDecomposition, query: int, direction: Any) -> np.ndarray:
    """f at the edges of the windows along the direction ``[W + 1]``."""
    # the outputs in the place of contributions, so that a direction means the same for both
    values = replace(parts, net=parts.outputs[:, None, None]).along(direction)
    return np.asarray(values[:, 0, query].numpy())


def check(parts: PathDecomposition, query: Query, direction: Any) -> None:
    """Refuse queries that are not there, and a direction that does not exist.

    Raises:
        InputError: one or the other.
    """
    count = len(parts.final)
    whole = isinstance(query, int) and not isinstance(query, bool)
    if query != "mean" and not (whole and -count <= int(query) < count):
        raise InputError(f"there are {count} queries: query is 0 to {count - 1} or 'mean', not {query!r}")
    if direction is None and not has_changed(parts, query):
        what = "no query" if query == "mean" else f"query {query} has not"
        raise InputError(
            f"{what} changed, so there is no direction of its change: give direction=N, the number of an output"
        )


def has_changed(parts: PathDecomposition, query: Query) -> bool:
    """The query's outputs, or those of any, are not what they were before training."""
    moved = parts.final - parts.initial
    return bool((moved if query == "mean" else moved[query]).any())


def is_scalar(parts: PathDecomposition) -> bool:
    """The network has one output, which needs no direction."""
    return int(np.prod(parts.final.shape[1:])) == 1


def query_words(parts: PathDecomposition, query: Query) -> str:
    count = len(parts.final)
    return f"mean over {count} queries" if query == "mean" and count > 1 else f"query {0 if count == 1 else query}"


def direction_words(direction: Any, query: Query) -> str:
    if direction is None:
        return "along each query's change" if query == "mean" else "along the change of f"
    if isinstance(direction, int):
        return f"to output {direction}"
    return "along the given direction"


def color_words(direction: Any) -> str:
    """What positive and negative contributions do, for footers."""
    if direction is None:
        return "blue helps, red is against"
    return "blue raises it, red lowers it"


# ------------------------------------------------------------------------------------ axes


def signed_scale(cells: np.ndarray, data: Sequence[bool]) -> tuple[Normalize, str]:
    """Colours that are symmetric about zero and cut nothing off, and what is to be said of them.

    Args:
        cells: ``[R, K]``.
        data: rows that say what is typical ``[R]``: where most of their values would be white beside the largest one,
            colours are logarithmic.
    """
    from matplotlib.colors import Normalize, SymLogNorm

    sizes = np.abs(np.where(np.isfinite(cells), cells, 0.0))
    limit = float(sizes.max(initial=0.0)) or 1.0
    typical = sizes[np.array(data, dtype=bool)]
    typical = typical[typical > 0]
    if not typical.size or np.quantile(typical, 0.75) >= FAINT * limit:
        return Normalize(-limit, limit), ""
    near = LINEAR * limit
    said = f"colours: linear up to ±{exact(near, 2)}, logarithmic from there to ±{exact(limit, 2)}"
    return SymLogNorm(near, linscale=0.5, vmin=-limit, vmax=limit), said


def color_bar(figure: Figure, image: Any, axes: Sequence[Axes], label: str, said: str) -> None:
    """The scale below a map: as far from it, and as thick, whatever the height of the figure.

    Args:
        label: what is coloured, with its unit.
        said: of the scale, as :func:`signed_scale` gives it.
    """
    from matplotlib.colors import SymLogNorm

    high = figure.get_figheight()
    bar = figure.colorbar(
        image, ax=list(axes), location="bottom", shrink=0.62, aspect=36, pad=0.12 / high, fraction=0.5 / high,
        extend="both" if np.abs(image.get_array()).max() > image.norm.vmax else "neither",
    )  # fmt: skip
    if isinstance(image.norm, SymLogNorm):
        largest = math.floor(math.log10(image.norm.vmax or 1.0))
        decades = [10.0**power for power in (largest - 1, largest)]
        ticks = [-decades[1], -decades[0], 0.0, *decades]
        bar.set_ticks(ticks, labels=[style.number(tick) for tick in ticks])
        bar.minorticks_off()
    bar.set_label(f"{label}\n{said}" if said else label, fontsize=8.5)
    bar.outline.set_visible(False)


def sum_bars(axes: Axes, edges: np.ndarray, total: np.ndarray) -> None:
    """Above a map, the sum of each of its columns."""
    axes.bar(edges[:-1], total, width=np.diff(edges), align="edge", color=style.MUTED, edgecolor="white", linewidth=0.3)
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    axes.set_ylabel("all", rotation=0, ha="right", va="center", fontsize=8)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.tick_params(axis="y", labelsize=7)
    axes.locator_params(axis="y", nbins=3)
    axes.grid(False, axis="x")


def step_axis(axes: Axes, edges: Sequence[int], label: bool = True) -> None:
    """Training steps on the x-axis: linear, or logarithmic where windows grow by a lot."""
    from matplotlib.ticker import FixedLocator, NullLocator

    widths = np.diff(edges)
    typical = widths[:-1] if len(widths) > 1 else widths  # the last window may have been cut short
    if max(widths) > 3.5 * min(typical):
        first = float(edges[1] - edges[0])
        axes.set_xscale("function", functions=_logarithmic(float(edges[0]), first))
        ticks = _log_steps(edges)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    else:
        ticks = [int(tick) for tick in style.nice_ticks(edges[0], edges[-1], 6) if float(tick).is_integer()]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(edges[0], edges[-1])
    if label:
        axes.set_xlabel("training step")


def _logarithmic(start: float, unit: float) -> tuple[Any, Any]:
    """ln(1 + (step - start)/unit), and its inverse: the first window is seen, and so is step 0."""
    return (
        lambda x: np.log1p(np.maximum(np.asarray(x, dtype=float) - start, -0.5 * unit) / unit),
        lambda y: start + unit * np.expm1(np.asarray(y, dtype=float)),
    )


def _log_steps(edges: Sequence[int]) -> list[int]:
    """Edges of windows to put ticks at: the ends, and those between that are far enough apart."""
    forward, _ = _logarithmic(float(edges[0]), float(edges[1] - edges[0]))
    places = np.asarray(forward(np.array(edges)))
    kept = [0, len(edges) - 1]
    for i in range(1, len(edges) - 1):
        if all(abs(places[i] - places[k]) >= 0.09 * places[-1] for k in kept):
            kept.append(i)
    return [int(edges[i]) for i in sorted(kept)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels near where they are wanted, at least ``gap`` apart and within [low, high] if they fit."""
    order = np.argsort(wanted, kind="stable")
    if len(order) < 2:
        return [float(min(max(value, low), high)) for value in wanted]
    gap = min(gap, (high - low) / (len(order) - 1))
    # apart and in order, as near as can be: isotonic regression of what is left when the gaps are taken out
    blocks: list[list[float]] = []  # [sum, count]
    for rank, i in enumerate(order):
        blocks.append([float(wanted[i]) - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    level = np.repeat([total / count for total, count in blocks], [int(count) for _, count in blocks])
    level = np.clip(level, low, high - gap * (len(order) - 1))
    found = np.empty(len(order))
    found[order] = level + gap * np.arange(len(order))
    return [float(value) for value in found]


# -------------------------------------------------------------------------------- in words


def with_sign(value: float, digits: int = 3) -> str:
    """``+0.123``, with a true minus sign and three significant digits."""
    if not math.isfinite(value):
        return "n/a"
    text = exact(abs(value), digits)
    return text if text == "0" else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def exact(value: float, digits: int = 3) -> str:
    """``1.23``, ``123``, ``1.2e-4``: significant digits, in the fewest letters."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # 0.09999 is 0.10, not 0.100
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
        return text.replace("-", "\N{MINUS SIGN}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share that may be negative, small or above one: ``38 %``, ``−4.2 %``, ``0.030 %``."""
    if 0 < abs(share) < 1e-5:
        return "< 0.001 %"
    return "n/a" if not math.isfinite(share) else f"{exact(100 * share, 2)} %"


def gap_words(absolute: float, relative: float, of: str = "the largest change") -> str:
    """``gap 1.2e-4, 0.03 % of the largest change``."""
    share = f", {percent(relative)} of {of}" if math.isfinite(relative) else ""
    return f"gap {exact(absolute, 2)}{share}"


def footer(figure: Figure, parts: PathDecomposition, extra: str = "", *, gap: bool = True) -> None:
    """The small line under every figure: optimizer, steps, rule, dtype, gap, and what the marks are.

    Args:
        gap: the largest one of all queries; False where the figure says that of its query.
    """
    meta = parts.meta
    known = [
        meta.get("optimizer"),
        f"{parts.edges[-1] - parts.edges[0]:,} steps",
        f"{meta['rule']} rule" if meta.get("rule") else None,
        meta.get("dtype"),
        gap_words(parts.gap_abs, parts.gap_rel) if gap else None,
        extra,
    ]
    style.footer(figure, {}, " · ".join(str(word) for word in known if word))
    text, room = figure.texts[-1], (figure.get_figwidth() - 0.1) * figure.dpi
    if (wide := text.get_window_extent().width) > room:  # letters of small type are not in proportion
        text.set_fontsize(0.96 * float(text.get_fontsize()) * room / wide)

"""What figures of monitors share: readings along the axis of steps, arrays with their gaps, alerts where they belong.

Long runs are drawn in blocks of neighbouring readings, so that a figure of thousands is as quick as one of hundreds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genkernel.errors import InputError
from genkernel.monitor.rules import default_rules
from genkernel.monitor.trace import Alert, Array, Axis, Trace
from genkernel.plots import style
from genkernel.plots.path_axes import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 400  # readings that are drawn one by one
MARKED = 40  # readings up to which each has a mark
DECADE = 10.0  # ratio of largest and smallest from which an axis is logarithmic
GAP = "#e9ebee"  # cells without a number

TOPICS = {
    "accuracy": "loss", "ema": "ema", "drive": "discriminator", "monitor": "health",
}  # fmt: skip
ORDER = (
    "loss", "gradient", "kernel", "rank", "time", "conditioning", "samples", "discriminator", "transport", "jacobian",
    "ema", "weights", "drawn",
)  # fmt: skip

# what rules that are no change point of a series look at
SERIES_OF_RULES = {
    "non-finite": ("health/nonfinite",),
    "average stands still": ("ema/follows",),
    "told time": ("time/gain", "time/ratio"),
    "parameters move too fast": ("weights/moved",),
    "noise level falls behind": ("loss/level",),
    "noise levels not drawn": ("drawn/timesteps",),
    "class rarely drawn": ("drawn/classes",),
    "class not learned": ("conditioning/gain",),
    "class left behind": ("loss/class",),
    "label noise": ("accuracy/holdout", "kernel/suspicion"),
    "region lost": ("samples/occupancy",),
    "regions not reached": ("samples/effective_clusters",),
    "time ignored": ("time/cost",),
}


def topic(name: str) -> str:
    """What a scalar or an array is about: the part of its name before the slash, some of them together."""
    first, slash, _ = name.partition("/")
    return TOPICS.get(first, first) if slash else "other"


def topics(trace: Trace) -> list[str]:
    """Those of a trace: known ones in reading order, then others as they come, and the monitor's own health last."""
    found = dict.fromkeys(topic(name) for name in [*trace.names, *trace.array_names])
    known = [name for name in ORDER if name in found]
    rest = [name for name in found if name not in known and name != "health"]
    return [*known, *rest, *(["health"] if "health" in found else [])]


# ---------------------------------------------------------------------------------- arrays


def entries(trace: Trace, name: str) -> Array:
    """An array over the readings ``[k, *axes]``: NaN where a reading has none, or one of another shape."""
    shape = tuple(len(axis) for axis in trace.axes(name))
    found = np.full((len(trace), *shape), np.nan)
    for k, reading in enumerate(trace.readings):
        values = reading.arrays.get(name)
        if values is not None and np.shape(values) == shape:
            found[k] = values
    return np.where(np.isfinite(found), found, np.nan)


def arrays_along(trace: Trace, count: int) -> list[str]:
    """Names of the arrays along so many axes that hold a number in any reading."""
    header = trace.header
    return [
        name
        for name, axes in header.arrays.items()
        if len(axes) == count and all(axis in header.axes for axis in axes) and np.isfinite(entries(trace, name)).any()
    ]


# ---------------------------------------------------------------------------------- course


@dataclass(frozen=True)
class Course:
    """The readings of a trace as they are drawn.

    Attributes:
        steps: of the blocks ``[b]``; of the readings themselves where a block holds one.
        edges: where cells of a heat map end ``[b + 1]``.
        each: readings in a block (the last one may hold fewer).
        count: of all readings, k.
    """

    steps: Array
    edges: Array
    each: int
    count: int

    def reduce(self, values: Array) -> tuple[Array, Array, Array]:
        """Median, smallest and largest of every block ``[k, …] → [b, …]``; NaN where it holds no finite number."""
        values = np.where(np.isfinite(values), values, np.nan)
        if self.each == 1:
            return values, values, values
        blocks = -(-len(values) // self.each)
        padded = np.full((blocks * self.each, *values.shape[1:]), np.nan)
        padded[: len(values)] = values
        padded = padded.reshape(blocks, self.each, *values.shape[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of blocks without a number
            return np.nanmedian(padded, 1), np.nanmin(padded, 1), np.nanmax(padded, 1)

    @property
    def note(self) -> str:
        """For footers: how many readings there are, and how many a point stands for."""
        if self.each == 1:
            return style.counted(self.count, "reading")
        return (
            f"{style.counted(self.count, 'reading')}, in blocks of {self.each}: medians, band from smallest to largest"
        )


def course(trace: Trace) -> Course:
    """The blocks of a trace; at most :data:`LONGEST`."""
    steps = trace.steps.astype(np.float64)
    each = max(1, -(-len(steps) // LONGEST))
    shown = np.array([np.median(steps[i : i + each]) for i in range(0, len(steps), each)])
    if len(shown) > 1:
        middle = (shown[1:] + shown[:-1]) / 2
        edges = np.concatenate([[1.5 * shown[0] - 0.5 * shown[1]], middle, [1.5 * shown[-1] - 0.5 * shown[-2]]])
    else:
        edges = np.concatenate([shown - 0.5, shown + 0.5]) if len(shown) else np.zeros(1)
    return Course(shown, edges, each, len(steps))


def footer_facts(trace: Trace) -> dict[str, Any]:
    """What :func:`genkernel.plots.style.footer` says of every figure: the model and the seed of the probes."""
    settings = trace.header.settings
    model = next(
        (
            found
            for part in (settings.get("denoiser"), settings.get("generator"), settings)
            if isinstance(part, dict) and (found := part.get("name") or part.get("class"))
        ),
        trace.header.kind,
    )
    return {"model": plain(str(model)), "seed": settings.get("seed")}


# -------------------------------------------------------------------------------- the axes


def step_axis(axes: Axes, shown: Course, *, label: bool = True, ticks: bool = True) -> None:
    """The axis of steps, from the first cell's edge to the last one's."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(float(shown.edges[0]), float(shown.edges[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: step_words(value)))
    axes.tick_params(labelsize=7.5)
    if not ticks:
        axes.tick_params(labelbottom=False)
    if label:
        axes.set_xlabel("step", fontsize=8.5)


def step_words(step: float) -> str:
    """``400``, ``25k``, ``1.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(step) >= size:
            return f"{style.number(step / (1e3 if letter == 'k' else size))}{letter}"
    return style.number(step)


def value_scale(axes: Axes, values: Array) -> None:
    """The axis of values: logarithmic where positive numbers span more than a decade.

    Numbers of both signs, of which the largest is far beyond most, are linear near zero and logarithmic beyond.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = values[np.isfinite(values)]
    size = np.abs(values[values != 0])
    if is_logarithmic(values):
        axes.set_yscale("log")
        if values.max() / values.min() < 1e3:  # more than two labels
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(power))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif len(size) and size.max() > 300 * np.median(size):
        axes.set_yscale("symlog", linthresh=float(np.median(size)))
        axes.yaxis.set_major_formatter(FuncFormatter(power))
    elif len(values) and np.ptp(values) <= 1e-9 * np.abs(values).max(initial=0):
        middle = float(values[0])
        room = 0.1 * abs(middle)
        axes.set_ylim(middle - room if middle else -0.05, middle + room if middle else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=2, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))


def is_logarithmic(values: Array) -> bool:
    """Whether finite numbers are all positive and span more than a decade."""
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > DECADE * values.min())


def power(value: float, place: float = 0) -> str:
    """A number on a logarithmic axis: plain near one, with a power of ten far from it."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return style.number(value)
    digits, exponent = f"{value:.0e}".split("e")
    factor = {"1": "", "-1": "-"}.get(digits, rf"{digits}\times")
    return f"${factor}10^{{{int(exponent)}}}$"


def place_ticks(axis: Axis, most: int) -> tuple[Array, list[str]]:
    """Ticks of positions 0, 1, …: round numbers where they are ordered by them, else their names, some left out."""
    places = np.arange(len(axis), dtype=np.float64)
    values = np.asarray(axis.values, dtype=np.float64)
    if is_ordered(axis) and len(values) == len(axis) and (np.diff(values) > 0).all():
        if len(axis) > most or axis.unit == "timestep":
            return style.level_ticks(values, places, min(5, most))
        return places, [style.number(value) for value in values]
    needed = -(-len(places) // most)
    apart = next(step for step in (m * 10**e for e in range(9) for m in (1, 2, 5)) if step >= needed)
    chosen = places[::apart]
    return chosen, [plain(short_label(axis, int(place))) for place in chosen]


def place_word(axis: Axis) -> str:
    """What the positions of an axis are: the unit of their numbers, or its name."""
    return "timestep t" if axis.unit == "timestep" else axis.unit or axis.name


def is_ordered(axis: Axis) -> bool:
    """Whether positions have an order that colours can follow: noise levels have one, classes and clusters none."""
    return axis.name not in ("class", "cluster", "sample", "parameter") and len(axis.values) == len(axis)


def short_label(axis: Axis, place: int, room: int = 12) -> str:
    """``cluster 3`` is 3 on an axis of clusters; long names are cut."""
    label = axis.labels[place].removeprefix(f"{axis.name} ")
    return label if len(label) <= room else label[: room - 1] + "…"


# ---------------------------------------------------------------------------------- alerts


def relation(alert: Alert, name: str, trace: Trace) -> Literal["about", "perhaps", "no"]:
    """Whether an alert is about a scalar or an array; ``"perhaps"`` where its rule does not say what it is about.

    A rule says so by ``of``, as change points do, or by a name that begins with that of a series, or with its topic
    and a slash.
    """
    try:
        rules = default_rules(trace.header.kind)
    except InputError:  # a watch of the user's own
        rules = []
    known = SERIES_OF_RULES | {rule.name: (str(rule.of),) for rule in rules if hasattr(rule, "of")}
    names = [*trace.names, *trace.array_names]
    of = [other for other in known.get(alert.rule, ()) if other in names]
    of = of or sorted((other for other in names if alert.rule.startswith(other)), key=len)[-1:]
    if of:
        return "about" if name in of else "no"
    if "/" in alert.rule and topic(alert.rule) in map(topic, names):
        fits = topic(alert.rule) == topic(name) and alert.axis in ("", *trace.header.arrays.get(name, ()))
        return "about" if fits else "no"
    return "no" if alert.axis and alert.axis not in trace.header.arrays.get(name, ()) else "perhaps"


def color_of(alert: Alert) -> str:
    return style.VERMILION if alert.severity == "failure" else style.ORANGE


def mark_alerts(axes: Axes, name: str, trace: Trace) -> None:
    """Shade from where an alert begins to the step of its reading, on the series that it is about.

    An alert of which this is not known is a dotted line at its step.
    """
    for alert in trace.alerts:
        kind = relation(alert, name, trace)
        if kind == "perhaps":
            axes.axvline(alert.step, color=color_of(alert), linestyle=":", linewidth=1, zorder=1.5)
        elif kind == "about":
            axes.axvspan(alert.since, alert.step, color=color_of(alert), alpha=0.2, linewidth=0, zorder=0.5)
            axes.axvline(alert.since, color=color_of(alert), linewidth=0.8, zorder=2.5)
            axes.plot(
                [alert.step], [1.0], marker="v", markersize=5, color=color_of(alert), clip_on=False, zorder=5,
                transform=axes.get_xaxis_transform(), linestyle="none",
            )  # fmt: skip


def mark_places(axes: Axes, name: str, axis: Axis, shown: Course, trace: Trace) -> None:
    """Frames on a heat map around the places that an alert names, from where it begins to the step of its reading."""
    from matplotlib.patches import Rectangle

    half = (shown.edges[-1] - shown.edges[0]) / max(1, len(shown.steps)) / 2
    for alert in trace.alerts:
        if alert.axis != axis.name or relation(alert, name, trace) == "no":
            continue
        start, end = max(alert.since - half, shown.edges[0]), min(alert.step + half, shown.edges[-1])
        named = sorted(axis.labels.index(label) for label in alert.where if label in axis.labels)
        for run in np.split(named, np.flatnonzero(np.diff(named) > 1) + 1) if named else []:  # neighbours share one
            corner, height = (start, run[0] - 0.5), len(run)
            for color, width in (("white", 2.4), (color_of(alert), 1.2)):
                axes.add_patch(
                    Rectangle(corner, end - start, height, fill=False, edgecolor=color, linewidth=width, zorder=4)
                )

"""Every figure that the log of a monitor can fill, whatever it watched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from genkernel.monitor.trace import Trace
from genkernel.plots.monitor_course import arrays_along, topic, topics
from genkernel.plots.monitor_matrices import driving_against_occupancy, over_time
from genkernel.plots.monitor_places import by_place, parameters
from genkernel.plots.monitor_series import panels, scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = {
    "loss": "Loss", "gradient": "Gradients of the loss", "kernel": "Tangent kernel", "rank": "Tangent rank",
    "time": "Told time", "conditioning": "Conditioning", "samples": "Samples", "discriminator": "Discriminator",
    "transport": "Transport", "jacobian": "Jacobian of the generator", "ema": "Average of the weights",
    "weights": "Weights", "drawn": "What the training draws", "health": "Health of the run and of the monitor",
    "other": "Other numbers",
}  # fmt: skip
TABLED = ("weights/nonfinite",)  # counts that a table has


@dataclass(frozen=True)
class Drawing:
    """A figure that is yet to be drawn.

    Attributes:
        name: of its file.
        topic: what its numbers are about.
        title: of the figure.
        about: names of the scalars or arrays that it shows.
        draw: makes it.
    """

    name: str
    topic: str
    title: str
    about: tuple[str, ...]
    draw: Callable[[], Figure]


def monitor_figures(trace: Trace) -> dict[str, Callable[[], Figure]]:
    """Every figure that a trace can fill, by file name, in reading order; none for a trace without readings."""
    return {drawing.name: drawing.draw for drawing in drawings(trace)}


def drawings(trace: Trace) -> list[Drawing]:
    """The same with what each is about, topic by topic.

    Names: ``loss`` for scalars, ``loss_by_level`` for arrays along an axis, ``kernel_level`` for matrices; whatever
    a log of another version, or a watch of the user's own, calls its numbers.
    """
    if not len(trace):
        return []
    series, axes_of = panels(trace), trace.header.arrays
    places, matrices = arrays_along(trace, 1), arrays_along(trace, 2)
    found: list[Drawing] = []
    taken: set[str] = set()

    def add(name: str, about: str, title: str, shows: list[str], draw: Callable[[], Figure]) -> None:
        """A file's name has letters, digits and underscores, and no two are the same."""
        name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "figure"
        number = next(n for n in range(1, len(taken) + 2) if (name if n == 1 else f"{name}_{n}") not in taken)
        taken.add(chosen := name if number == 1 else f"{name}_{number}")
        found.append(Drawing(chosen, about, title, tuple(shows), draw))

    for about in topics(trace):
        title = heading(about)
        if about in series:
            shows = [name for names in series[about] for name in names]
            add(about, about, title, shows, partial(scalars, trace, series[about], title))
        for name in (name for name in matrices if topic(name) == about):
            said = f"{title}: {name} over the training"
            add(name, about, said, [name], partial(over_time, trace, name, said))
        mine = [name for name in places if topic(name) == about and name not in TABLED]
        for name in (name for name in mine if axes_of[name] == ["parameter"]):
            add(name, about, name, [name], partial(parameters, trace, name))
        mine = [name for name in mine if axes_of[name] != ["parameter"]]
        for axis in dict.fromkeys(axes_of[name][0] for name in mine):
            names = [name for name in mine if axes_of[name] == [axis]]
            said = f"{title} by {axis}"
            add(f"{about}_by_{axis}", about, said, names, partial(by_place, trace, names, said))
        if about == "transport" and {"transport/driving", "samples/occupancy"} <= set(places):
            name = "driving_against_occupancy"
            add(name, about, "", ["transport/driving"], partial(driving_against_occupancy, trace))
    return found


def heading(about: str) -> str:
    """What a topic is called."""
    return HEADINGS.get(about, about.replace("_", " ").capitalize())

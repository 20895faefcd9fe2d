"""The scaling study as one figure: time above, memory below, one column per axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.ticker import NullFormatter

from genkernel.errors import InputError
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "genkernel": style.BLUE,
    "genkernel-float32": style.SKY,
    "step": style.GREY,
    "loop": style.ORANGE,
    "vmap": style.VERMILION,
}
OTHERS = (style.GREEN, style.PURPLE, style.INK, style.MUTED)


@style.house
def scaling_figure(record: dict[str, Any]) -> Figure:
    """Seconds and peak memory against N, P and O, on logarithmic axes.

    Raises:
        InputError: the record is not one of a scaling study.
    """
    if record.get("kind") != "bench-scaling":
        raise InputError("this record is not one of a scaling study: run genkernel bench --scaling")
    axes = record["axes"]
    names = list(dict.fromkeys(name for axis in axes.values() for p in axis["points"] for name in p["contenders"]))
    spare = iter(OTHERS * len(names))
    colors = {name: COLORS.get(name) or next(spare) for name in names}
    figure = style.new_figure(4.6, width=2.6 * max(2, len(axes)))
    panels = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, (name, axis) in enumerate(axes.items()):
        for row, key in enumerate(("seconds", "peak_bytes")):
            _lines(panels[row][column], name, axis, key, colors)
        fixed = ", ".join(f"{key} {value}" for key, value in axis["fixed"].items())
        panels[0][column].set_title(", ".join(filter(None, (axis["workload"], fixed))), fontsize=9.5)
        panels[1][column].set_xlabel(axis["label"])
    panels[0][0].set_ylabel("time (s)")
    panels[1][0].set_ylabel("peak memory (MiB)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    style.title(figure, "How time and memory grow")
    start = record["provenance"]
    style.footer(
        figure,
        {"model": start["device"], "dtype": "float32 gradients"},
        f"threads: {start['threads']}, torch {start['versions']['torch']}, "
        f"median of calls in fresh processes: {record['rounds']}",
    )
    return figure


def _lines(panel: Any, name: str, axis: dict[str, Any], key: str, colors: dict[str, str]) -> None:
    unit = 2**20 if key == "peak_bytes" else 1
    for contender, color in colors.items():
        found = [(_abscissa(name, p), p["contenders"].get(contender, {}).get(key)) for p in axis["points"]]
        kept = [(x, y / unit) for x, y in found if y]
        if kept:
            xs, ys = zip(*kept, strict=True)
            panel.plot(xs, ys, "o--" if contender == "step" else "o-", color=color, label=contender)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())  # an axis of less than two decades labels them all


def _abscissa(name: str, point: dict[str, Any]) -> int:
    return point["parameters"] if name == "P" else point["value"]

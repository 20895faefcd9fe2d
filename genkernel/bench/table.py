"""The record as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 160  # characters that a table of contenders takes, times of any length included
RATIOS = {"seconds_over_genkernel": "×", "seconds_over_genkernel_float32": "× f32", "seconds_over_step": "× step"}
EXPLAINED = (
    "seconds: median (quartiles); ×, × f32, × step: seconds over those of genkernel, of genkernel-float32 and of the "
    "plain step; memory ×: peak over genkernel's"
)


def tables(record: dict[str, Any]) -> Iterator[tuple[Table, str]]:
    """A table per workload, with the lines to print below it."""
    for name, workload in record["workloads"].items():
        table = _empty(_title(name, workload))
        for head in ("error", "seconds", *RATIOS.values(), "roofline", "peak", "memory ×"):
            table.add_column(head, justify="right", no_wrap=True)
        for contender, row in workload["contenders"].items():
            if row["status"] in ("ok", "wrong"):
                table.add_row(*_cells(contender, row), style=None if row["status"] == "ok" else "dim")
        yield table, "\n".join(_below(workload))


def _empty(title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def rates_line(record: dict[str, Any]) -> str:
    """The machine in one line."""
    found, start = record["rates_flops_per_second"], record["provenance"]
    return (
        f"{start['device']} ({start['machine']['processor_model'] or start['machine']['processor']}), "
        f"threads: {start['threads']}, torch {start['versions']['torch']}: matrix products "
        f"{found['float32'] / 1e9:.0f} GFLOP/s in float32, {found['float64'] / 1e9:.0f} in float64, "
        f"convolutions {found['convolution'] / 1e9:.0f}"
    )


def _title(name: str, workload: dict[str, Any]) -> str:
    size = f"n = {workload['n']}, {workload['parameters']:,} parameters"
    return f"{name}: {workload['title']}, {size}, {workload['cotangents']}"


def _cells(contender: str, row: dict[str, Any]) -> list[str]:
    setting = ", ".join(value if isinstance(value, str) else f"{key} {value}" for key, value in row["setting"].items())
    error = "–" if row["error"] is None else f"{row['error']:.0e}"
    return [
        f"{contender} ({setting})" if setting else contender,
        error if row["status"] == "ok" else f"{row['status'].upper()} {error}",
        _measured(row),
        *(f"{row[key]:.2f}" if key in row else "" for key in RATIOS),
        f"{100 * row['fraction_of_roofline']:.0f} %" if "fraction_of_roofline" in row else "",
        _bytes(row["peak_bytes"]),
        f"{row['bytes_over_genkernel']:.2f}" if "bytes_over_genkernel" in row else "",
    ]


def _measured(row: dict[str, Any]) -> str:
    if row["seconds"] is None:
        return "" if row["first_call_seconds"] is None else f"{_seconds(row['first_call_seconds'])} (first call)"
    if len(row["rounds"]) == 1:
        return f"{_seconds(row['seconds'])} (once)"
    low, high = row["quartiles"]
    return f"{_seconds(row['seconds'])} ({_seconds(low)}–{_seconds(high)})"


def _below(workload: dict[str, Any]) -> Iterator[str]:
    for contender, row in workload["contenders"].items():
        if row["status"] not in ("ok", "wrong"):
            yield f"{contender}: {row['status']}" + (f": {row['message']}" if row["message"] else "")
    if peer := workload.get("fastest_peer"):
        times, reduced = peer["seconds_over_genkernel"], peer["seconds_over_genkernel_float32"]
        said = (
            f"fastest of the others that are right: {peer['name']}, {times:.2f} × genkernel's time, {reduced:.2f} × f32"
        )
        if "bytes_over_genkernel" in peer:
            said += f", {peer['bytes_over_genkernel']:.2f} × its memory"
        yield said
    ideal, flops = workload["ideal_seconds"], workload["flops"]
    network, rest = flops["forward"] + flops["backward"], flops["gradients"] + flops["products"]
    yield (
        f"roofline: {_seconds(ideal['float64'])} s ({_seconds(ideal['float32'])} s with float32 products) for "
        f"{network / 1e9:,.4g} GFLOP of forward and backward, {rest / 1e9:,.4g} of per-sample gradients and products"
    )
    timing = workload["contenders"]["genkernel"].get("timing")
    if timing:
        yield "genkernel: " + ", ".join(f"{part} {_seconds(seconds)} s" for part, seconds in timing.items())


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _bytes(value: int | None) -> str:
    if value is None:
        return ""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def scaling_tables(record: dict[str, Any]) -> Iterator[tuple[Table, str]]:
    """A table per axis of a scaling study: seconds and peak memory of every contender at every size."""
    for axis in record["axes"].values():
        table = _empty(f"{axis['label']} ({axis['workload']}, one call in a fresh process)")
        names = list(dict.fromkeys(name for point in axis["points"] for name in point["contenders"]))
        for point in axis["points"]:
            table.add_column(_size(axis, point), justify="right", no_wrap=True)
        for name in names:
            table.add_row(name, *(_growth(point["contenders"].get(name)) for point in axis["points"]))
        yield table, ""


def _size(axis: dict[str, Any], point: dict[str, Any]) -> str:
    return f"{point['parameters']:,}" if axis["label"].endswith("P") else f"{point['value']:,}"


def _growth(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    if point["seconds"] is None:
        return point["status"]
    return f"{_seconds(point['seconds'])} s, {_bytes(point['peak_bytes'])}"

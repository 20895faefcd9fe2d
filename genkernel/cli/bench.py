"""``genkernel bench``: the engine beside what one would use instead."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from genkernel.cli.console import note, print_json, quiet_stdout, results
from genkernel.errors import OutputError

WHAT, HOW, OUTPUT = "What is compared", "How it is measured", "What is written"


def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Option(
            help="W1 (the papers' CNN), W2 (ResNet-18), W3 (DCGAN generator), W4 (the CIFAR-10 DDPM), W5 (a diffusion "
            "transformer); several with commas or by repeating the option. By default all.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    contenders: Annotated[
        list[str] | None,
        typer.Option(
            help="loop, vmap, jacobian, products (PyTorch alone), nngeometry, backpack, traker, curvlinops (where "
            "installed), or module:attribute for one of your own. By default all; genkernel and one plain step are "
            "always there.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Instead of the workloads, time and memory against samples, parameters and outputs.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Tiny sizes: shows that everything runs, says nothing about speed.", rich_help_panel=WHAT
        ),
    ] = False,
    rounds: Annotated[int, typer.Option(help="Rounds of interleaved timing.", rich_help_panel=HOW)] = 5,
    limit: Annotated[
        float, typer.Option(help="Seconds a contender may take for one kernel.", rich_help_panel=HOW)
    ] = 120.0,
    memory_only: Annotated[
        bool,
        typer.Option(
            "--memory-only", help="Accuracy and peak memory alone, without interleaved timing.", rich_help_panel=HOW
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", rich_help_panel=HOW)] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the record with its provenance to this JSON file; a scaling study also draws a PNG beside it.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the record as JSON on stdout, and nothing else.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """How fast, how accurate and how large is the engine, beside what one would use instead?

    Every contender computes the same kernels. Each first runs alone in a process of its own, which gives its accuracy
    against a float64 loop, its best chunk size and its peak memory; those that are right are then timed in
    interleaved rounds. Who is absent, fails, is wrong, runs out of memory or takes too long is reported as such.
    Times are also given relative to one plain forward and backward pass, and to what the machine's rates allow.

    Example: `genkernel bench --workloads W2,W3 --contenders vmap,loop`
    """
    from genkernel.bench.runner import compare
    from genkernel.bench.scaling import scale

    if out is not None and not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: its folder does not exist")
    options: dict[str, Any] = {"rounds": rounds, "quick": quick, "device": device, "limit": limit, "say": note}
    if out is not None:
        options["keep"] = partial(_write, out=out)
    with quiet_stdout():
        if scaling:
            record = scale(_split(contenders), **options)
        else:
            record = compare(_split(workloads), _split(contenders), memory_only=memory_only, **options)
    if out is not None:
        _finish(record, out)
    if as_json:
        print_json(record)
    else:
        _show(record)


def _split(values: list[str] | None) -> list[str] | None:
    """Names given by repeating an option, with commas, or both; None for none."""
    names = [name.strip() for value in values or [] for name in value.split(",") if name.strip()]
    return names or None


def _write(record: dict[str, Any], out: Path) -> None:
    from genkernel.runs import write_atomic

    write_atomic(out, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finish(record: dict[str, Any], out: Path) -> None:
    from genkernel.runs import write_atomic

    note(f"record: {out}")
    if record["kind"] == "bench-scaling":
        from genkernel.bench.figure import scaling_figure
        from genkernel.plots import to_bytes

        picture = out.with_suffix(".png")
        write_atomic(picture, to_bytes(scaling_figure(record), "png"))
        note(f"figure: {picture}")


def _show(record: dict[str, Any]) -> None:
    from genkernel.bench.table import EXPLAINED, WIDTH, rates_line, scaling_tables, tables

    console = results()
    if not console.is_terminal:
        console.width = WIDTH
    if record["kind"] == "bench":
        console.print(rates_line(record), EXPLAINED, sep="\n", markup=False)
    for table, below in tables(record) if record["kind"] == "bench" else scaling_tables(record):
        console.print(table)
        if below:
            console.print(below, markup=False)
            console.print()
    if record["quick"]:
        console.print("quick sizes: these times say nothing about speed", markup=False)

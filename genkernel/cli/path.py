"""``genkernel path``: who moved the outputs of a recorded training run?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.workflows import PathReport

STYLES = {"complete": "bold green", "incomplete": "bold yellow", "unknown": "bold"}


def path(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A folder that holds path.npz, as recording.contributions().save(…) writes it, or such a file.",
            show_default=False,
        ),
    ],
    query: Annotated[
        list[int] | None,
        typer.Option(
            help="Number of a query that has tables and figures of its own; can be given several times. [default: 0]",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            help="Along what contributions are read: change, that of each query's outputs, or the number of an output.",
            rich_help_panel=options.READING,
        ),
    ] = "change",
    top: Annotated[
        int, typer.Option(help="Helpers and opponents that are listed.", rich_help_panel=options.READING)
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; by default the one that holds path.npz, and for a file of another name "
            "genkernel-NAME here.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Which groups of training samples moved a network's outputs, which were against it, and do the parts add up?

    Reads what `gk.record` recorded of a training run and writes a page (**index.html**) with the largest helpers and
    opponents of the chosen queries, figures over time, the completeness gap and what it means, the numbers
    (summary.json), and where they come from (run.json).

    A contribution is conditional on the path that training took and on the optimizer's preconditioner: it is not what
    deleting the samples would change.

    Examples:

    - `genkernel path runs/mine`

    - `genkernel path runs/mine --query 0 --query 3 --direction 7 --out runs/mine-report`
    """
    from genkernel.workflows.path_report import FILE, path_file, path_report

    along = _direction(direction)
    file = path_file(run)
    place = out or (file.parent if file.name == FILE else options.default_out(str(file)))
    with quiet_stdout():
        report = path_report(file, query=query or [0], direction=along, top=top, out=place)
    show(report, as_json)


def show(report: PathReport, as_json: bool) -> None:
    """The end of a run: a sentence and a table per query, the gap, the cost, and where the page is; or the summary."""
    if as_json:
        print_json(report.summary())
        return
    from rich.text import Text

    from genkernel.plots.path_axes import exact
    from genkernel.report.path import gap_verdict, headline, overhead_factor, path_warnings

    console, result = results(), report.result
    parts = result.parts
    for query in result.queries:
        console.print()
        console.print(headline(parts, query, result.direction), markup=False)
        _print_parts(report, query)
    verdict = gap_verdict(parts)
    console.print(Text(f"{verdict.label}:", STYLES[verdict.label]), Text(verdict.meaning), sep=" ", soft_wrap=True)
    for sentence in verdict.advice:
        console.print(f"  {sentence}", markup=False)
    if (factor := overhead_factor(parts)) is not None:
        console.print(f"cost: the training loop took {exact(factor)} × its own time", markup=False)
    for sentence in path_warnings(parts, result.queries, result.direction):
        note(f"note: {sentence}")
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)


def _print_parts(report: PathReport, query: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from genkernel.report.path import part_tables, sides

    result = report.result
    tables = part_tables(result.parts, query, result.direction, result.top)
    if not tables:
        return
    shown = [place for place, head in enumerate(tables[0].head) if head not in ("gross", "samples")]  # 80 columns
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for place in shown:
        table.add_column(tables[0].head[place], justify="right" if place else "left", no_wrap=place > 0)
    for content, what in zip(tables, sides(result.direction), strict=True):
        for line, row in enumerate(content.rows):
            table.add_row("" if line else what, *(Text(row[place]) for place in shown))
        table.add_section()
    results().print(table)


def _direction(text: str) -> int | None:
    """``change``, or the number of an output."""
    if text == "change":
        return None
    if not text.isdecimal():
        raise InputError(f"--direction is change or the number of an output, not {text!r}")
    return int(text)

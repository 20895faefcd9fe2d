"""``genkernel compare``: two runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results

if TYPE_CHECKING:
    from genkernel.workflows.compare import Comparison


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished run.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of the run to compare with it.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write a page with figures there.", rich_help_panel=options.OUTPUT, show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What differs between two diffusion runs, by how much, and is the comparison fair?

    Prints the differences B − A with standard errors (added in quadrature, as of independent runs) and warns when the
    runs were made with different levels, images or probes. With `--out` it also writes a page with figures.

    Example: `genkernel compare runs/epoch-10 runs/epoch-100 --out runs/10-against-100`
    """
    from genkernel.workflows.compare import compare as compare_runs

    with quiet_stdout():
        found = compare_runs(a, b)
        page = found.save(out) if out is not None else None
    for warning in found.warnings:
        note(f"note: {warning}")
    if as_json:
        print_json(found.summary())
        return
    _show(found)
    if page is not None:
        results().print(f"report: {page / 'index.html'}", markup=False, soft_wrap=True)


def _show(found: Comparison) -> None:
    from rich import box
    from rich.table import Table

    from genkernel.plots.style import pair

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for head in (f"A {found.names[0]}", f"B {found.names[1]}", "B − A"):
        table.add_column(head, justify="right")
    for row in found.rows:
        cells = [
            "none" if value is None else pair(value, stderr)
            for value, stderr in ((row.a, row.a_stderr), (row.b, row.b_stderr), (row.difference, row.stderr))
        ]
        table.add_row(row.name, *cells, style="bold" if row.clear else None)
    results().print(table)
    results().print("bold: beyond two standard errors", style="dim")
    if not all(row.comparable for row in found.rows):
        results().print("never bold: what the runs measured at other levels or in other windows", style="dim")

"""``genkernel experiment``: the papers' studies, run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.experiments.outcome import Outcome

STYLES = {"yes": "bold green", "no": "bold red", "partly": "bold yellow", "undecided": "bold"}


def experiment(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of those that --list names.", show_default=False)
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="List the experiments and stop.")] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Small settings, in a few minutes: to see that it runs, not to conclude from.",
            rich_help_panel=options.COMPUTING,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of everything that is random in it.", rich_help_panel=options.COMPUTING)
    ] = 0,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images in the place of made-up ones, where the experiment trains on images: a folder, an .npz, or a "
            "torchvision data set such as MNIST.",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what is finished of a long experiment: the same command goes on there after a stop.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the outcome; by default genkernel-NAME here. An earlier outcome in it is replaced.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run one of the papers' studies again: what was put to the test, what was measured, and does it hold?

    Writes the numbers (**summary.json**), the tables (tables.md), the figures, and where they come from (run.json),
    and prints the claims. The exit status is 0 whether they hold or not.

    Examples:

    - `genkernel experiment --list`

    - `genkernel experiment domingos --quick --out outcomes/domingos`

    - `genkernel experiment what-if --data MNIST --work unfinished/what-if`
    """
    from genkernel.experiments.outcome import EXPERIMENTS

    if names:
        _list(as_json)
        return
    if name is None:
        raise InputError(f"name an experiment: {', '.join(EXPERIMENTS)}")
    if seed < 0:
        raise InputError(f"--seed has to be a whole number from 0, not {seed}")
    from genkernel.experiments import folder as folders
    from genkernel.experiments.outcome import experiment as find
    from genkernel.runs import Provenance, RunFolder, Stopwatch

    with quiet_stdout():
        study = find(name)
        given = _inputs(name, study, data, work)
        watch = Stopwatch()
        with RunFolder.create(out or Path(f"genkernel-{name}"), kind=folders.KIND) as folder:
            note(f"running {name}{' with small settings' if quick else ''}: {EXPERIMENTS[name][1]}")
            with watch("experiment"):
                outcome = study(quick=quick, seed=seed, progress=True, **given)
            provenance = Provenance(arguments={"name": name, "quick": quick, "seed": seed} | given, seed=seed)
            place = folders.fill(folder, outcome, provenance, watch)
    show(outcome, place, as_json)


def _inputs(name: str, study: Callable[..., Outcome], data: str | None, work: Path | None) -> dict[str, str]:
    """What was given beside the seed, for experiments that take it."""
    from inspect import signature

    found, known = {}, signature(study).parameters
    images = "data" if "data" in known else "images"  # a folder of data sets, or one set of images
    for flag, key, value in (("--data", images, data), ("--work", "work", work)):
        if value is None:
            continue
        if key not in known:
            raise InputError(f"the experiment {name!r} has no use for {flag}")
        found[key] = str(value)
    return found


def show(outcome: Outcome, place: Path, as_json: bool) -> None:
    """The claims as a table, and where the outcome is; or the summary as it was written."""
    if as_json:
        from genkernel.experiments.folder import SUMMARY
        from genkernel.runs import read_json

        print_json(read_json(place / SUMMARY))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = results()
    if outcome.claims:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("claim", "measured"):
            table.add_column(head, overflow="fold")
        table.add_column("holds", no_wrap=True)
        for claim in outcome.claims:
            table.add_row(Text(claim.claim), Text(claim.measured), Text(claim.holds, STYLES[claim.holds]))
        console.print(table)
    count = len(outcome.figures)
    figures = f", {count} figure{'s' * (count > 1)}" if count else ""
    console.print(f"outcome: {place} (summary.json, tables.md{figures}, run.json)", markup=False, soft_wrap=True)


def _list(as_json: bool) -> None:
    from genkernel.experiments.outcome import EXPERIMENTS

    if as_json:
        print_json({"experiments": {name: line for name, (_, line) in EXPERIMENTS.items()}})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, (_, line) in EXPERIMENTS.items():
        table.add_row(name, Text(line))
    results().print(table)

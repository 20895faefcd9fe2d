"""``genkernel experiment``: the papers' studies, run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results, stages
from genkernel.errors import GenkernelError, InputError

if TYPE_CHECKING:
    from genkernel.experiments.outcome import Claim, Outcome

STYLES = {"yes": "bold green", "no": "bold red", "partly": "bold yellow", "undecided": "bold"}


def experiment(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of those that --list names.", show_default=False)
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="List the experiments and stop.")] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All of them, each in a process and a folder of its own. The same command goes on after a stop.",
        ),
    ] = False,
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
            "torchvision data set such as MNIST. With --all a folder with mnist.npz, fashion-mnist.npz, emoji32.npz.",
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
    jobs: Annotated[
        int,
        typer.Option(help="With --all: experiments at a time.", rich_help_panel=options.COMPUTING, min=1),
    ] = 1,
    as_json: options.Json = False,
) -> None:
    """Run one of the papers' studies again: what was put to the test, what was measured, and does it hold?

    Writes the numbers (**summary.json**), the tables (tables.md), the figures, and where they come from (run.json),
    and prints the claims. The exit status is 0 whether they hold or not.

    Examples:

    - `genkernel experiment --list`

    - `genkernel experiment domingos --quick --out outcomes/domingos`

    - `genkernel experiment what-if --data MNIST --work unfinished/what-if`

    - `genkernel experiment --all --quick --data data/ --jobs 2`
    """
    from genkernel.experiments.registry import EXPERIMENTS

    if names:
        _list(as_json)
        return
    if seed < 0:
        raise InputError(f"--seed has to be a whole number from 0, not {seed}")
    if every:
        if name is not None or work is not None:
            raise InputError("--all takes neither a NAME nor --work: every experiment gets a folder below --out")
        _all(out or Path("genkernel-experiments"), quick, seed, data, jobs, as_json)
        return
    if name is None:
        raise InputError(f"name an experiment: {', '.join(EXPERIMENTS)}")
    from genkernel.experiments import folder as folders
    from genkernel.experiments.registry import experiment as find
    from genkernel.runs import Provenance, RunFolder, Stopwatch

    with quiet_stdout():
        study = find(name)
        given = _inputs(name, study, data, work)
        watch = Stopwatch()
        with RunFolder.create(out or Path(f"genkernel-{name}"), kind=folders.KIND) as folder:
            note(f"running {name}{' with small settings' if quick else ''}: {EXPERIMENTS[name].about}")
            with watch("experiment"):
                outcome = study(quick=quick, seed=seed, progress=True, **given)
            provenance = Provenance(arguments={"name": name, "quick": quick, "seed": seed} | given, seed=seed)
            place = folders.fill(folder, outcome, provenance, watch)
    show(outcome, place, as_json)


def _inputs(name: str, study: Callable[..., Outcome], data: str | None, work: Path | None) -> dict[str, str]:
    """What was given beside the seed, for experiments that take it."""
    from genkernel.experiments.series import inputs_of

    found = {}
    images, unfinished = inputs_of(study)
    for flag, key, value in (("--data", images, data), ("--work", "work" if unfinished else None, work)):
        if value is None:
            continue
        if key is None:
            raise InputError(f"the experiment {name!r} has no use for {flag}")
        found[key] = str(value)
    return found


def _all(out: Path, quick: bool, seed: int, data: str | None, jobs: int, as_json: bool) -> None:
    """Run all experiments and print which claims hold."""
    from genkernel.experiments.registry import EXPERIMENTS
    from genkernel.experiments.series import CLAIMS, MARKDOWN, Finished, run_series

    with stages() as (advance, say):
        advance("experiments", 0, len(EXPERIMENTS))

        def shown(one: Finished, done: int, count: int) -> None:
            advance("experiments", done, count)
            what = f"{one.seconds:.0f} s" if one.seconds is not None else f"failed: {one.error}"
            say(f"{done} of {count}: {one.name}, {what}")

        found = run_series(list(EXPERIMENTS), out, quick=quick, seed=seed, data=data, jobs=jobs, report=shown)
    if as_json:
        print_json({"experiments": [asdict(one) for one in found]})
    else:
        _claims([(one.name, claim) for one in found for claim in one.claims])
        results().print(f"outcomes: {out} ({MARKDOWN}, {CLAIMS}, a folder each)", markup=False, soft_wrap=True)
    failed = [one.name for one in found if one.error is not None]
    if failed:
        raise GenkernelError(f"{len(failed)} of {len(found)} failed ({', '.join(failed)}): see NAME.log in {out}")


def show(outcome: Outcome, place: Path, as_json: bool) -> None:
    """The claims as a table, and where the outcome is; or the summary as it was written."""
    if as_json:
        from genkernel.experiments.folder import SUMMARY
        from genkernel.runs import read_json

        print_json(read_json(place / SUMMARY))
        return
    if outcome.claims:
        _claims([(None, claim) for claim in outcome.claims])
    count = len(outcome.figures)
    figures = f", {count} figure{'s' * (count > 1)}" if count else ""
    results().print(f"outcome: {place} (summary.json, tables.md{figures}, run.json)", markup=False, soft_wrap=True)


def _claims(rows: Sequence[tuple[str | None, Claim]]) -> None:
    """A table of claims, with the experiment that each is of where there are several."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    named = any(name is not None for name, _ in rows)
    for head in (*(["experiment"] if named else []), "claim", "measured"):
        table.add_column(head, overflow="fold", no_wrap=head == "experiment")
    table.add_column("holds", no_wrap=True)
    for name, claim in rows:
        first = [Text(name or "")] if named else []
        table.add_row(*first, Text(claim.claim), Text(claim.measured), Text(claim.holds, STYLES[claim.holds]))
    results().print(table)


def _list(as_json: bool) -> None:
    from genkernel.experiments.registry import EXPERIMENTS

    if as_json:
        print_json(
            {
                "experiments": {
                    name: {"about": study.about, "minutes": study.minutes} for name, study in EXPERIMENTS.items()
                }
            }
        )
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("experiment", style="bold", no_wrap=True)
    table.add_column("what")
    table.add_column("minutes", justify="right")
    for name, study in EXPERIMENTS.items():
        table.add_row(name, Text(study.about), str(study.minutes))
    table.caption = "Minutes of one processor, full and on ours; --quick takes about one."
    results().print(table)

"""``genkernel monitor``: what did a monitor see while a model trained?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.workflows import MonitorReport

USUAL = "monitor"  # a log of this name is called after its folder


def monitor(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG",
            help="The log that gk.Monitor(…, sink='monitor.jsonl') writes, or a folder with a single one.",
            show_default=False,
        ),
    ],
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Follow the log in the terminal while it grows, until Ctrl-C.",
            rich_help_panel=options.READING,
        ),
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="With --live: show it once and stop.", rich_help_panel=options.READING)
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; genkernel-NAME-monitor here by default. A finished one in it is replaced.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What did a monitor see while a model trained, and what did its rules say?

    Reads the log of a `gk.Monitor` and writes a page (**index.html**): alerts with since when and where, every number
    over the steps, heat maps by noise level, class or cluster, kernels over time, parameters that change their pace,
    and what could not be read. Logs of runs that are still going on, or were killed, are read up to their last line.

    Examples:

    - `genkernel monitor runs/mine/monitor.jsonl`

    - `genkernel monitor runs/mine/monitor.jsonl --live`
    """
    if once and not live:
        raise InputError("--once is of --live: give both, or neither for a report")
    if live:
        if as_json or out is not None:
            raise InputError("--live shows the log in the terminal: leave out --json and --out, or make a report")
        _show(log.expanduser(), once)
        return
    from genkernel.monitor.log import log_file
    from genkernel.workflows.monitor_report import monitor_report

    file = log_file(log)
    place = out or Path(f"{options.default_out(str(_named(file)))}-monitor")
    with quiet_stdout():
        report = monitor_report(file, out=place)
    if as_json:
        print_json(report.summary())
        return
    _say(report)


def _named(file: Path) -> Path:
    """After what a report is called: the log, or its folder where the log has the usual name."""
    return file.resolve().parent if file.stem == USUAL else file


def _say(report: MonitorReport) -> None:
    """The end of a report: how much was read, the alerts, and where the page is."""
    from genkernel.report.monitor import alert_lines, headline, state

    console, trace = results(), report.trace
    for sentence in headline(trace):
        console.print(sentence, markup=False)
    found = state(trace)
    console.print(f"{found.label}: {found.meaning}", markup=False)
    for sentence in alert_lines(trace):
        console.print(f"- {sentence}", markup=False)
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)


def _show(path: Path, once: bool) -> None:
    """One frame, or frames until Ctrl-C, which is how this ends: no error."""
    from genkernel.report.monitor_live import Follower, frame, watch

    if path.is_dir():
        from genkernel.monitor.log import log_file

        path = log_file(path)
    if once:
        follower = Follower(path)
        follower.look()
        console = results()
        console.print(frame(follower, console.width))
        return
    if not sys.stdout.isatty():
        raise InputError("--live needs a terminal: --live --once prints the log once")
    try:
        watch(path, results())
    except KeyboardInterrupt:
        note(f"stopped looking at {path}; the training goes on")

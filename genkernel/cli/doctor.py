"""``genkernel doctor``: what is in a checkpoint, before anything long runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import typer

from genkernel.cli import options
from genkernel.cli.console import print_json, quiet_stdout, results
from genkernel.cli.hints import hint
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.workflows import DoctorReport

MARKS = {"ok": ("✓", "green"), "note": ("·", "dim"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


def doctor(
    checkpoint: options.Checkpoint,
    device: options.Device = None,
    conditioning: options.Conditioning = None,
    scheduler: options.Scheduler = None,
    trust_pickle: options.TrustPickle = False,
    download: options.Download = False,
    as_json: options.Json = False,
) -> None:
    """What is in this checkpoint, what would be used of it, and can its gradients be trusted?

    Lists files, formats and digests, the network, its noise schedule and conditioning, whatever is unsafe or
    unsupported, and checks on three samples that the gradients genkernel captures agree with autograd and with finite
    differences. Exit status 1 when the checkpoint cannot be analysed as it is.

    Example: `genkernel doctor path/to/pipeline`
    """
    from genkernel.workflows import doctor as examine
    from genkernel.workflows.files import read_conditioning
    from genkernel.workflows.load_gan import is_gan_folder

    if is_gan_folder(checkpoint):
        raise InputError(
            f"{checkpoint} holds a GAN, and doctor examines diffusion models: genkernel gan {shlex.quote(checkpoint)} "
            "analyses it"
        )
    further: dict[str, Any] = {
        "device": device,
        "conditioning": read_conditioning(conditioning),
        "scheduler": scheduler,
        "trust_pickle": trust_pickle or None,
    }
    with quiet_stdout():
        report = examine(checkpoint, download=download, **{k: v for k, v in further.items() if v is not None})
    if len(report.items) == 1 and not report.ok:  # nothing was there to examine
        raise InputError(report.items[0].message)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: DoctorReport) -> None:
    from rich.table import Table

    console = results()
    console.print(report.subject, style="bold", markup=False)
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    before = ""
    for item in report.items:
        mark, style = MARKS[item.status]
        section = item.section if item.section != before else ""
        table.add_row(f"[{style}]{mark}[/{style}]", section, _plain(item.message))
        if item.status in ("warn", "fail") and (said := hint(item.message)):
            table.add_row("", "", _plain(f"on the command line: {said}"))
        before = item.section
    console.print(table)
    if report.ok:
        command = f"genkernel diffusion {shlex.quote(report.subject)} --data IMAGES"
        if report.needs_conditioning:
            command += " --conditioning zeros"
        console.print(
            f"This checkpoint can be analysed: {command}", style="bold", markup=False, highlight=False, soft_wrap=True
        )
        if report.needs_conditioning:
            console.print("(or --conditioning FILE with the real thing)", markup=False)
    else:
        failures = sum(item.status == "fail" for item in report.items)
        console.print(f"This checkpoint cannot be analysed as it is: see the line{'s' * (failures > 1)} marked ✗")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)

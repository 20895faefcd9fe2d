"""``genkernel gan``: do the modes of this generator collapse?"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genkernel.cli import options
from genkernel.cli.console import Interrupted, print_json, quiet_stdout, results, stages
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.workflows import GanReport

NETWORKS, COMPUTING, READING, OUTPUT = "The networks", options.COMPUTING, options.READING, options.OUTPUT
STYLES = {"ok": "bold green", "watch": "bold yellow", "collapsing": "bold red", "unknown": "bold"}


def _network(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=NETWORKS, show_default=False)


def gan(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A file with the generator's weights (then with --factory), or the folder of a reference GAN as "
            "scripts/train_gan.py writes it, or the name of the shipped one, dcgan-mnist.",
            show_default=False,
        ),
    ],
    factory: Annotated[
        str | None, _network("The generator's class, as module:Class; the current folder counts.")
    ] = None,
    factory_args: Annotated[str | None, _network('What it is called with, as JSON: {"channels": 3}.')] = None,
    discriminator: Annotated[
        str | None,
        _network("A file with the discriminator's weights. Without one, what drives the generator is left out."),
    ] = None,
    discriminator_factory: Annotated[
        str | None, _network("Its class; by default the factory's name with Discriminator for Generator.")
    ] = None,
    discriminator_args: Annotated[str | None, _network("What that is called with, as JSON.")] = None,
    discriminator_key: Annotated[
        str | None,
        _network("Entry of the discriminator's file, such as d; it may be the file of the generator."),
    ] = None,
    latent_shape: Annotated[
        str | None, _network("Of one latent: 100,1,1 or 100. By default it is found by trying.")
    ] = None,
    classes: Annotated[int | None, _network("Number of classes of a conditional generator.")] = None,
    space: Annotated[str | None, _network("z, or w for the space behind a mapping network.")] = None,
    truncation: Annotated[float | None, _network("ψ of truncated latents.")] = None,
    prior: Annotated[str | None, _network("Of the latents: normal, uniform or sphere.")] = None,
    batch_norm: Annotated[
        str | None, _network("frozen for generators that are sampled with the statistics of a batch; else eval.")
    ] = None,
    key: Annotated[str | None, _network("Entry of the generator's file of weights, such as g_ema.")] = None,
    inputs: Annotated[
        str | None, _network('Further arguments of the generator, as JSON: {"noise_mode": "const"}.')
    ] = None,
    loss: Annotated[
        str | None,
        _network(
            "The generator's loss: non-saturating, minimax, hinge, wgan, lsgan or kl. By default what the folder of "
            "a reference GAN says, else non-saturating."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Real samples, which the generated ones are compared with. Images: a folder, an .npz or a torchvision "
            "data set such as MNIST, brought to the generator's size, channels and range. Points: an .npz, .npy or "
            ".csv with one per row, as they are.",
            rich_help_panel=READING,
            show_default=False,
        ),
    ] = None,
    real_range: Annotated[
        str | None,
        typer.Option(
            help="Values of black and white in the generator's images, -1,1 or 0,1, where they are not clear.",
            rich_help_panel=READING,
            show_default=False,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Folder of a digit classifier, by which modes are counted, or the name of the shipped one, "
            "mnist-classifier.",
            rich_help_panel=READING,
            show_default=False,
        ),
    ] = None,
    modes: Annotated[
        Path | None,
        typer.Option(
            help="Known modes, one per row of an .npz, .npy or .csv.", rich_help_panel=READING, show_default=False
        ),
    ] = None,
    mode_std: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the data around a mode: samples within three count for it.",
            rich_help_panel=READING,
            show_default=False,
        ),
    ] = None,
    optimizer_state: Annotated[
        Path | None,
        typer.Option(
            help="A file with the state_dict of the generator's optimizer: updates are then preconditioned as it does.",
            rich_help_panel=READING,
            show_default=False,
        ),
    ] = None,
    trust_pickle: options.TrustPickle = False,
    download: Annotated[
        bool, typer.Option("--download", help="Allow the network for torchvision data sets.", rich_help_panel=READING)
    ] = False,
    latents: Annotated[int, typer.Option(help="Latents of the kernel and the drive.", rich_help_panel=COMPUTING)] = 512,
    jacobians: Annotated[
        int, typer.Option(help="Latents whose Jacobian ∂G/∂z is computed.", rich_help_panel=COMPUTING)
    ] = 64,
    clusters: Annotated[
        str,
        typer.Option(
            help="auto (known modes, labels, a classifier's classes, else k-means), or a number for k-means.",
            rich_help_panel=COMPUTING,
        ),
    ] = "auto",
    probes: options.Probes = 8,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Also compare with real optimizer steps.", rich_help_panel=COMPUTING),
    ] = True,
    seed: Annotated[
        int,
        typer.Option(
            help="Of the latents, the probes, the clusters and the choice of real samples.", rich_help_panel=COMPUTING
        ),
    ] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "8GiB",
    out: options.Out = None,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Do the modes of a generator collapse, what drives it, and what do its samples cover?

    Reads a generator and, where there is one, its discriminator; computes the tangent kernel over latents, the kernel
    transport of the discriminator's drive between clusters, the latent Jacobians and the coverage; and writes a page
    (**index.html**) with the verdict and the evidence for it, the numbers (summary.json), and where they come from
    (run.json). The exit status is 0 whatever the verdict.

    The time grows with latents × probes. For a first look: `--latents 256 --jacobians 32 --probes 4 --no-check`.

    Examples:

    - `genkernel gan dcgan-mnist --classifier mnist-classifier`

    - `genkernel gan runs/ring --out runs/ring-report`

    - `genkernel gan G.pt --factory mymodels:Generator --discriminator D.pt --latent-shape 100,1,1 --data images/`
    """
    further: dict[str, Any] = {
        "factory": factory,
        "factory_args": as_mapping(factory_args, "--factory-args"),
        "discriminator_factory": discriminator_factory,
        "discriminator_args": as_mapping(discriminator_args, "--discriminator-args"),
        "discriminator_key": discriminator_key,
        "latent_shape": None if latent_shape is None else numbers(latent_shape, int, "--latent-shape"),
        "classes": classes,
        "space": space,
        "truncation": truncation,
        "prior": prior,
        "batch_norm": batch_norm,
        "key": key,
        "inputs": as_mapping(inputs, "--inputs"),
    }
    arguments: dict[str, Any] = {
        "discriminator": discriminator,
        "loss": loss,
        "real": data,
        "real_range": None if real_range is None else numbers(real_range, float, "--real-range"),
        "classifier": classifier,
        "modes": modes,
        "mode_std": mode_std,
        "optimizer_state": optimizer_state,
        "trust_pickle": trust_pickle,
        "download": download,
        "latents": latents,
        "jacobians": jacobians,
        "clusters": cluster_choice(clusters),
        "probes": probes,
        "check": check,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "resume": resume,
    }
    with from_here(factory or discriminator_factory):
        report = analyse(
            checkpoint,
            out or options.default_out(checkpoint),
            **arguments,
            **{name: value for name, value in further.items() if value is not None},
        )
    show(report, as_json)


def analyse(checkpoint: str | Path, out: Path, **arguments: Any) -> GanReport:
    """Run the analysis with its progress and notes on stderr."""
    from genkernel.workflows import collapse

    try:
        with quiet_stdout(), stages() as (progress, say):
            return collapse(checkpoint, out=out, say=say, progress=progress, **arguments)
    except KeyboardInterrupt as error:
        raise Interrupted("; ".join(getattr(error, "__notes__", []))) from error


def show(report: GanReport, as_json: bool) -> None:
    """The end of a run: the verdict, its reasons, two compact tables, and where the page is; or the summary as JSON."""
    if as_json:
        print_json(report.summary())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from genkernel.report.gan import MARKS, MEANINGS
    from genkernel.report.gan_tables import coverage_numbers, evidence_rows, kernel_numbers

    console, label = results(), report.verdict
    console.print()
    console.print(Text(f"{MARKS[label]} verdict: {label}", STYLES[label]), Text(f"({MEANINGS[label]})"), sep=" ")
    for reason in report.reasons:
        console.print(f"  {reason}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("The verdict leans on", style="bold", min_width=26)
    for head in ("value", "healthy", "collapse"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("says", no_wrap=True)
    for _, rows in evidence_rows([evidence for evidence in report.evidence if evidence.counts]):
        for row in rows:
            said = Text(f"{MARKS[row.says]} {row.says}", STYLES[row.says])
            table.add_row(row.label, row.value, row.healthy, row.threshold, said)
    if table.row_count:
        console.print(table)
    both = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    both.add_column(style="bold")
    both.add_column(justify="right", no_wrap=True)
    both.add_column(style="dim")
    for view in (coverage_numbers(report.result), kernel_numbers(report.result)):
        for item in view:
            both.add_row(item.name, item.value, item.note)
        both.add_section()
    console.print(both)
    for sentence in report.result.missing:
        console.print(f"missing: {sentence}", markup=False, style="dim")
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)


# ------------------------------------------------------------------------- what the flags hold


@contextlib.contextmanager
def from_here(factory: str | None) -> Iterator[None]:
    """Modules in the current folder can be imported while a factory that the user named is looked for."""
    here = os.getcwd()
    if factory is None or here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def as_mapping(text: str | None, flag: str) -> dict[str, Any] | None:
    """A JSON object."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f'{flag} takes JSON of the form {{"name": value}}, not {text!r}')
    return found


def numbers(text: str, kind: type, flag: str) -> tuple[Any, ...]:
    """Numbers separated by commas."""
    words = {int: "whole numbers", float: "numbers"}[kind]
    try:
        found = tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found:
        raise InputError(f"{flag} takes {words} separated by commas, not {text!r}")
    return found


def cluster_choice(text: str) -> str | int:
    """``auto``, or a number."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--clusters is auto or a number of clusters, not {text!r}")
    return int(text)

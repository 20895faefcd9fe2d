"""``genkernel demo``: the shipped denoiser on the shipped images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genkernel.cli import options
from genkernel.cli.console import note
from genkernel.cli.diffusion import analyse, show

CHECKPOINT, IMAGES = "ddpm-mnist", "mnist-16.npz"


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.", rich_help_panel=options.OUTPUT)] = Path(
        "genkernel-demo"
    ),
    levels: options.Levels = 16,
    samples: options.Samples = 16,
    probes: options.Probes = 8,
    seed: options.Seed = 0,
    device: options.Device = None,
    memory: options.Memory = "8GiB",
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """Analyse the shipped MNIST denoiser on the shipped images: a whole report in a few minutes, without a network.

    The same as `genkernel diffusion` with the checkpoint and the images that come with genkernel.
    """
    from genkernel import assets

    note(f"the shipped denoiser {CHECKPOINT} on the shipped images {IMAGES}; this takes a few minutes on two cores")
    report = analyse(
        assets.path(CHECKPOINT),
        assets.path(IMAGES),
        out,
        levels=levels,
        samples=samples,
        probes=probes,
        seed=seed,
        device=device,
        memory=memory,
        resume=resume,
    )
    show(report, as_json)

"""``genkernel spectrum``: how many directions does a kernel have, and who shares them?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from genkernel.cli import options
from genkernel.cli.console import note, print_json, quiet_stdout, results
from genkernel.errors import InputError

SHOWN = 12  # modes that --json prints


def spectrum(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a finished `diffusion` or `gan` run, or a kernel's .npz.",
            show_default=False,
        ),
    ],
    targets: Annotated[
        Path | None,
        typer.Option(
            help="A .npy or .npz with a class (whole number or name) or values (floats) for every sample: what can be "
            "learned of them?",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A .npy or .npz with the number or name of every sample's group, in place of the run's own.",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Take the kernel as it is instead of as cosines.", rich_help_panel=options.READING),
    ] = False,
    ridge: Annotated[
        float,
        typer.Option(help="Ridge of the regression on targets.", min=0.0, rich_help_panel=options.READING),
    ] = 0.0,
    denoiser: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint of a diffusion run: also look at what is left to learn, level by level (minutes).",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="With --denoiser: images it was not trained on.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option(help="With --denoiser: how many images.", min=4)] = 16,
    steps: Annotated[
        int,
        typer.Option(
            help="With --denoiser: steps of Lanczos for the spectrum, and of conjugate gradients for the R² of the "
            "regressions. Where these have not converged the report says so: take more.",
            min=2,
        ),
    ] = 20,
    seed: Annotated[int, typer.Option(help="With --denoiser: of noise and random directions.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; genkernel-NAME-spectrum here by default. A finished one in it is replaced.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help=f"Print the summary as JSON on stdout, and nothing else; of long spectra the first {SHOWN} modes "
            "(summary.json holds all).",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
) -> None:
    """How many directions does a kernel have, which noise levels or clusters share them, and what can be learned?

    Reads the kernel of a finished run and writes a page (**index.html**) with its spectrum, the effective rank of each
    noise level or latent cluster, the modes that they share, and, with --targets, what kernel regression is expected to
    learn. With --denoiser and --data it also measures what of the denoiser's residual lies out of the kernel's reach.

    Examples:

    - `genkernel spectrum genkernel-ddpm-mnist`

    - `genkernel spectrum genkernel-ddpm-mnist --denoiser ddpm-mnist --data mnist.npz`

    - `genkernel spectrum kernel.npz --targets labels.npy`
    """
    from genkernel.workflows.spectrum import spectrum as run_spectrum

    if (denoiser is None) != (data is None):
        missing = "--data, images that it was not trained on" if data is None else "--denoiser, the run's checkpoint"
        raise InputError(f"--denoiser and --data go together: give {missing}")
    place = out or Path(f"{options.default_out(str(run))}-spectrum")
    with quiet_stdout():
        report = run_spectrum(
            run,
            groups=groups,
            targets=targets,
            normalize=not raw,
            ridge=ridge,
            denoiser=denoiser,
            data=data,
            images=images,
            steps=steps,
            seed=seed,
            out=place,
            say=note,
            progress=sys.stderr.isatty(),
        )
    summary = report.summary()
    if as_json:
        print_json(_short(summary))
        return
    console = results()
    for sentence in summary["reading"]:
        console.print(sentence, markup=False)
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)


def _short(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with the leading modes alone; ``modes`` says how many of how many."""
    short = {**summary, "modes": {"shown": min(SHOWN, len(summary["eigenvalues"])), "of": len(summary["eigenvalues"])}}
    for name in ("eigenvalues", "stderr"):
        short[name] = None if summary[name] is None else summary[name][:SHOWN]
    if summary["groups"] is not None:
        own = [row[:SHOWN] for row in summary["groups"]["eigenvalues"]]
        short["groups"] = {**summary["groups"], "eigenvalues": own}
    if summary["targets"] is not None:
        short["targets"] = {**summary["targets"], "power": summary["targets"]["power"][:SHOWN]}
    return short

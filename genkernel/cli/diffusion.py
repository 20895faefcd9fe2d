"""``genkernel diffusion``: how local in noise level is what this denoiser has learned?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.cli import options
from genkernel.cli.console import Interrupted, print_json, quiet_stdout, results, stages
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.workflows import Report


def diffusion(
    checkpoint: options.Checkpoint,
    data: options.Data = None,
    out: options.Out = None,
    levels: options.Levels = 24,
    samples: options.Samples = 16,
    probes: options.Probes = 8,
    seed: options.Seed = 0,
    timesteps: options.Timesteps = None,
    controls: options.Controls = True,
    untrained: options.Untrained = True,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "8GiB",
    conditioning: options.Conditioning = None,
    optimizer_state: options.OptimizerState = None,
    weights: options.Weights = None,
    samplers: options.Samplers = None,
    scheduler: options.Scheduler = None,
    trust_pickle: options.TrustPickle = False,
    download: options.Download = False,
    resume: options.Resume = False,
    as_json: options.Json = False,
) -> None:
    """How local in noise level is what a denoiser has learned, what carries it, and which levels conflict?

    Reads a diffusion or flow-matching checkpoint and some images, computes the tangent kernel between noise levels
    with its errors and controls, and writes a page (**index.html**) with the figures, the numbers
    (summary.json), and where they come from (run.json).

    The time grows with levels × samples × probes; the controls take several times as long as the kernel itself. For a
    first look: `--levels 12 --samples 8 --probes 4`.

    Examples:

    - `genkernel diffusion path/to/pipeline --data images/ --out runs/mine`

    - `genkernel diffusion google/ddpm-cifar10-32 --data CIFAR10 --download`
    """
    if data is None:
        raise InputError("no images were given: use --data with a folder, an .npz or a torchvision data set name")
    further: dict[str, Any] = {"conditioning": conditioning, "scheduler": scheduler}
    show(
        analyse(
            checkpoint,
            data,
            out or options.default_out(checkpoint),
            levels=levels,
            samples=samples,
            probes=probes,
            seed=seed,
            timesteps=times(timesteps),
            controls=controls,
            untrained=untrained,
            device=device,
            dtype=dtype,
            memory=memory,
            optimizer_state=optimizer_state,
            weights=weights,
            samplers=samplers,
            trust_pickle=trust_pickle,
            download=download,
            resume=resume,
            **{name: value for name, value in further.items() if value is not None},
        ),
        as_json,
    )


def analyse(checkpoint: str | Path, data: str | Path, out: Path, **arguments: Any) -> Report:
    """Run the analysis with its progress and notes on stderr."""
    from genkernel.workflows import locality

    try:
        with quiet_stdout(), stages() as (progress, say):
            return locality(checkpoint, data, out=out, say=say, progress=progress, **arguments)
    except KeyboardInterrupt as error:
        raise Interrupted("; ".join(getattr(error, "__notes__", []))) from error


def show(report: Report, as_json: bool) -> None:
    """The end of a run: the reading, a compact table, and where the page is; or the summary as JSON."""
    if as_json:
        print_json(report.summary())
        return
    from rich import box
    from rich.table import Table

    from genkernel.report.diffusion import key_numbers

    console = results()
    console.print()
    for sentence in report.result.meta.get("reading") or []:
        console.print(str(sentence), markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for item in key_numbers(report.result):
        table.add_row(item.name, item.value, item.note)
    console.print(table)
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)


def times(text: str | None) -> list[float] | None:
    """Numbers separated by commas."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--timesteps takes numbers separated by commas, not {text!r}") from None

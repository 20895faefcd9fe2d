"""The flags that several commands share, described once, and what stands for one that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

COMPUTING, READING, OUTPUT = "How it is computed", "What is read", "What is written"

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A diffusers pipeline or model folder, or a hub id (owner/name) that is in the local cache.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Images: a folder, an .npz (arrays x, images or x_test), a torchvision data set such as MNIST, or shipped "
        "samples (mnist-16, fashion-16, emoji-32). "
        "Resizing and channel conversion are printed.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run; by default genkernel-NAME here. A finished run in it is replaced.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON on stdout, and nothing else.", rich_help_panel=OUTPUT)
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep finished kernels in the folder until the run is complete, and go on from those of a run that was "
        "stopped. If the folder already holds this very run (arguments, images, weights), use it; if it holds "
        "another, stop and name what differs.",
        rich_help_panel=OUTPUT,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1, mps. By default a CUDA device when there is one.",
        rich_help_panel=COMPUTING,
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Of the gradients: float32, float64, bfloat16. By default the model's. Exact kernels: sums in float64.",
        rich_help_panel=COMPUTING,
        show_default=False,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Of the choice of images, the noise, the probes and the bootstrap.", rich_help_panel=COMPUTING),
]
Memory = Annotated[str, typer.Option(help="Bound on the memory of the kernel computation.", rich_help_panel=COMPUTING)]
Levels = Annotated[int, typer.Option(help="Noise levels, evenly spread over the schedule.", rich_help_panel=COMPUTING)]
Timesteps = Annotated[
    str | None,
    typer.Option(
        help="Evaluate at these times instead, separated by commas: 0,50,100,500.",
        rich_help_panel=COMPUTING,
        show_default=False,
    ),
]
Samples = Annotated[int, typer.Option(help="Images per level.", rich_help_panel=COMPUTING)]
Probes = Annotated[
    int,
    typer.Option(help="Random probes of the trace kernel: more give smaller errors.", rich_help_panel=COMPUTING),
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls",
        help="Also compute the controls that say what carries the locality.",
        rich_help_panel=COMPUTING,
    ),
]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained/--no-untrained",
        help="Among the controls, a freshly initialised network of the same shape.",
        rich_help_panel=COMPUTING,
    ),
]
Conditioning = Annotated[
    str | None,
    typer.Option(
        help="Further inputs of the network, such as text embeddings: a .safetensors or .npz with one array per "
        "argument, of one row or one row per image; or the word zeros.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
OptimizerState = Annotated[
    Path | None,
    typer.Option(
        help="A file with the optimizer's state_dict: interference is then also given in its preconditioned metric.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help='Loss weightings for the what-if table, as JSON: {"name": [[time, weight], …]}.',
        rich_help_panel=READING,
        show_default=False,
    ),
]
Samplers = Annotated[
    Path | None,
    typer.Option(
        help="Timestep densities for the what-if table, in the same form.", rich_help_panel=READING, show_default=False
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Folder of a scheduler_config.json, for a checkpoint without one or to mean another.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Allow pickled weights, which can run code from the file. Only for files you trust.",
        rich_help_panel=READING,
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Allow the network for hub ids and torchvision data sets.", rich_help_panel=READING
    ),
]


def default_out(checkpoint: str) -> Path:
    """Folder of a run without ``--out``: ``genkernel-NAME`` in the current one."""
    path = Path(checkpoint).expanduser()
    there = path.resolve()
    name = checkpoint.split("/")[-1] if not path.exists() else there.stem if path.is_file() else there.name
    return Path(f"genkernel-{name or 'run'}")

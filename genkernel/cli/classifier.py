"""``genkernel classifier``: does the kernel know the classes, what is that due to, and how far does it reach?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genkernel.cli import options
from genkernel.cli.console import print_json, quiet_stdout, results, stages
from genkernel.cli.gan import as_mapping, from_here, numbers


def _network(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Network", show_default=False)


def classifier(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="torchvision:NAME, the folder of a reference classifier or its name (mnist-classifier), or a file of "
            "weights (then with --factory).",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: a folder with one folder per class, called as it or by its number, an .npz (arrays "
            "x and y, or x_test and y_test), or a torchvision data set such as MNIST.",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ],
    new: Annotated[
        str | None,
        typer.Option(
            help="Images of another kind: how far does what was learned reach?",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    new_labels: Annotated[
        bool,
        typer.Option(
            "--new-labels",
            help="Labels that come with --new are classes of this network: is it right about them?",
            rich_help_panel=options.READING,
        ),
    ] = False,
    held_out: Annotated[
        str | None,
        typer.Option(
            help="With --new: images of the kind of --data beside which they are seen.",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--earlier",
            help="Weights of an earlier checkpoint of the same network; several times, in the order of the training.",
            rich_help_panel=options.READING,
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="train or test, of sources that have both.", rich_help_panel=options.READING)
    ] = "test",
    weights: Annotated[Path | None, _network("Of a network of torchvision: a file of weights.")] = None,
    factory: Annotated[str | None, _network("package.module:Name of the network's class.")] = None,
    factory_args: Annotated[str | None, _network('Its arguments, as JSON: {"classes": 10}.')] = None,
    key: Annotated[str | None, _network("Entry of a nested file of weights, such as model.")] = None,
    names: Annotated[str | None, _network("Of the classes, in the order of the logits: cat,dog,frog.")] = None,
    sample_shape: Annotated[str | None, _network("Of one image: 3,224,224.")] = None,
    mean: Annotated[str | None, _network("Per channel, of images in [0, 1]: 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, _network("Per channel.")] = None,
    trust_pickle: options.TrustPickle = False,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Allow the network for torchvision's weights and data.", rich_help_panel=options.READING
        ),
    ] = False,
    samples: Annotated[
        int, typer.Option(help="At most so many images, of all classes alike.", rich_help_panel=options.COMPUTING)
    ] = 200,
    probes: options.Probes = 8,
    neighbours: Annotated[int, typer.Option(help="Of each image, at most.", rich_help_panel=options.COMPUTING)] = 10,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Also the untrained network, permuted labels, the inputs, and the kernel without its last layer.",
            rich_help_panel=options.COMPUTING,
        ),
    ] = True,
    seed: Annotated[
        int, typer.Option(help="Of images, probes, folds and the untrained network.", rich_help_panel=options.COMPUTING)
    ] = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "8GiB",
    out: options.Out = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="If the folder already holds this very run (arguments, images, weights), use it.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Does the kernel of a classifier know its classes, what is that due to, and how far does it reach?

    Computes the tangent kernel between labelled images and writes a page (**index.html**) with the similarity within
    and between classes, its alignment with the labels layer by layer, neighbours, linear separability, each beside the
    untrained network and other controls, and, with --new, how samples of another kind lie to it.

    Examples:

    - `genkernel classifier mnist-classifier --data mnist-16 --new emoji-32`

    - `genkernel classifier torchvision:resnet18 --weights r18.pth --data photos/`

    - `genkernel classifier net.pt --factory mymodels:Net --names cat,dog --data train/ --new photos/ --held-out val/`
    """
    from genkernel.workflows.similarity import similarity

    given: dict[str, Any] = {
        "weights": weights,
        "factory": factory,
        "factory_args": as_mapping(factory_args, "--factory-args"),
        "key": key,
        "names": None if names is None else [name.strip() for name in names.split(",")],
        "sample_shape": None if sample_shape is None else numbers(sample_shape, int, "--sample-shape"),
        "mean": None if mean is None else numbers(mean, float, "--mean"),
        "std": None if std is None else numbers(std, float, "--std"),
    }
    place = out or options.default_out(checkpoint.removeprefix("torchvision:"))
    with from_here(factory), quiet_stdout(), stages() as (progress, say):
        report = similarity(
            checkpoint,
            data,
            new=new,
            new_labels=new_labels or None,
            held_out=held_out,
            checkpoints=checkpoints,
            samples=samples,
            probes=probes,
            neighbours=neighbours,
            controls=controls,
            seed=seed,
            out=place,
            split=split,
            dtype=dtype,
            memory=memory,
            device=device,
            download=download,
            trust_pickle=trust_pickle,
            resume=resume,
            progress=progress,
            say=say,
            **{name: value for name, value in given.items() if value is not None},
        )
    if as_json:
        print_json(report.summary())
        return
    console = results()
    for sentence in report.summary()["reading"]:
        console.print(sentence, markup=False)
    assert report.folder is not None
    console.print(f"report: {report.folder / 'index.html'}", markup=False, soft_wrap=True)

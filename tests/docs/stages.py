"""What every page takes as given: the stage on which its blocks are run.

A page that explains ``gk.kernel(model, x)`` has a ``model`` and an ``x`` in mind, and a file where it says
``path/to/pipeline``. The function here that carries the page's name makes them, as small as possible, in the empty
folder in which the blocks run. A page that needs nothing has no stage.

To add one, or to extend one that a new block has outgrown::

    @stage("docs/page.md")
    def page(here: Any) -> Stage:
        props.pipeline()                                  # files, in the working folder
        return Stage({"model": props.perceptron()})       # names that the blocks use and do not make
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from tests.docs import props

Names = Mapping[str, Any]


@dataclass
class Stage:
    """What surrounds the blocks of a page.

    Attributes:
        names: given before the first block.
        later: number of a Python block on the page, from 0 → names that are given before it, or a function that makes
            them then.
        instead: words of a block → what is run in their place (blanks may be any; a number in a loop that takes hours,
            a loop that the text leaves out as ``...``). Words that are not there fail the test.
        apart: files that are removed before every block, for pages whose blocks are alternatives.
        left_out: commands that are not run, and why. All are parsed in any case.
    """

    names: Names = field(default_factory=dict)
    later: Mapping[int, Names | Callable[[], Names]] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


STAGES: dict[str, Callable[[Any], Stage]] = {}


def stage(page: str) -> Callable[[Callable[[Any], Stage]], Callable[[Any], Stage]]:
    """Register the stage of a page; the function gets pytest's ``monkeypatch``."""

    def register(make: Callable[[Any], Stage]) -> Callable[[Any], Stage]:
        STAGES[page] = make
        return make

    return register


LIKE_README = "the same command as in README.md"


@stage("README.md")
def readme(here: Any) -> Stage:
    props.pipeline()
    props.pictures("images")
    props.pictures("real-images", side=4, count=16)
    props.pictures("val", classes=("cat", "dog"))
    props.pictures("photos", count=4)
    props.own_gan()
    props.resnet(here)
    module, x_test = props.perceptron(), torch.randn(3, 4)
    batch = (torch.randn(6, 4), torch.randint(3, (6,)))
    optimizer = torch.optim.Adam(module.parameters())
    return Stage(
        {
            "module": module, "optimizer": optimizer, "loss_fn": props.cross_entropy, "x_test": x_test,
            "x": torch.randn(6, 4),
            "group_of": lambda ids, batch: batch[1], "batch": batch,
            "train_step": props.step_of(module, optimizer, props.cross_entropy),
            "unet": props.unet(), "scheduler": props.noise_schedule(), "probe_images": torch.rand(4, 1, 8, 8),
            "step": 0,
        },
        instead={
            "levels=24, samples=16, probes=8": "levels=3, samples=4, probes=2, controls=False",
            'real="real-images/"': 'real="real-images/", latents=32, jacobians=8',
            "... # path.batch(batch, ids=ids) before": "path.batch(batch, ids=range(6)); train_step(batch)  #",
        },
        left_out={"genkernel gan dcgan-mnist": "as in docs/mode-collapse.md"},
    )  # fmt: skip


@stage("assets/ddpm-mnist/README.md")
def shipped_denoiser(here: Any) -> Stage:
    props.shipped("assets")
    return Stage()


@stage("docs/checkpoints.md")
def checkpoints(here: Any) -> Stage:
    from tests.gan import generators

    props.pipeline()
    props.hub(here)
    props.own_gan()
    conv, leaky, flat = torch.nn.Conv2d, torch.nn.LeakyReLU(0.2), torch.nn.Flatten()
    return Stage(
        {
            "unet": props.unet(), "scheduler": props.noise_schedule(),
            "netG": torch.nn.Sequential(torch.nn.ConvTranspose2d(100, 3, 4), torch.nn.Tanh()),
            "netD": torch.nn.Sequential(conv(3, 4, 3), leaky, flat, torch.nn.Linear(16, 1)),
            "stylegan": generators.StyleGAN().double(), "biggan": conditional_generator(1000),
        }
    )  # fmt: skip


def conditional_generator(classes: int) -> torch.nn.Module:
    from tests.gan.generators import LabelEmbedding

    return LabelEmbedding(4, classes, (1, 3, 3))


@stage("docs/classifiers.md")
def classifiers(here: Any) -> Stage:
    props.resnet(here)
    props.own_gan()
    props.pictures("val", classes=("cat", "dog"))
    props.pictures("photos", count=4)
    props.digits("mnist.npz", "train", "test", count=60)
    draw = np.random.default_rng(0)
    np.savez("emoji32.npz", images=draw.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    np.savez("test.npz", x=draw.random((6, 8, 8), dtype=np.float32))
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    net.pretrained_cfg = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 8, 8)}  # as timm's networks have it
    return Stage({"net": net}, instead={"--samples 100": "--samples 20"})


@stage("docs/cli.md")
def command_line(here: Any) -> Stage:
    props.pipeline()
    props.pictures("images")
    for epoch in ("10", "100"):
        props.finished_run(f"runs/epoch-{epoch}")
    props.monitor_log("training/monitor.jsonl")
    return Stage(instead={"--live": "--live --once"})


@stage("docs/diffusion.md")
def diffusion(here: Any) -> Stage:
    props.pipeline()
    props.pictures("images")
    return Stage(instead={"levels=4, samples=4": "levels=3, samples=4"}, left_out={"genkernel diffusion": LIKE_README})


@stage("docs/effective-gram.md")
def effective_gram(here: Any) -> Stage:
    return Stage(instead={'"steps": 600': '"steps": 20', "samples(2000)": "samples(50)"})


@stage("docs/engine.md")
def engine(here: Any) -> Stage:
    module = torch.nn.ModuleDict({"down_blocks": props.perceptron(), "head": torch.nn.Linear(3, 2)})
    module.forward = lambda x: module["head"](module["down_blocks"](x))  # type: ignore[method-assign]
    props.save(copy.deepcopy(module), "early.safetensors")
    x, y = torch.randn(3, 4), torch.randn(2, 4)
    return Stage({"module": module, "x": x, "y": y, "optimizer": props.stepped(module, lambda net: net(x).square())})


@stage("docs/index.md")
def index(here: Any) -> Stage:
    return Stage(left_out={"genkernel doctor": LIKE_README, "genkernel diffusion": LIKE_README})


@stage("docs/large-runs.md")
def large_runs(here: Any) -> Stage:
    return Stage({"model": props.perceptron(), "x": torch.randn(6, 4)})


@stage("docs/mode-collapse.md")
def mode_collapse(here: Any) -> Stage:
    props.own_gan()
    props.pictures("real-images", side=4, count=16)
    props.digits("mnist.npz", "train", "test", count=40)
    return Stage(instead={"latents=512": "latents=32, jacobians=8"})


@stage("docs/monitor.md")
def monitor(here: Any) -> Stage:
    net, batches = props.unet(), props.noisy_batches()
    return Stage(
        {
            "unet": net, "scheduler": props.noise_schedule(), "ema": copy.deepcopy(net), "loader": batches,
            "probe_images": torch.rand(4, 1, 8, 8),
            "train_step": props.step_of(net, torch.optim.Adam(net.parameters()), props.noise_losses),
        }
    )  # fmt: skip


@stage("docs/monitor-integrations.md")
def monitor_integrations(here: Any) -> Stage:
    for package in ("accelerate", "lightning", "transformers"):
        pytest.importorskip(package)
    plain = monitor(here)
    net, step = plain.names["unet"], plain.names["train_step"]

    def accelerate() -> Names:
        from accelerate import Accelerator

        return {
            "accelerator": Accelerator(cpu=True), "model": net, "optimizer": torch.optim.Adam(net.parameters()),
            "step": 0, "train_step": step,
        }  # fmt: skip

    def lightning() -> Names:
        import lightning.pytorch as L

        return {"L": L}

    def trainer() -> Names:
        from transformers import Trainer, TrainingArguments

        inputs, classes = torch.randn(8, 4), torch.randint(3, (8,))
        return {
            "Trainer": Trainer, "arguments": TrainingArguments("trainer", use_cpu=True, report_to=[]),
            "model": props.perceptron(), "data": list(zip(inputs, classes, strict=True)), "inputs": inputs,
            "classes": classes,
        }  # fmt: skip

    def group() -> Names:
        from torch.distributed import HashStore, init_process_group

        init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        return {
            "device": "cpu",
            "mon": gk.Monitor(net, scheduler=plain.names["scheduler"], data=plain.names["probe_images"]),
        }

    def sharded() -> Names:
        from torch.distributed.fsdp import fully_shard

        return {"model": fully_shard(props.unet())}

    return Stage(
        plain.names,
        later={1: accelerate, 2: lightning, 3: trainer, 4: group, 5: sharded},
        instead={"with accelerator.accumulate(model): ...": "with accelerator.accumulate(model): train_step(batch)"},
        apart=("monitor.jsonl",),
    )


@stage("docs/numbers.md")
def numbers(here: Any) -> Stage:
    props.shipped("assets")
    return Stage()


@stage("docs/operators.md")
def operators(here: Any) -> Stage:
    model = props.perceptron(outputs=4)
    size = sum(p.numel() for p in model.parameters())
    return Stage(
        {"model": model, "x": torch.randn(3, 4), "v": torch.randn(12), "u": torch.randn(size), "w": torch.randn(3, 4)}
    )


@stage("docs/paths.md")
def paths(here: Any) -> Stage:
    net, x, y = props.perceptron(), torch.randn(12, 4), torch.randint(3, (12,))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)

    def batch_of(ids: Any, **extras: Any) -> Any:
        rows = torch.as_tensor(ids)
        return x[rows], y[rows]

    shared = {
        "net": net, "optimizer": optimizer, "x_test": torch.randn(8, 4),
        "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer), "batch_of": batch_of,
        "loader": [(ids, batch_of(ids)) for ids in ((0, 1, 2), (3, 4, 5, 6))],
        "plan": [((0, 1, 2, 3), 120, 1), ((8, 9), 310, 2)],
        "margin": lambda module, x: module(x)[:, 0] - module(x)[:, 1],
        "train_step": props.step_of(net, optimizer, props.cross_entropy),
    }  # fmt: skip

    def diffusion() -> Names:
        unet = props.unet()
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
        return {
            "unet": unet, "scheduler": props.noise_schedule(), "held_out_images": torch.rand(16, 1, 8, 8),
            "optimizer": optimizer, "loss_fn": props.noise_losses, "batches": props.noisy_batches(size=8),
            "train_step": props.step_of(unet, optimizer, props.noise_losses),
        }  # fmt: skip

    def gan() -> Names:
        G = torch.nn.Sequential(torch.nn.ConvTranspose2d(64, 1, 4), torch.nn.Tanh())
        g_optimizer = torch.optim.Adam(G.parameters())

        def g_losses(module: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
            return module(z).square().flatten(1).mean(1)

        return {
            "G": G, "g_optimizer": g_optimizer, "g_losses": g_losses, "latents": torch.randn(3, 64, 1, 1),
            "classes_of": lambda images: (images.flatten(1)[:, 0] > 0).long(), "draws": torch.randn(2, 6, 64, 1, 1),
            "train_step": props.step_of(G, g_optimizer, g_losses), "names": ["dark", "light"],
        }  # fmt: skip

    return Stage(
        shared,
        later={2: diffusion, 3: gan},
        instead={
            "... # the loop, unchanged": "train_step(batch_of(ids, t=t, seed=seed))",
            '... # batches with an entry "t"': "for batch in batches: path.batch(batch); train_step(batch)",
            "... # path.batch(z) before the generator's forward pass": "for z in draws: path.batch(z); train_step(z)",
        },
    )


@stage("docs/preconditioners.md")
def preconditioners(here: Any) -> Stage:
    class Network(torch.nn.Module):
        """With the parts whose names the page uses."""

        def __init__(self) -> None:
            super().__init__()
            self.mid_block, self.fc, self.head = torch.nn.Linear(4, 5), torch.nn.Linear(5, 6), torch.nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, y: Any = None) -> torch.Tensor:
            return self.head(torch.tanh(self.fc(torch.tanh(self.mid_block(x)))))

    def cross_entropy(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, batch["y"], reduction="none")

    module, x = Network(), torch.randn(3, 4)
    fc, eye = module.fc.weight, torch.eye(6)
    return Stage(
        {
            "module": module, "optimizer": props.stepped(module, lambda net: net(x).square()), "x": x,
            "ema": copy.deepcopy(module), "batch": {"x": x, "y": torch.tensor([0, 1, 2])},
            "cross_entropy": cross_entropy,
        },
        later={1: {"d": torch.rand(fc.shape), "kept": fc > 0, "L": eye, "R": eye, "fn": lambda rows: rows}},
    )  # fmt: skip


@stage("docs/reading-the-plots.md")
def reading_the_plots(here: Any) -> Stage:
    for name in ("ring", "bad"):
        props.reference_gan(f"runs/{name}")
    return Stage()


@stage("docs/sketches.md")
def sketches(here: Any) -> Stage:
    props.shipped("assets")
    model, x = props.perceptron(), torch.randn(4, 4)
    return Stage(
        {"model": model, "x": x, "other": gk.sketch(model, x + 1, dim=4096, seed=0)},
        instead={
            "images[:32]": "images[:6]", "999, 32": "999, 6", "eye(32": "eye(6", "range(8)": "range(2)",
            "(256, 1024, 4096, 16384, 65536)": "(64, 256)",
        },
    )  # fmt: skip


@stage("docs/spectra.md")
def spectra(here: Any) -> Stage:
    props.pipeline()
    props.pictures("images")
    props.finished_run()
    net, x = props.perceptron(), torch.randn(8, 4)
    gk.kernel(net, x).save("kernel.npz")
    np.save("labels.npy", np.arange(8) % 2)
    return Stage(instead={"--denoiser path/to/pipeline": "--denoiser path/to/pipeline --images 4 --steps 2"})

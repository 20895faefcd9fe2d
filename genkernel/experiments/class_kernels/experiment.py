"""Kernels of digits and of colour images before and after training: do blocks of classes emerge, and of what.

Section 5.1 of Guo, He, Morel (figure 2, second half): a convolutional network with three stages (16, 32, 64 channels),
max pooling, fully connected layers (128 for MNIST, 256 and 128 for colour) and dropout 0.3 learns ten classes by SGD
with momentum, and the normalised kernel of ten images per class is looked at before and after. Learning rate, batch,
number of training images and epochs did not survive in the text: ours are 0.015 with momentum 0.9, 20, 28 per class,
and as many epochs as bring the loss to 0.1, at most 80. The paper's colour images are CIFAR-10's. Ours are emoji of
32 × 32 pixels, whose classes are ranges of Unicode code points that show things of one kind (flags, faces, hands,
people, animals, food, vehicles, sky, office, buttons), without skin tones, each picture once.

The paper does not say which scalar of ten logits it differentiates. Two are measured: the sum of all logits, and the
trace kernel Σ_o ⟨∇f_o, ∇f_o⟩. Controls: the untrained network, images held out from training, the kernel without the
last layer, networks that learned permuted labels, and the gradient of the logit of the label, which has the labels in
it before anything is learned.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.class_kernels.found import Case, Structure
from genkernel.experiments.class_kernels.outcome import KERNELS, OWN, report
from genkernel.experiments.class_kernels.task import (
    BATCH,
    CLASSES,
    FILES,
    MOMENTUM,
    QUICK,
    RATE,
    Images,
    Setting,
    draw,
    learn,
    network,
)
from genkernel.experiments.outcome import Outcome

Array = NDArray[np.float64]

SUM, TRACE = KERNELS


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Class blocks and alignment of kernels before and after training.

    Args:
        data: a folder with ``mnist.npz`` and ``emoji32.npz``; without it every claim is undecided.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold them.
    """
    from tqdm import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, *FILES.values())
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome(
        "class-kernels",
        asdict(setting)
        | {"quick": quick, "seed": seed, "rate": RATE, "momentum": MOMENTUM, "batch": BATCH, "data": data is not None},
    )
    jobs = [(name, seed + k) for name in FILES for k in range(setting.seeds)] if data is not None else []
    found: dict[str, list[Case]] = {name: [] for name in FILES} if data is not None else {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, one in tqdm(jobs, disable=not progress, desc="class-kernels"):
        images = draw(data or "", name, setting, one)
        classes[name] = images.names
        found[name].append(measure(images, name, setting, one, keep=one == seed))
    report(outcome, found, classes, setting, seed)
    return outcome


def measure(images: Images, name: str, setting: Setting, seed: int, *, keep: bool) -> Case:
    """Train on true and on permuted labels, and look at kernels before and after.

    Args:
        keep: the matrices, for figures.
    """
    from genkernel.experiments.fitting import accuracy

    rows = _by_class(images.y, setting.shown)
    sides = {"training images": (images.x[rows], images.y[rows]), "held-out images": _ordered(images, setting.shown)}
    found: dict[tuple[str, str, str], Structure] = {}
    start = network(images, name, seed).eval()
    for side, (x, y) in sides.items():
        found |= {("untrained", side, kernel): one for kernel, one in _structures(start, x, y, keep).items()}
    net = network(images, name, seed)
    loss = learn(net, images.x, images.y, setting.epochs, setting.until, seed)
    for side, (x, y) in sides.items():
        found |= {("trained", side, kernel): one for kernel, one in _structures(net, x, y, keep).items()}
    permuted = images.y[torch.randperm(len(images.y), generator=torch.Generator().manual_seed(seed))]
    other = network(images, name, seed)
    permuted_loss = learn(other, images.x, permuted, setting.permuted_epochs, setting.until, seed)
    rows = _by_class(permuted, setting.shown)
    for kernel, one in _structures(other, images.x[rows], permuted[rows], keep).items():
        found["permuted labels", "training images", kernel] = one
    return Case(
        found,
        loss,
        accuracy(net, images.x, images.y),
        accuracy(net, images.held, images.held_y),
        permuted_loss,
        accuracy(other, images.x, permuted),
    )


def _by_class(labels: Tensor, count: int) -> Tensor:
    """Rows of the first so many samples of each class, ordered by class."""
    return torch.cat([(labels == c).nonzero()[:count, 0] for c in range(CLASSES)])


def _ordered(images: Images, count: int) -> tuple[Tensor, Tensor]:
    rows = _by_class(images.held_y, count)
    return images.held[rows], images.held_y[rows]


def _structures(net: nn.Module, x: Tensor, y: Tensor, keep: bool) -> dict[str, Structure]:
    """Kernel → how it is organised by these labels; of sum and trace also without the last layer."""
    import genkernel as gk
    from genkernel.spectra import cka, without_layers
    from genkernel.spectra.class_blocks import class_blocks

    def of(kernel: gk.Kernel, keep: bool) -> Structure:
        blocks = class_blocks(kernel, y)
        return Structure(
            blocks.within,
            blocks.between,
            (blocks.within_stderr, blocks.between_stderr),
            cka(kernel, y),
            kernel.normalized().values.numpy() if keep else np.zeros((0, 0)),
        )

    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    found = {}
    for name, cotangents in ((SUM, gk.total()), (TRACE, gk.exact_trace())):
        kernel = gk.kernel(net, x, cotangents=cotangents, progress=False, distributed=False)
        found[name] = of(kernel, keep)
        found[f"{name}, without last layer"] = of(without_layers(kernel, last), False)
    pairs = {"x": x, "label": y}
    own = gk.kernel(
        gk.TangentModel(net, lambda module, batch: module(batch["x"])),
        pairs,
        cotangents=gk.cotangent(lambda out, batch: nn.functional.one_hot(batch["label"], CLASSES).to(out)),
        progress=False,
        distributed=False,
    )
    found[OWN] = of(own, False)
    return found

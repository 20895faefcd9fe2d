"""Does the alignment of the tangent kernel with the labels tell how well a network will do on new images?

The abstract and section 6 of Guo, He, Morel say that centred kernel alignment between the tangent kernel and the labels
tracks training progress and correlates with final accuracy across architectures; which architectures, data and settings
did not survive in the text. Ours are fourteen small networks (fully connected, convolutional, residual, attention, a
mixer; with and without norm; several widths, depths and activations) on Fashion-MNIST of 14 × 14 pixels, all trained in
the same way: 1,000 images, 400 steps of Adam at 2e-3 in batches of 50. CKA is the unbiased one, of the trace kernel and
of the sum of logits, on training images and on images that no network has seen; the accuracy is that of 2,000 other
images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.cka_accuracy.found import Course
from genkernel.experiments.cka_accuracy.networks import SIDE, build
from genkernel.experiments.cka_accuracy.outcome import report
from genkernel.experiments.cka_accuracy.setting import QUICK, Setting
from genkernel.experiments.outcome import Outcome

Array = NDArray[np.float64]

RATE, BATCH = 2e-3, 50
FILE = "fashion-mnist"


@dataclass(frozen=True)
class Images:
    """Draws of one seed: x ``[n, 1, s, s]`` and classes ``[n]``, to train on, to look at, and for the accuracy."""

    x: Tensor
    y: Tensor
    held: Tensor
    held_y: Tensor
    test: Tensor
    test_y: Tensor


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Alignment with the labels and accuracy of networks of several architectures.

    Args:
        data: a folder with ``fashion-mnist.npz``; without it every claim is undecided.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold it.
    """
    from tqdm import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, FILE)
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome(
        "cka-accuracy",
        asdict(setting) | {"quick": quick, "seed": seed, "rate": RATE, "batch": BATCH, "data": data is not None},
    )
    found: dict[str, list[Course]] = {name: [] for name in setting.architectures} if data is not None else {}
    with tqdm(total=len(found) * setting.seeds, disable=not progress, desc="cka-accuracy") as bar:
        for one in range(seed, seed + setting.seeds) if data is not None else ():
            images = draw(data or "", setting, one)
            for name in setting.architectures:
                found[name].append(follow(name, images, setting, one))
                bar.update()
    report(outcome, found, setting, seed)
    return outcome


def draw(data: str | Path, setting: Setting, seed: int) -> Images:
    """Images of one seed, in [0, 1]; those to look at are none of those for the accuracy."""
    from genkernel.experiments.shrunk_images import shrunk

    x, y = shrunk(data, FILE, SIDE, setting.trained, split="train", seed=seed)
    other, other_y = shrunk(data, FILE, SIDE, setting.tested + setting.looked, split="test", seed=seed)
    order = torch.randperm(len(other), generator=torch.Generator().manual_seed(seed))
    x, other = (values.float().reshape(-1, 1, SIDE, SIDE) for values in (x, other[order]))
    held_y, test_y = other_y[order].split([setting.looked, setting.tested])
    return Images(x, y, other[: setting.looked], held_y, other[setting.looked :], test_y)


def follow(name: str, images: Images, setting: Setting, seed: int) -> Course:
    """Train one network and measure along the way."""
    from genkernel.experiments.fitting import accuracy, fit

    net = build(name, seed)
    sides = {
        "training images": (images.x[: setting.looked], images.y[: setting.looked]),
        "held-out images": (images.held, images.held_y),
    }
    trace: list[float] = []
    accuracies: list[float] = []
    losses: list[float] = []
    ends: dict[str, list[float]] = {}

    def look(step: int, net: nn.Module) -> None:
        trace.append(alignment(net, *sides["held-out images"], "trace"))
        accuracies.append(accuracy(net, images.test, images.test_y))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(net(images.x), images.y)))
        if step in (setting.steps[0], setting.steps[-1]):
            ends.setdefault("trace, held-out images", []).append(trace[-1])
            ends.setdefault("trace, training images", []).append(alignment(net, *sides["training images"], "trace"))
            for side, shown in sides.items():
                ends.setdefault(f"sum of logits, {side}", []).append(alignment(net, *shown, "sum of logits"))

    fit(
        net, images.x, images.y, nn.functional.cross_entropy, torch.optim.Adam(net.parameters(), lr=RATE),
        setting.steps[-1], batch=BATCH, seed=seed, look=look, at=setting.steps,
    )  # fmt: skip
    return Course(
        np.array(trace),
        {kernel: np.array(values) for kernel, values in ends.items()},
        np.array(accuracies),
        np.array(losses),
        sum(p.numel() for p in net.parameters()),
    )


def alignment(net: nn.Module, x: Tensor, y: Tensor, kernel: str) -> float:
    """Unbiased CKA of the kernel of these images with their labels."""
    import genkernel as gk
    from genkernel.spectra import cka

    cotangents = gk.exact_trace() if kernel == "trace" else gk.total()
    return cka(gk.kernel(net, x, cotangents=cotangents, by=None, progress=False, distributed=False), y)

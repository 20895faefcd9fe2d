"""Filling planar shapes with a U-Net: interpolation, failure on harder shapes, and whether the kernel tells which.

Section 6.2 of Courtois et al., *Can neural networks extrapolate?*. A U-Net learns to fill connected shapes from their
boundaries, reaches an IoU of 99.8 %, and fails when shapes become more complex; the paper takes it as a sign that the
network interpolates between known samples, and could not compute the tangent kernel of this problem. Here it is
computed, on images of 32 × 32 pixels: are the shapes that fail those without near neighbours in the kernel, and does
the kernel say more than distances of the images do?

The paper's generator of shapes is an online demo; ours draws trees of thick straight branches, at twice the size,
averaged over 2 × 2 pixels in place of Lanczos filters. 10,000 images, their size and 150 epochs are out of reach of a
few minutes on one core: numbers, network and step size in :class:`Setting` are ours. Ranger is RAdam in Lookahead.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.shape_filling import task
from genkernel.experiments.shape_filling.found import Filling
from genkernel.experiments.shape_filling.outcome import report
from genkernel.experiments.shape_filling.setting import QUICK, Setting
from genkernel.experiments.shape_filling.shapes import KINDS, intersection_over_union, shapes

Array = NDArray[np.float64]
TRAINED_KIND = next(iter(KINDS))
APART = 1_000_000  # between seeds of training and of test images


SCORES = ("similarity", "untrained similarity", "distance", "pixels", "same pixels", "length")


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """IoU on shapes of the training kind and on harder ones, beside what the kernel says of each.

    Args:
        quick: small images, few epochs: the network fills badly, and conclusions are none.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    found = [fill(setting, seed + s) for s in tqdm(range(setting.seeds), disable=not progress, desc="shape-filling")]
    outcome = Outcome("shape-filling", asdict(setting) | {"quick": quick, "seed": seed})
    report(outcome, setting, found, seed)
    return outcome


def fill(setting: Setting, seed: int) -> Filling:
    """Train one network and test it."""
    x, y = shapes(TRAINED_KIND, setting.samples, setting.size, seed)
    tests = {kind: shapes(kind, setting.tested, setting.size, seed + APART) for kind in KINDS}
    start, net = task.unet(setting.channels, seed), task.unet(setting.channels, seed)
    course = task.train(net, x, y, setting, seed)
    net.eval()
    outputs = {kind: task.filled(net, edges) for kind, (edges, _) in tests.items()}
    iou = {kind: intersection_over_union(outputs[kind], truth).double().numpy() for kind, (_, truth) in tests.items()}
    shown = {}
    for kind, (edges, truth) in tests.items():
        middle = int(np.argsort(iou[kind])[len(iou[kind]) // 2])
        shown[kind] = np.stack([t[middle, 0].double().numpy() for t in (edges, truth, outputs[kind])])
    new = {kind: edges[: setting.measured] for kind, (edges, _) in tests.items()}
    return Filling(
        course=course,
        trained=intersection_over_union(task.filled(net, x), y).double().numpy(),
        iou=iou,
        scores=scores(setting, start, net, x, new, seed),
        shown=shown,
    )


def scores(
    setting: Setting, start: task.UNet, net: task.UNet, known: Tensor, new: dict[str, Tensor], seed: int
) -> dict[str, dict[str, Array]]:
    """How near test images are to training images: by the kernel's trace over pixels, by boundary images.

    Args:
        known: all training images; those that the kernel is computed of are the first.
        new: kind → test images.
    """
    import torch

    from genkernel.spectra import novelty

    together = torch.cat(list(new.values()))
    similar = {}
    n = min(setting.compared, len(known))
    distance = torch.zeros(len(together))
    for name, one in (("untrained similarity", start), ("similarity", net)):
        K = task.kernel(one, torch.cat([known[:n], together]), setting.probes, seed)
        similar[name] = K.normalized().values[n:, :n].max(1).values
        if one is net:
            own = K.values.diagonal()[n:]
            novel = novelty(K.values[:n, :n], K.values[n:, :n], own, tolerance=task.FLOAT32)
            distance = novel.projection_distance
    cosines = task.cosines(together, known)
    each = {
        **similar,
        "distance": distance,
        "pixels": cosines.max(1).values,
        "same pixels": cosines[:, :n].max(1).values,
        "length": 4 * together.sum((1, 2, 3)),
    }
    found: dict[str, dict[str, Array]] = {}
    begin = 0
    for kind, images in new.items():
        found[kind] = {name: each[name][begin : begin + len(images)].double().numpy() for name in SCORES}
        begin += len(images)
    return found

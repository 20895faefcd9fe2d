"""A tanh network on nine classes of small digits, and what other images add to its tangent features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.rank_gap.setting import Setting

Array = NDArray[np.float64]

HELD, LEFT, FOREIGN = "held-out digits", "class left out", "Fashion-MNIST"
SETS = (HELD, LEFT, FOREIGN)
SCORES = ("projection distance", "pixels: projection distance", "pixels: nearest neighbour")


@dataclass(frozen=True)
class Digits:
    """One training on nine classes of digits, and what other images add.

    Attributes:
        seed, count: of the training and its images.
        rows, parameters: of the training features.
        steps: at which things were measured.
        ranks: of the training features ``[t]``.
        gaps: set → ``[t]``; ``vacuous`` and ``stable`` likewise.
        distances: set → d of every image at the end ``[new]``.
        areas: set → AUROC of d at the end against held-out digits, and of two scores of pixels.
        first: share of the gap's directions in the first layer's weights, by set, at the end; nan where there are none.
        unlit: the same in weights of pixels that are zero in all training images.
        accuracy: on training images and on held-out digits of the nine classes.
    """

    seed: int
    count: int
    rows: int
    parameters: int
    steps: tuple[int, ...]
    ranks: list[int]
    gaps: dict[str, list[int]]
    vacuous: dict[str, list[bool]]
    stable: dict[str, list[bool]]
    distances: dict[str, list[float]]
    areas: dict[str, dict[str, float]]
    first: dict[str, float]
    unlit: dict[str, float]
    accuracy: tuple[float, float]


def digits(folder: str | Path, count: int, setting: Setting, seed: int) -> Digits:
    """Train on digits without one class, and measure gaps of other images on the way.

    The class left out is ``seed`` modulo ten; the others are numbered anew.
    """
    from genkernel.experiments.shrunk_images import network, shrunk
    from genkernel.spectra import auroc, projection_distance, tangent_rank_gap
    from genkernel.tangent import tangent_features

    out = seed % 10
    kept = tuple(c for c in range(10) if c != out)
    size = setting.size
    x, y = shrunk(folder, "mnist", size, count, split="train", seed=seed, classes=kept)
    held, truth = shrunk(folder, "mnist", size, setting.new, split="test", seed=seed, classes=kept)
    new = {
        HELD: held,
        LEFT: shrunk(folder, "mnist", size, setting.new, split="test", seed=seed, classes=(out,))[0],
        FOREIGN: shrunk(folder, "fashion-mnist", size, setting.new, split="test", seed=seed)[0],
    }
    y, truth = y - (y > out).long(), truth - (truth > out).long()
    net = network(x.shape[1], setting.width, len(kept), seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    gaps: dict[str, list[Any]] = {name: [] for name in SETS}
    J = tangent_features(net, x)
    for step in range(setting.image_steps[-1] + 1):
        if step in setting.image_steps:
            J = tangent_features(net, x)
            for name, images in new.items():
                gaps[name].append(tangent_rank_gap(J, tangent_features(net, images)))
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        if step < setting.image_steps[-1]:
            optimizer.step()
    scores: dict[str, dict[str, Array]] = {name: {} for name in SCORES}
    for name, images in new.items():
        own = tangent_features(net, images)
        sizes = own.square().sum(2)
        d = projection_distance(J, own)
        scores[SCORES[0]][name] = ((d.square() * sizes).sum(1) / sizes.sum(1)).sqrt().numpy()
        scores[SCORES[1]][name] = projection_distance(x, images).numpy()
        scores[SCORES[2]][name] = torch.cdist(images, x).min(1).values.numpy()
    last = {name: found[-1] for name, found in gaps.items()}
    weights = setting.width * x.shape[1]  # of the first layer, which come first
    dark = (x.max(0).values == 0).expand(setting.width, -1).reshape(-1)

    def share(name: str, chosen: Tensor | slice) -> float:
        gap = last[name]
        return (
            math.nan
            if gap.directions is None or not gap.gap
            else float(gap.coordinates[:weights][chosen].sum()) / gap.gap
        )

    with torch.no_grad():
        accuracy = tuple(float((net(at).argmax(1) == to).double().mean()) for at, to in ((x, y), (held, truth)))
    return Digits(
        seed=seed,
        count=count,
        rows=J.shape[0] * J.shape[1],
        parameters=J.shape[2],
        steps=setting.image_steps,
        ranks=[gap.trained.value for gap in gaps[HELD]],
        gaps={name: [gap.gap for gap in found] for name, found in gaps.items()},
        vacuous={name: [gap.vacuous for gap in found] for name, found in gaps.items()},
        stable={name: [gap.stable for gap in found] for name, found in gaps.items()},
        distances={name: values.tolist() for name, values in scores[SCORES[0]].items()},
        areas={
            name: {score: auroc(by[HELD], by[name]).value for score, by in scores.items()} for name in (LEFT, FOREIGN)
        },
        first={name: share(name, slice(None)) for name in SETS},
        unlit={name: share(name, dark) for name in SETS},
        accuracy=accuracy,  # type: ignore[arg-type]
    )

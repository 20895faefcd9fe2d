"""A few samples of every cluster, to be looked at."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genkernel.gan.clusters import Clusters
from genkernel.gan.results import SampleSheet

CLUSTERS, EACH = 12, 14  # at most so many
SIDE = 64  # pixels; larger images are averaged down to this


def sample_sheet(samples: Tensor, found: Clusters) -> SampleSheet | None:
    """The first samples of the fullest clusters, in the clusters' order; None where samples are no images.

    Args:
        samples: ``[n, C, H, W]``; of one or three channels all are shown, of others the first. In [-1, 1] or in
            [0, 1] they are shown as they are, otherwise from their smallest to their largest value.
        found: the clusters of the latents.
    """
    if samples.dim() != 4 or min(samples.shape[2:]) < 4:
        return None
    fullest = np.flatnonzero(found.occupancy > 0)
    fullest = fullest[np.argsort(-found.occupancy[fullest], kind="stable")][:CLUSTERS]
    shown = sorted(int(c) for c in fullest)
    rows = [np.flatnonzero(found.labels == c)[:EACH] for c in shown]
    low, high = _range(samples)
    strips = []
    for chosen in rows:
        images = samples[torch.from_numpy(chosen).to(samples.device)].float().cpu()
        images = ((images - low) / (high - low)).clamp(0, 1)
        images = images if images.shape[1] in (1, 3) else images[:, :1]
        if max(images.shape[2:]) > SIDE:
            scale = SIDE / max(images.shape[2:])
            images = F.interpolate(images, scale_factor=scale, mode="area", recompute_scale_factor=True)
        strips.append(_png((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()))
    return SampleSheet(clusters=shown, counts=[len(r) for r in rows], strips=strips)


def _range(samples: Tensor) -> tuple[float, float]:
    low, high = float(samples.min()), float(samples.max())
    if low >= -0.01 and high <= 1.01:
        return 0.0, 1.0
    if low >= -1.01 and high <= 1.01:
        return -1.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _png(images: NDArray[np.uint8]) -> str:
    """Images ``[k, H, W, C]`` beside each other, as a PNG in base64: files of numbers stay small with it."""
    from PIL import Image

    wide = np.concatenate(list(images), axis=1)
    stream = io.BytesIO()
    Image.fromarray(wide[..., 0] if wide.shape[2] == 1 else wide).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def images_of(sheet: SampleSheet, row: int) -> NDArray[np.uint8]:
    """The images of one row ``[k, H, W]`` or ``[k, H, W, 3]``."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(sheet.strips[row]))) as picture:
        wide = np.asarray(picture)
    return np.stack(np.split(wide, sheet.counts[row], axis=1))

"""Areas under the curve of novelty scores, and what networks and images leave open about them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.experiments.novelty_task import FOREIGN, OTHER, SEEN, UNSEEN, Setting

Array = NDArray[np.float64]


def ranked_pairs(known: Array, new: Array) -> Array:
    """1 where the new image scores higher, 1/2 in a tie ``[known, new]``: its mean is the AUROC.

    Raises:
        InputError: NaN or infinite scores.
    """
    if not (np.isfinite(known).all() and np.isfinite(new).all()):
        raise InputError("scores have NaN or infinite entries: there is no AUROC of them")
    return (new[None, :] > known[:, None]) + 0.5 * (new[None, :] == known[:, None])


def resampled(pairs: NDArray[np.floating[Any]], resamples: int, seed: int) -> Array:
    """Mean AUROC over networks in every bootstrap resample of networks, known and new images ``[resamples, ...]``.

    Args:
        pairs: ``[networks, ..., known, new]``. The same draws for all of ``...``, so that differences are paired; and
            the same images for all networks.
    """
    draw = np.random.default_rng(seed)
    networks, known, new = pairs.shape[0], *pairs.shape[-2:]
    found = []
    for _ in range(resamples):
        a = (np.bincount(draw.integers(known, size=known), minlength=known) / known).astype(pairs.dtype)
        b = (np.bincount(draw.integers(new, size=new), minlength=new) / new).astype(pairs.dtype)
        w = np.bincount(draw.integers(networks, size=networks), minlength=networks) / networks
        found.append(np.tensordot(w, (pairs @ b) @ a, 1))
    return np.array(found)


def areas_of(found: list[dict[str, Any]], kind: str, setting: Setting, seed: int) -> dict[str, Any]:
    """Of one architecture: set → score → mean AUROC with interval, each network's, and all resamples."""
    result: dict[str, Any] = {}
    for name in (OTHER, *FOREIGN):
        mine = [f for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
        scores = [*mine[0]["scores"]]
        pairs = np.stack([
            np.stack([ranked_pairs(f["scores"][s][SEEN], f["scores"][s][name]) for s in scores]) for f in mine
        ]).astype(np.float32)  # fmt: skip
        each = pairs.mean((-2, -1), dtype=np.float64)
        drawn = resampled(pairs, setting.resamples, seed)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        result[name] = {
            s: {"mean": float(each[:, i].mean()), "low": float(low[i]), "high": float(high[i]),
                "sd over networks": float(each[:, i].std(ddof=1)) if len(each) > 1 else math.nan,
                "each": each[:, i].tolist(), "drawn": drawn[:, i]}
            for i, s in enumerate(scores)
        }  # fmt: skip
    return result

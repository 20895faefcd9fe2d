"""Areas under the curve of novelty scores, and what networks and images leave open about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.experiments.out_of_distribution.task import FOREIGN, OTHER, SEEN, UNSEEN, Setting

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


def resampled_means(groups: Sequence[Array], resamples: int, seed: int) -> Array:
    """Means of groups of images in every bootstrap resample of networks and images ``[resamples, groups]``.

    Args:
        groups: values ``[networks, images]``. The same networks for all groups, so that differences are paired.
    """
    draw = np.random.default_rng(seed)
    networks = len(groups[0])
    found = []
    for _ in range(resamples):
        chosen = draw.integers(networks, size=networks)
        own = [group[chosen].mean(0) for group in groups]
        found.append([values[draw.integers(len(values), size=len(values))].mean() for values in own])
    return np.array(found)


def resampled_errors(scores: Array, right: NDArray[np.bool_], resamples: int, seed: int) -> tuple[Array, Array]:
    """AUROC of scores for a network's errors: of every network, and their mean in every resample.

    Args:
        scores: ``[networks, scores, images]``, higher where an error is expected.
        right: whether networks are right ``[networks, images]``; each of them errs at least once and not always.

    Returns:
        ``[networks, scores]`` and ``[resamples, scores]``, of networks and images, the same draws for all scores.
    """
    draw = np.random.default_rng(seed)
    networks, kinds, images = scores.shape
    good = right.astype(np.float64)
    pairs = np.stack([[ranked_pairs(one, one) for one in each] for each in scores])
    pairs *= good[:, None, :, None] * (1 - good)[:, None, None, :]  # only of what is right with what is wrong

    def areas(weights: Array) -> Array:
        return ((pairs @ weights) @ weights) / ((good @ weights) * ((1 - good) @ weights))[:, None]

    found = []
    for _ in range(resamples):
        w = np.bincount(draw.integers(images, size=images), minlength=images).astype(np.float64)
        chosen = draw.integers(networks, size=networks)
        with np.errstate(invalid="ignore"):
            found.append(np.nanmean(areas(w)[chosen], axis=0))
    return areas(np.ones(images)), np.array(found).reshape(resamples, kinds)


def interval(each: Array, drawn: Array) -> tuple[float, float, float]:
    """Mean over networks, and 95 % of it for other networks and other images (NaN with one network).

    Few networks make two corrections to the bootstrap necessary. Resamples of ``n`` of them have ``(n - 1) / n`` of the
    variance of their mean, and quantiles are those of Student's t, with degrees of freedom by how much of the variance
    is the networks' (Satterthwaite, 1946): ``n - 1`` if all of it, those of a normal distribution if none.

    Args:
        each: one value per network ``[n]``.
        drawn: the mean in resamples of networks and images.
    """
    return spread(each, float(np.var(drawn, ddof=1)) if len(drawn) > 1 else math.nan)


def spread(each: Array, resampled: float) -> tuple[float, float, float]:
    """:func:`interval` from the variance of the resamples alone."""
    from scipy.stats import t

    mean = float(np.mean(each))
    if len(each) < 2:
        return mean, math.nan, math.nan
    own = float(np.var(each, ddof=1)) / len(each)
    total = resampled + own / len(each)
    if total <= 0:
        return mean, mean, mean
    freedom = (len(each) - 1) * (total / own) ** 2 if own > 0 else math.inf
    half = float(t.ppf(0.975, freedom)) * total**0.5
    return mean, mean - half, mean + half


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
        ends = [interval(each[:, i], drawn[:, i])[1:] for i in range(len(scores))]
        result[name] = {
            s: {"mean": float(each[:, i].mean()), "low": max(0.0, ends[i][0]), "high": min(1.0, ends[i][1]),
                "sd over networks": float(each[:, i].std(ddof=1)) if len(each) > 1 else math.nan,
                "each": each[:, i].tolist(), "drawn": drawn[:, i]}
            for i, s in enumerate(scores)
        }  # fmt: skip
    return result


def difference(areas: dict[str, Any], kind: str, name: str, one: str, other: str) -> tuple[float, float, float]:
    """By how much the AUROC of one score is above another's, on the same networks and images, with 95 %."""
    a, b = areas[kind][name][one], areas[kind][name][other]
    return interval(np.subtract(a["each"], b["each"]), a["drawn"] - b["drawn"])

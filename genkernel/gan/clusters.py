"""Clusters of latents: by known modes, by a classifier's classes, or by k-means on what is generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, NonFiniteError
from genkernel.gan.answers import Features, answers
from genkernel.gan.lloyd import Fit, lloyd, nearest, principal_axes

Array = NDArray[np.float64]
COMPONENTS = 50  # that samples are reduced to
_SEEN = 2000  # samples whose silhouettes are looked at: it takes all their distances


class OneClusterError(InputError):
    """All samples are the same, so that there is nothing to tell apart."""


@dataclass
class Clusters:
    """Which cluster each latent belongs to.

    Attributes:
        labels: ``[n]`` 0 … M-1 for the latents analysed.
        names: ``[M]``.
        by: how they were found, in one sentence.
        assign: cluster of other samples, from images ``[k, ...]``; None where it is not known.
        fixed: the clusters are known beforehand (modes or classes), so that an empty one means a missing mode.
        kind: ``"modes"``, ``"classes"`` (of a classifier), ``"labels"`` (that a conditional generator was given),
            ``"k-means"``, ``"kernel"``, ``"one"`` (all together) or ``"given"``.
    """

    labels: NDArray[np.int64]
    names: list[str]
    by: str
    assign: Callable[[Tensor], NDArray[np.int64]] | None = None
    fixed: bool = True
    kind: str = "given"

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Latents per cluster, ``[M]``."""
        return np.bincount(self.labels, minlength=self.count)

    @property
    def occupancy(self) -> Array:
        """Share of the latents per cluster, ``[M]``."""
        return self.sizes / max(1, len(self.labels))

    def order(self) -> NDArray[np.int64]:
        """Positions of the latents, cluster by cluster."""
        return np.argsort(self.labels, kind="stable")


def nearest_mode(images: Tensor, modes: Tensor, names: Sequence[str] | None = None) -> Clusters:
    """The nearest of known modes ``[M, *sample]``, in Euclidean distance.

    Raises:
        InputError: fewer than two modes, or modes of another shape than the samples.
    """
    if len(modes) < 2 or modes.shape[1:] != images.shape[1:]:
        raise InputError(
            f"modes have shape [M, {', '.join(map(str, images.shape[1:]))}] with M ≥ 2, not {tuple(modes.shape)}"
        )
    centres = modes.detach().double().cpu().flatten(1)

    def assign(x: Tensor) -> NDArray[np.int64]:
        return torch.cdist(x.detach().double().cpu().flatten(1), centres).argmin(1).numpy()

    return Clusters(
        assign(images), _names(names, len(modes), "mode"), "the nearest of the known modes", assign, kind="modes"
    )


def by_class(images: Tensor, classifier: Features, names: Sequence[str] | None = None) -> Clusters:
    """The most probable class of a classifier: ``classifier(images) -> logits [n, classes]``.

    Raises:
        InputError: the classifier does not answer with one row of at least two classes per image.
    """

    def assign(x: Tensor) -> NDArray[np.int64]:
        return answers(classifier, x, fewest=2).argmax(1).numpy()

    logits = answers(classifier, images, fewest=2)
    labels = logits.argmax(1).numpy()
    return Clusters(
        labels, _names(names, logits.shape[1], "class"), "the classes of a classifier", assign, kind="classes"
    )


def by_label(labels: Any, classes: int, names: Sequence[str] | None = None) -> Clusters:
    """The labels that a conditional generator was given."""
    y = torch.as_tensor(labels).long().cpu().numpy()
    return Clusters(y, _names(names, classes, "class"), "the labels that the generator was given", kind="labels")


def k_means(
    images: Tensor, features: Features | None = None, count: int | None = None, seed: int = 0, most: int = 12
) -> Clusters:
    """k-means on features of the samples (the samples themselves by default).

    Args:
        features: ``features(images) -> [n, f]``; without it the samples, reduced to 50 principal components.
        count: number of clusters; by default the one from 2 to ``most`` with the largest mean silhouette.
        seed: of the starting centres.

    Raises:
        InputError: fewer samples than clusters.
        OneClusterError: all samples are the same.
        NonFiniteError: a feature is NaN or infinite.
    """
    points = _points(images, features)
    n = len(points)
    if count is not None and not 1 <= count <= n:
        raise InputError(f"{n} latents cannot be put into {count} clusters")
    centre, axes = points.mean(0, dtype=torch.float64), None
    if features is None and points.shape[1] > COMPONENTS and n > COMPONENTS:
        axes = principal_axes(points, COMPONENTS, seed).double()

    def reduced(p: Tensor) -> Tensor:  # about the mean, so that distances keep their digits far from 0
        parts = (part - centre for part in p.split(256))  # a copy of all images in float64 would be a large one
        return torch.cat([part if axes is None else part @ axes for part in parts])

    spread, size = float(points.std(0, correction=0).max()), float(points.abs().max())
    if not spread > 1e-7 * (1 + size):
        raise OneClusterError(
            "all samples are the same, so there is one cluster only: the generator ignores its latent"
        )
    compared = reduced(points)
    if count is not None:
        fit = lloyd(compared, count, seed)
        how = f"k-means, {count} clusters"
    else:
        fit, score = _clearest([lloyd(compared, k, seed) for k in range(2, min(most, n - 1) + 1)], compared, seed)
        how = f"k-means, {len(fit.centres)} clusters (the largest mean silhouette, {score:.2f})"

    def assign(x: Tensor) -> NDArray[np.int64]:
        return nearest(reduced(_points(x, features)), fit.centres)[1].numpy()

    where = " on the samples" if features is None else " on features of the samples"
    labels = fit.labels.numpy()
    return Clusters(labels, _names(None, len(fit.centres), "cluster"), how + where, assign, False, "k-means")


def _clearest(fits: list[Fit], points: Tensor, seed: int) -> tuple[Fit, float]:
    """The fit whose clusters have the largest mean silhouette, and that."""
    from sklearn.metrics import silhouette_score

    seen = np.sort(np.random.default_rng(seed).permutation(len(points))[:_SEEN])
    some, labels = points.numpy()[seen], [fit.labels.numpy()[seen] for fit in fits]
    scores = [silhouette_score(some, those) if len(set(those)) > 1 else -1.0 for those in labels]
    if max(scores) == -1.0:
        raise OneClusterError("all samples are the same but for single ones, so there is one cluster only")
    best = int(np.argmax(scores))
    return fits[best], scores[best]


def one_cluster(n: int) -> Clusters:
    """All n latents together."""
    return Clusters(np.zeros(n, dtype=np.int64), ["all"], "one cluster", fixed=False, kind="one")


def by_kernel(kernel: Array, count: int, seed: int = 0) -> Clusters:
    """Spectral clustering of a normalised kernel ``[n, n]`` over latents; negative entries count as 0."""
    from sklearn.cluster import SpectralClustering

    if not 2 <= count < len(kernel):
        raise InputError(f"{len(kernel)} latents cannot be put into {count} clusters")
    affinity = np.clip(kernel, 0, None)
    labels = SpectralClustering(count, affinity="precomputed", random_state=seed % 2**32).fit_predict(affinity)
    return Clusters(
        labels.astype(np.int64), _names(None, count, "cluster"), "the rows of the kernel", None, False, "kernel"
    )


def _points(images: Tensor, features: Features | None) -> Tensor:
    found = images.detach() if features is None else answers(features, images)
    points = (found if found.dtype == torch.float64 else found.float()).cpu().flatten(1)
    if not points.isfinite().all():
        raise NonFiniteError("the features that clusters are made from hold NaN or infinity")
    return points


def _names(given: Sequence[str] | None, count: int, what: str) -> list[str]:
    if given is None:
        return [f"{what} {k}" for k in range(count)]
    if len(given) != count:
        raise InputError(f"{count} clusters need {count} names, not {len(given)}")
    return list(map(str, given))

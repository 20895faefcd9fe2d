"""What :func:`~genkernel.gan.analysis.analyze` needs beside the analyses: its stages, clusters, and comparisons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, MissingError
from genkernel.gan import coverage as covering
from genkernel.gan.answers import Features, answers
from genkernel.gan.clusters import (
    Clusters,
    OneClusterError,
    by_class,
    by_label,
    k_means,
    nearest_mode,
    one_cluster,
)
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.generator import Generator
from genkernel.gan.latents import check_labels
from genkernel.gan.results import Coverage

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # stage, number of stages done, number of stages

AS_THEY_ARE = "the samples themselves"  # in which they are compared without features
STAGES = (
    "samples", "clusters", "coverage", "kernel", "jacobian", "drive", "score", "transport", "one step",
    "discriminator", "game",
)  # fmt: skip


class Stages:
    """Tells how far an analysis is, and measures how long each stage takes.

    Attributes:
        seconds: of wall time, by stage.
    """

    def __init__(self, progress: Progress | None):
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(name, STAGES.index(name), len(STAGES))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@dataclass
class Real:
    """Real samples, and what a conditional discriminator is told of them.

    Attributes:
        samples: ``[m, *out]``.
        labels: classes ``[m]``; None where they were not given.
    """

    samples: Tensor
    labels: Tensor | None

    def take(self, count: int, seed: int) -> Real:
        """At most ``count`` of them, chosen at random."""
        rows = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        labels = None if self.labels is None else self.labels[rows]
        return Real(self.samples[rows.to(self.samples.device)], labels)


def real_samples(generator: Generator, real: Tensor | None, labels: Any) -> Real | None:
    """The real samples as given.

    Raises:
        InputError: samples of another shape than the generator's, labels that do not fit, or labels alone.
    """
    if real is None:
        if labels is not None:
            raise InputError("labels of real samples were given, but no real samples")
        return None
    if not isinstance(real, Tensor) or tuple(real.shape[1:]) != generator.output_shape:
        have = tuple(real.shape[1:]) if isinstance(real, Tensor) else type(real).__name__
        raise InputError(f"the real samples have shape {have}, the generated ones {generator.output_shape}")
    if labels is not None:
        most = generator.classes if generator.classes is not None else int(torch.as_tensor(labels).max()) + 1
        labels = check_labels(labels, len(real), most)
    return Real(real.to(generator.device, generator.dtype), labels)


def labels_for(discriminator: Discriminator, batch: dict[str, Any]) -> Tensor | None:
    """What a conditional discriminator is told of generated samples: what the generator was told.

    Raises:
        InputError: the generator is not conditional.
    """
    if discriminator.classes is None:
        return None
    y = batch.get("y")
    if not isinstance(y, Tensor):
        raise InputError("the discriminator is conditional, the generator is not: give it classes=")
    return y.argmax(1) if y.dim() == 2 else y


def find_clusters(
    generator: Generator,
    batch: dict[str, Any],
    samples: Tensor,
    asked: str | int | Clusters,
    modes: Tensor | None,
    classifier: Features | None,
    features: Features | None,
    seed: int,
    missing: list[str],
) -> Clusters:
    """The clusters of the latents; one only, with a sentence in ``missing``, where all samples are the same.

    Raises:
        InputError: clusters of other latents, or an unknown word.
    """
    if isinstance(asked, Clusters):
        if len(asked.labels) != len(samples):
            raise InputError(f"the clusters are of {len(asked.labels)} latents, {len(samples)} are analysed")
        return asked
    count = asked if isinstance(asked, int) and not isinstance(asked, bool) else None
    if count is None and asked != "auto":
        raise InputError(f"clusters is 'auto', a number, or Clusters, not {asked!r}")
    if count is None and modes is not None:
        return nearest_mode(samples, modes)
    if count is None and generator.classes is not None:
        return by_label(batch["y"], generator.classes)
    if count is None and classifier is not None:
        return by_class(samples, classifier)
    try:
        return k_means(samples, features, count, seed)
    except OneClusterError as error:
        missing.append(str(error))
        return one_cluster(len(samples))


def stratified(clusters: Clusters, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of ``count`` latents, shared out over the clusters by their size, at least one of each that has any."""
    n = len(clusters.labels)
    count = min(count, n)
    sizes = clusters.sizes
    present = np.flatnonzero(sizes)
    quota = np.zeros(clusters.count, dtype=np.int64)
    if count >= len(present):
        quota[present] = 1
    while quota.sum() < count:
        lack = np.where(quota < sizes, sizes / n * count - quota, -np.inf)
        quota[int(lack.argmax())] += 1
    rng = np.random.default_rng([seed, 5])
    chosen = [rng.permutation(np.flatnonzero(clusters.labels == c))[:k] for c, k in enumerate(quota) if k]
    return np.sort(np.concatenate(chosen))


@dataclass
class Compared:
    """Samples in the features that they are compared in.

    Attributes:
        generated: ``[n, f]``, or ``[n, *out]`` without features.
        real: ``[m, f]``; None without real samples.
        words: what the features are.
    """

    generated: Tensor
    real: Tensor | None
    words: str


def compared(samples: Tensor, real: Real | None, features: Features | None) -> Compared:
    """Both kinds of samples in the same features."""
    true = None if real is None else real.samples
    if features is None:
        return Compared(samples, true, AS_THEY_ARE)
    true = None if true is None else answers(features, true)
    return Compared(answers(features, samples), true, "the features that were given")


def cover(
    samples: Tensor,
    pair: Compared,
    modes: Tensor | None,
    mode_std: float | Tensor | None,
    classifier: Features | None,
    missing: list[str],
    real: Real | None = None,
) -> Coverage:
    """What the samples cover, with sentences in ``missing`` on what cannot be known.

    Args:
        real: real samples with their labels, by which the classifier is tried.
    """
    counted = None
    doubt = "" if classifier is None or real is None else _doubt(classifier, real)
    if modes is not None and mode_std is not None:
        counted = covering.mode_coverage(samples, modes, mode_std, at_least=None)
    elif doubt:
        missing.append(f"{doubt}: the classes of its samples are not counted")
    elif classifier is not None:
        counted = covering.class_coverage(samples, classifier, at_least=None)
    elif modes is not None:
        missing.append("modes were given without mode_std, how far a mode reaches: how many are covered is not known")
    else:
        missing.append("neither modes nor a classifier were given: how many modes are covered is not known")
    near, distance = None, math.nan
    if pair.real is None:
        missing.append("no real samples were given: precision, recall and the distance to the data are missing")
    else:
        distance = covering.frechet_distance(pair.generated, pair.real)
        try:
            near = covering.neighbours(pair.real, pair.generated)
        except MissingError as error:
            missing.append(str(error))
    return Coverage(counted, near, covering.diversity(pair.generated, pair.real), distance, pair.words)


def _doubt(classifier: Features, real: Real) -> str:
    """Why a classifier does not know these data; empty where it does, or where that cannot be told."""
    if real.labels is None:
        return ""
    logits = answers(classifier, real.samples, fewest=2)
    labels = real.labels.cpu()
    if int(labels.max()) >= logits.shape[1]:
        return f"the real samples have classes up to {int(labels.max())}, the classifier {logits.shape[1]} of them"
    right = float((logits.argmax(1) == labels).double().mean())
    chance = float(torch.bincount(labels).max()) / len(labels)
    return f"the classifier is right on {right:.0%} of the real samples" if right < max(0.5, 1.5 * chance) else ""

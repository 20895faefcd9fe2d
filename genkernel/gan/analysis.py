"""``analyze``: what drives a generator, how its updates spread over its latents, and its latent geometry."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, MissingError, ZeroGradientError
from genkernel.gan import coverage as covering
from genkernel.gan import latent_kernel as kernels
from genkernel.gan.clusters import Clusters, Features, by_class, by_label, k_means, nearest_mode
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.game import drive_statistics
from genkernel.gan.generator import Generator
from genkernel.gan.latent_jacobian import LatentSpectra, latent_spectra
from genkernel.gan.losses import Loss, loss_of
from genkernel.gan.one_step import OneStep, one_step
from genkernel.gan.results import ClusterTable, Coverage, GanResult, JacobianTable
from genkernel.gan.transport import summarise, transport

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # stage, number of stages done, number of stages

STAGES = ("samples", "clusters", "coverage", "kernel", "jacobian", "drive", "transport", "one step")
FEWEST_LATENTS = 8
_STEP_LATENTS = 64  # latents of the one-step check


@dataclass
class Kept:
    """What the analysis made on the way, for figures and further work.

    Attributes:
        batch, samples: the latents and what they become ``[n, *out]``.
        drive: δ ``[n, *out]``; None without a discriminator.
        clusters: of the latents, with the rule for other samples.
        kernel: the engine's kernel over latents.
    """

    batch: dict[str, Any]
    samples: Tensor
    drive: Tensor | None
    clusters: Clusters
    kernel: Any


def analyze(
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    loss: str | Loss = "non-saturating",
    latents: int = 512,
    jacobians: int = 64,
    clusters: str | int | Clusters = "auto",
    real: Tensor | None = None,
    modes: Tensor | None = None,
    mode_std: float | None = None,
    classifier: Features | None = None,
    features: Features | None = None,
    labels: Any = None,
    precondition: Any = None,
    probes: int = 8,
    fresh: int = 128,
    check: bool = True,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[GanResult, Kept]:
    """Every analysis of one generator, with its discriminator where there is one.

    Args:
        loss: the generator's training loss: ``"non-saturating"``, ``"minimax"``, ``"hinge"``, ``"wgan"``, ``"lsgan"``,
            ``"kl"``, or a function of the logit.
        latents: n, drawn with ``seed``.
        jacobians: latents whose ∂G/∂z is computed, spread over the clusters by their size.
        clusters: ``"auto"`` (known ``modes``, else the classes of ``classifier``, else the labels of a conditional
            generator, else k-means), a number of k-means clusters, or :class:`Clusters` of these latents.
        real: real samples ``[m, *out]``, which the generated ones are compared with.
        modes: known modes ``[M, *out]``; mode_std: standard deviation of the data around them.
        classifier: ``classifier(samples) -> logits``.
        features: ``features(samples) -> [n, f]``, in which samples are clustered and compared; the samples by default.
        labels: classes of the latents of a conditional generator; they take turns by default.
        precondition: P of the transport (an optimizer, its state's diagonal, …), as for :func:`genkernel.operator`.
        probes: random probes of the kernel's trace, for more than 16 outputs.
        fresh: further latents that the updates are also evaluated at.
        check: also compare with real optimizer steps.
        seed: of latents, probes and clusters.
        dtype: of gradients; the generator's own by default.
        memory: bound on the engine's memory.
        store: where the kernel keeps finished tiles.
        progress: called before each stage.

    Returns:
        The numbers, and what was made on the way.

    Raises:
        InputError: too few latents, clusters that do not fit, an unknown loss.
        ZeroGradientError: the generator's gradients are zero.
    """
    for name, value, least in (
        ("latents", latents, FEWEST_LATENTS),
        ("jacobians", jacobians, 1),
        ("probes", probes, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} has to be a whole number of at least {least}, not {value!r}")
    loss_of(loss)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if progress is not None:
            progress(name, STAGES.index(name), len(STAGES))
        start = time.perf_counter()
        yield
        seconds[name] = time.perf_counter() - start

    missing: list[str] = []
    with stage("samples"):
        batch = generator.draw(latents, seed, labels=labels)
        samples = generator.images(batch)
    with stage("clusters"):
        found = _clusters(generator, batch, samples, clusters, modes, classifier, features, labels, seed, missing)
    with stage("coverage"):
        covered = _coverage(samples, real, modes, mode_std, classifier, features, missing)
    with stage("kernel"):
        kernel = kernels.latent_kernel(
            generator, batch, count=probes, seed=seed, dtype=dtype, memory=memory, store=store, progress=False
        )
        if not bool((kernel.norms_x > 0).any()):
            raise ZeroGradientError("no parameter of the generator moves any sample: its gradients are all zero")
        read = kernels.read(kernel, found)
    with stage("jacobian"):
        spectra = latent_spectra(generator, batch, stratified(found, jacobians, seed), dtype=dtype)
    drive = moved = updates = driving = None
    agreement = math.nan
    steps: list[OneStep] = []
    if discriminator is None:
        missing.append(
            "no discriminator was given: what drives the generator, its kernel transport and the one-step check are "
            "missing"
        )
    else:
        with stage("drive"):
            told = _labels_for(discriminator, batch, generator)
            drive = discriminator.drive(samples, loss, told).to(samples)
            # labels of real samples are not asked for
            known = real if discriminator.classes is None else None
            driving = drive_statistics(discriminator, samples, known, loss, labels=told)
        with stage("transport"):
            carried = transport(
                generator, batch, drive, found,
                fresh=generator.draw(fresh, seed, stream=1) if fresh else None,
                precondition=precondition, keep_parts=_is_planar(samples), dtype=dtype, memory=memory,
            )  # fmt: skip
            moved = summarise(carried, samples, drive, found, seed)
            agreement = kernels.agreement(read.normalized, carried.total)
            if carried.parts is not None:
                updates = carried.parts.double().flatten(2).numpy()
        if check:
            with stage("one step"):
                few = min(latents, _STEP_LATENTS)
                rows = torch.from_numpy(np.sort(stratified(found, few, seed)))
                part = {k: v[rows.to(v.device)] if isinstance(v, Tensor) else v for k, v in batch.items()}
                for optimizer in ("sgd", "adam"):
                    steps.append(one_step(generator, part, drive[rows.to(drive.device)], optimizer=optimizer))
    table = ClusterTable(found.names, found.labels, found.occupancy, found.by, found.fixed)
    result = GanResult(
        clusters=table,
        kernel=read,
        jacobian=spectra,
        jacobian_by_cluster=_by_cluster(spectra, found),
        transport=moved,
        agreement=agreement,
        drive=driving,
        one_step=steps,
        coverage=covered,
        points=samples.double().flatten(1).cpu().numpy() if _is_planar(samples) else None,
        point_updates=updates,
        missing=missing,
        meta={
            "generator": generator.describe(),
            "discriminator": None if discriminator is None else discriminator.describe(),
            "loss": loss if isinstance(loss, str) else getattr(loss, "__name__", "a function of the logit"),
            "latents": latents,
            "fresh": fresh,
            "probes": read.probes,
            "seed": seed,
            "dtype": str(dtype or generator.dtype).removeprefix("torch."),
            "preconditioner": "none" if precondition is None else "given",
            "seconds": seconds,
        },
    )
    return result, Kept(batch, samples, drive, found, kernel)


def stratified(clusters: Clusters, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of ``count`` latents, shared out over the clusters by their size, at least one of each that has any."""
    n = len(clusters.labels)
    count = min(count, n)
    sizes = clusters.sizes
    present = np.flatnonzero(sizes)
    quota = np.zeros(clusters.count, dtype=np.int64)
    if count >= len(present):
        quota[present] = 1
    while (left := count - quota.sum()) > 0:
        lack = np.where(quota < sizes, sizes / n * count - quota, -np.inf)
        quota[np.argsort(-lack, kind="stable")[: min(left, int(np.isfinite(lack).sum()))][:1]] += 1
    rng = np.random.default_rng([seed, 5])
    chosen = [rng.permutation(np.flatnonzero(clusters.labels == c))[:k] for c, k in enumerate(quota) if k]
    return np.sort(np.concatenate(chosen))


def _clusters(
    generator: Generator,
    batch: dict[str, Any],
    samples: Tensor,
    asked: str | int | Clusters,
    modes: Tensor | None,
    classifier: Features | None,
    features: Features | None,
    labels: Any,
    seed: int,
    missing: list[str],
) -> Clusters:
    if isinstance(asked, Clusters):
        if len(asked.labels) != len(samples):
            raise InputError(f"the clusters are of {len(asked.labels)} latents, {len(samples)} are analysed")
        return asked
    if isinstance(asked, int) and not isinstance(asked, bool):
        return k_means(samples, features, asked, seed)
    if asked != "auto":
        raise InputError(f"clusters is 'auto', a number, or Clusters, not {asked!r}")
    if modes is not None:
        return nearest_mode(samples, modes)
    if classifier is not None:
        return by_class(samples, classifier)
    if generator.classes is not None:
        given = torch.arange(len(samples)) % generator.classes if labels is None else labels
        return by_label(given, generator.classes)
    try:
        return k_means(samples, features, None, seed)
    except InputError as error:
        if "one cluster only" not in str(error):
            raise
        missing.append(str(error))
        return Clusters(np.zeros(len(samples), dtype=np.int64), ["all"], "one cluster", fixed=False)


def _coverage(
    samples: Tensor,
    real: Tensor | None,
    modes: Tensor | None,
    mode_std: float | None,
    classifier: Features | None,
    features: Features | None,
    missing: list[str],
) -> Coverage:
    counted = None
    if modes is not None and mode_std is not None:
        counted = covering.mode_coverage(samples, modes, mode_std)
    elif classifier is not None:
        counted = covering.class_coverage(samples, classifier)
    else:
        missing.append("neither modes nor a classifier were given: how many modes are covered is not known")
    if real is not None and tuple(real.shape[1:]) != tuple(samples.shape[1:]):
        raise InputError(
            f"the real samples have shape {tuple(real.shape[1:])}, the generated ones {tuple(samples.shape[1:])}"
        )
    fake, true = samples, real
    if features is not None:
        with torch.no_grad():
            fake, true = features(samples), None if real is None else features(real)
    near, distance = None, math.nan
    if true is None:
        missing.append("no real samples were given: precision, recall and the distance to the data are missing")
    else:
        distance = covering.frechet_distance(fake, true)
        try:
            near = covering.neighbours(true, fake)
        except MissingError as error:
            missing.append(str(error))
    words = "the samples themselves" if features is None else "the features that were given"
    return Coverage(counted, near, covering.diversity(fake, true), distance, words)


def _by_cluster(spectra: LatentSpectra, clusters: Clusters) -> JacobianTable:
    return JacobianTable(**spectra.by_cluster(clusters.labels, clusters.count))


def _labels_for(discriminator: Discriminator, batch: dict[str, Any], generator: Generator) -> Tensor | None:
    """What a conditional discriminator is told of generated samples: what the generator was told."""
    if discriminator.classes is None:
        return None
    y = batch.get("y")
    if not isinstance(y, Tensor):
        raise InputError("the discriminator is conditional, the generator is not: give it classes=")
    return y.argmax(1) if y.dim() == 2 else y


def _is_planar(samples: Tensor) -> bool:
    return samples[0].numel() == 2

"""``analyze``: what drives a generator, how its updates spread over its latents, and its latent geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError, ZeroGradientError
from genkernel.gan import latent_kernel as kernels
from genkernel.gan.answers import Features
from genkernel.gan.clusters import Clusters
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.game import drive_statistics
from genkernel.gan.generator import Generator
from genkernel.gan.latent_jacobian import latent_spectra
from genkernel.gan.losses import Loss, loss_of
from genkernel.gan.one_step import OneStep, one_steps
from genkernel.gan.per_cluster import per_cluster
from genkernel.gan.players import judged_alike, play
from genkernel.gan.results import ClusterTable, GanResult, JacobianTable
from genkernel.gan.rules import judge
from genkernel.gan.score_report import obstacle, score_report
from genkernel.gan.scores import MOST_DIMENSIONS
from genkernel.gan.sheet import sample_sheet
from genkernel.gan.stages import (
    STAGES,
    Array,
    Progress,
    Stages,
    compared,
    cover,
    find_clusters,
    labels_for,
    real_samples,
    stratified,
)
from genkernel.gan.transport import Transport, summarise, transport
from genkernel.tangent import batches

__all__ = ["STAGES", "Kept", "Progress", "analyze", "stratified"]

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
    real_labels: Any = None,
    modes: Tensor | None = None,
    mode_std: float | Tensor | None = None,
    classifier: Features | None = None,
    features: Features | None = None,
    labels: Any = None,
    precondition: Any = None,
    probes: int = 8,
    fresh: int = 128,
    check: bool = True,
    game: bool | Mapping[str, Any] = False,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[GanResult, Kept]:
    """Every analysis of one generator, with its discriminator where there is one.

    What cannot be computed is left out, with a sentence in ``GanResult.missing``: among others the transport where
    the discriminator is constant or saturated, and attraction and repulsion where samples have more dimensions than
    densities can be estimated in (:func:`genkernel.gan.score_report.obstacle`).

    Args:
        loss: the generator's training loss: ``"non-saturating"``, ``"minimax"``, ``"hinge"``, ``"wgan"``, ``"lsgan"``,
            ``"kl"``, or a function of the logit.
        latents: n, drawn with ``seed``.
        jacobians: latents whose ∂G/∂z is computed, spread over the clusters by their size.
        clusters: ``"auto"`` (known ``modes``, else the labels of a conditional generator, else the classes of
            ``classifier``, else k-means), a number of k-means clusters, or :class:`Clusters` of these latents.
        real: real samples ``[m, *out]``, which the generated ones are compared with.
        real_labels: their classes ``[m]``, for conditional generators and discriminators.
        modes: known modes ``[M, *out]``; mode_std: standard deviation of the data around them, one or ``[M]``.
        classifier: ``classifier(samples) -> logits``.
        features: ``features(samples) -> [n, f]``, in which samples are clustered and compared; the samples by default.
        labels: classes of the latents of a conditional generator; they take turns by default.
        precondition: P of the transport (an optimizer, its state's diagonal, …), as for :func:`genkernel.operator`.
        probes: random probes of the kernel's trace, for more than 16 outputs.
        fresh: further latents that the updates are also evaluated at.
        check: also compare with real optimizer steps.
        game: also find eigenvalues of the game of both players, with ``real``; for toys of up to 50,000 parameters
            together (seconds for perceptrons, longer for convolutions). In place of True, options of
            :class:`~genkernel.gan.game.GameJacobian`, such as ``{"r1": 0.2}``. On trained networks they are no verdict
            (see :class:`~genkernel.gan.results.GameReport`).
        seed: of latents, probes and clusters.
        dtype: of gradients; the generator's own by default.
        memory: bound on the engine's memory.
        store: where the kernel keeps finished tiles.
        progress: called before each stage.

    Returns:
        The numbers, and what was made on the way.

    Raises:
        InputError: too few latents, clusters or labels that do not fit, an unknown loss.
        NonFiniteError: weights, samples or gradients hold NaN or infinity.
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
    true = real_samples(generator, real, real_labels)
    stage, missing = Stages(progress), list[str]()
    with stage("samples"):
        batch = generator.draw(latents, seed, labels=labels)
        told = None if discriminator is None else labels_for(discriminator, batch)
        samples = generator.images(batch)
    with stage("clusters"):
        found = find_clusters(generator, batch, samples, clusters, modes, classifier, features, seed, missing)
    with stage("coverage"):
        pair = compared(samples, true, features)
        covered = cover(samples, pair, modes, mode_std, classifier, missing, true)
    with stage("kernel"):
        kernel = kernels.latent_kernel(
            generator, batch, count=probes, seed=seed, dtype=dtype, memory=memory, store=store, progress=False
        )
        if not bool((kernel.norms_x > 0).any()):
            raise ZeroGradientError("no parameter of the generator moves any sample: its gradients are all zero")
        read = kernels.read(kernel, found)
    with stage("jacobian"):
        spectra = latent_spectra(generator, batch, stratified(found, jacobians, seed), dtype=dtype)
    planar = samples[0].numel() == 2
    drive = driving = score = judged = played = None
    carried: Transport | None = None
    steps: list[OneStep] = []
    if discriminator is None:
        missing.append(
            "no discriminator was given: what drives the generator, its kernel transport and the one-step check are "
            "missing"
        )
    else:
        known = true
        if true is not None and discriminator.classes is not None and true.labels is None:
            known = None
            missing.append("no labels of the real samples were given: the conditional discriminator cannot judge them")
        with stage("drive"):
            drive = discriminator.drive(samples, loss, told).to(samples)
            shown, names = (None, None) if known is None else (known.samples, known.labels)
            driving = drive_statistics(
                discriminator, samples, shown, loss, labels=told,
                real_labels=None if discriminator.classes is None else names,
            )  # fmt: skip
        with stage("score"):
            if sentence := obstacle(discriminator, samples, known, modes, mode_std):
                missing.append(sentence)
            else:
                score = score_report(
                    discriminator, samples, found, drive, loss, real=known, modes=modes, mode_std=mode_std, seed=seed
                )
        with stage("transport"):
            try:
                carried = transport(
                    generator, batch, drive, found,
                    fresh=_fresh(generator, fresh, seed, labels),
                    precondition=precondition, keep_parts=planar, dtype=dtype, memory=memory,
                )  # fmt: skip
            except ZeroGradientError as error:
                missing.append(f"{error}; so the kernel transport and the one-step check are missing")
        if check and carried is not None:
            with stage("one step"):
                rows = torch.from_numpy(stratified(found, min(latents, _STEP_LATENTS), seed))
                part, force = batches.take(batch, rows), drive[rows.to(drive.device)]
                steps = one_steps(generator, part, force)
        if known is not None:
            with stage("discriminator"):
                judged = judged_alike(
                    discriminator, samples, told, known, missing, seed=seed, dtype=dtype, memory=memory
                )
    if game is not False:
        if discriminator is None or known is None:
            missing.append("the eigenvalues of the game need a discriminator, and real samples that it can judge")
        else:
            with stage("game"):
                options = game if isinstance(game, Mapping) else {}
                played = play(generator, discriminator, batch, known, loss, missing, options, seed)
    moved = None if carried is None or drive is None else summarise(carried, samples, drive, found, seed)
    by_cluster = JacobianTable(**spectra.by_cluster(found.labels, found.count))
    centres, widths = _known_modes(modes, mode_std)
    result = GanResult(
        clusters=ClusterTable(found.names, found.labels, found.occupancy, found.by, found.fixed, found.kind),
        kernel=read,
        jacobian=spectra,
        jacobian_by_cluster=by_cluster,
        transport=moved,
        agreement=math.nan if carried is None else kernels.agreement(read.normalized, carried.total),
        drive=driving,
        one_step=steps,
        coverage=covered,
        points=samples.double().flatten(1).cpu().numpy() if planar else None,
        point_updates=None if carried is None or carried.parts is None else carried.parts.double().flatten(2).numpy(),
        per_cluster=per_cluster(
            found,
            samples,
            pair,
            read,
            by_cluster,
            real=true,
            classifier=classifier,
            drive=drive,
            update=None if carried is None else carried.total,
            moved=moved,
            missing=missing,
        ),
        score=score,
        discriminator_kernel=judged,
        game=played,
        modes=centres,
        mode_std=widths,
        sheet=sample_sheet(samples, found),
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
            "seconds": stage.seconds,
        },
    )
    result.verdict = judge(result)
    return result, Kept(batch, samples, drive, found, kernel)


def _fresh(generator: Generator, count: int, seed: int, labels: Any) -> dict[str, Any] | None:
    """Further latents; their classes are as frequent as those that were asked for."""
    if not count:
        return None
    if labels is not None:
        chosen = torch.randint(len(labels), (count,), generator=torch.Generator().manual_seed(seed))
        labels = torch.as_tensor(labels)[chosen]
    return generator.draw(count, seed, stream=1, labels=labels)


def _known_modes(modes: Tensor | None, std: float | Tensor | None) -> tuple[Array | None, Array | None]:
    """Modes of few dimensions and their widths as arrays, for figures."""
    if modes is None or modes[0].numel() > MOST_DIMENSIONS:
        return None, None
    centres = modes.detach().double().cpu().flatten(1).numpy()
    if std is None:
        return centres, None
    return centres, np.broadcast_to(torch.as_tensor(std, dtype=torch.float64).cpu().numpy(), len(centres)).copy()

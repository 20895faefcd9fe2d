"""What is read of a GAN while it trains: its latents, what the discriminator sends, and what it makes of both.

Every reading uses the same latents, probes and real samples (THEORY §7), so that two readings differ by the weights
alone. Both networks are evaluated in eval mode:

- **samples**: how far apart they are, and how they are shared out over fixed regions of the sample space;
- **kernel** over latents, normalised: its effective rank and mean, region by region, and how far it has drifted;
- **jacobian**: singular values of ∂G/∂z, their condition and volume;
- **drive** δ = ∇_x ℓ_G: its size, whether it points one way for all samples, whether the loss is saturated, and how
  the discriminator tells real from generated;
- **transport**: what a step does to the samples, by the region that drives it.

Regions are clusters of real samples where these are given, else the classes that a conditional generator is told, else
clusters of the samples of the first reading. They stay the same from then on, so an empty one is a part of the data,
or of what the generator once made, that it no longer makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.gan import Discriminator, Generator, measures
from genkernel.gan.answers import Features, answers
from genkernel.gan.clusters import Clusters, OneClusterError, by_label, k_means
from genkernel.gan.coverage import diversity
from genkernel.gan.game import DISCRIMINATOR_LOSSES
from genkernel.gan.latent_jacobian import EXACT_UP_TO as SINGULAR_UP_TO
from genkernel.gan.latent_jacobian import LatentSpectra, latent_spectra
from genkernel.gan.latent_jacobian import summarise as spectra_of
from genkernel.gan.latent_kernel import EXACT_UP_TO as TRACED_UP_TO
from genkernel.gan.latent_kernel import read as read_kernel
from genkernel.gan.latents import is_whole
from genkernel.gan.losses import Loss, generator_losses, logit_gradient, loss_of
from genkernel.gan.stages import Real, labels_for, real_samples
from genkernel.monitor.average import Average
from genkernel.monitor.drift import drifts
from genkernel.monitor.finite import require_finite_weights
from genkernel.monitor.headroom import Headroom
from genkernel.monitor.input_jacobians import InputJacobians
from genkernel.monitor.trace import Array, Axis, Trace
from genkernel.monitor.update_field import UpdateField
from genkernel.monitor.watch import NEW_AXES, Values
from genkernel.monitor.weights import WeightProbe
from genkernel.spectra.effective_number import entropy_number
from genkernel.tangent import batches, exact_trace, kernel, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.fingerprint import fingerprint
from genkernel.tangent.input_jacobian import InputJacobian

SATURATED = 0.01  # of the drive without saturation, below which a sample counts as saturated
SHOWN = 64  # singular values of ∂G/∂z that are kept one by one; of larger latents only what follows from them
CLUSTERED = 2048  # real samples that regions are made from


class GanWatch:
    """Reads a generator, and what its discriminator makes of it.

    Args:
        generator: the generator with its latents.
        discriminator: of what it makes; None leaves out what needs one.
        latents: n, the latents of the kernel, and those that drive.
        real: real samples ``[m, *sample]`` in the range of the generator's, or a pair of them and their classes
            ``[m]``, which a conditional discriminator needs.
        clusters: number of regions; not asked for where a conditional generator's classes are the regions.
        loss: of the generator: a name of :data:`~genkernel.gan.losses.LOSSES`, or a function of the logit.
        probes: random cotangents of the kernel; with up to 16 outputs its trace is exact.
        jacobians: latents whose ∂G/∂z is taken, the first of them.
        receivers: latents at which updates are read, the first of them.
        samples: for diversity and occupancy.
        ema: average of the generator's weights, in any form that :class:`DenoiserWatch` takes it in.
        classifier: ``classifier(samples) -> logits [n, classes]``, for the share of each class.
        seed: of latents, probes, and of the choice of real samples.
        memory: bound on what a reading holds beside the model; None for what the training leaves free.

    Raises:
        InputError: a number is out of range, samples do not fit, or the discriminator judges something else.
    """

    kind = "gan"

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None,
        *,
        latents: int = 64,
        real: Any = None,
        clusters: int = 8,
        loss: str | Loss = "non-saturating",
        probes: int = 2,
        jacobians: int = 4,
        receivers: int = 16,
        samples: int = 256,
        ema: Any = None,
        classifier: Features | None = None,
        seed: int = 0,
        memory: str | int | None = None,
    ):
        given = {
            "latents": latents, "clusters": clusters, "probes": probes, "jacobians": jacobians,
            "receivers": receivers, "samples": samples,
        }  # fmt: skip
        least = {"latents": 3, "clusters": 2, "probes": 1, "jacobians": 1, "receivers": 2, "samples": max(3, clusters)}
        for name, value in given.items():
            if not is_whole(value) or value < least[name]:
                raise InputError(f"{name}= is a whole number of at least {least[name]}, not {value!r}")
        self.generator, self.discriminator = generator, discriminator
        self.modules: list[nn.Module] = [generator.module]
        self._n, self._counted = latents, samples
        self._loss = loss_of(loss)
        self._sides = DISCRIMINATOR_LOSSES.get(loss) if isinstance(loss, str) else None  # what it usually goes with
        self._jacobians, self._probes, self._seed = min(jacobians, latents), probes, seed
        self._headroom = Headroom(memory)
        self._z = generator.prior.draw(max(latents, samples), seed)
        self._real = _real(generator, discriminator, real, max(2, samples), seed)
        self._real_distance = math.nan if self._real is None else diversity(self._real.samples).distance
        self._conditional = generator.classes is not None and real is None
        names, self._regions = self._partition(real, clusters)
        self._clusters = clusters
        self._coverage: Coverage | None = None
        # a quarter for dense matrices as they come, as in latent_spectra
        self._inputs = InputJacobians(lambda: self._memory() // 4)
        self._field = UpdateField(generator.tangent, min(receivers, latents))
        if discriminator is not None:
            if discriminator.sample_shape != generator.output_shape:
                raise InputError(
                    f"the generator makes samples {generator.output_shape}, the discriminator takes "
                    f"{discriminator.sample_shape}"
                )
            self.modules.append(discriminator.module)
        self._weights = WeightProbe(self._parameters)
        self._ema = None if ema is None else Average(ema, generator.tangent)
        self.modules += [] if self._ema is None else self._ema.modules
        self._classifier = classifier
        self.modules += [classifier] if isinstance(classifier, nn.Module) else []
        self.axes = {"cluster": Axis("cluster", names), "parameter": self._weights.axis}
        self.arrays = {"kernel/cluster": ["cluster", "cluster"]}
        self.arrays |= {name: ["parameter"] for name in WeightProbe.ARRAYS}
        if not self._conditional:
            self.arrays["samples/occupancy"] = ["cluster"]
        if discriminator is not None:
            self.arrays |= {"transport/amplification": ["cluster", "cluster"], "transport/driving": ["cluster"]}
        values = min(math.prod(generator.latent_shape), math.prod(generator.output_shape))
        if generator.space == "z" and values <= SHOWN:
            self.axes["singular value"] = Axis(
                "singular value", [str(k) for k in range(1, values + 1)], [float(k) for k in range(1, values + 1)]
            )
            self.arrays["jacobian/singular"] = ["singular value"]
        if classifier is not None:
            count = self._classes_of(classifier)
            self.axes["class"] = Axis("class", [f"class {c}" for c in range(count)], [float(c) for c in range(count)])
            self.arrays["samples/class_share"] = ["class"]
        self.settings: dict[str, Any] = {
            "generator": generator.describe(),
            "discriminator": None if discriminator is None else discriminator.describe(),
            **given,
            "loss": loss if isinstance(loss, str) else "a function of the logit",
            "regions": self._regions_are(real),
            NEW_AXES: [] if self._conditional or self._real is not None else ["cluster"],
            "real": 0 if self._real is None else len(self._real.samples),
            "data": None if self._real is None else fingerprint(self._real.samples.cpu()),
            "ema": self._ema is not None,
        }

    def forget(self) -> None:
        """The training went back."""
        self._weights.forget()
        if self._ema is not None:
            self._ema.forget()

    def parts(self) -> dict[str, Callable[[], Values]]:
        now = _Moment(self)
        found: dict[str, Callable[[], Values]] = {
            "weights": self._weights.read,
            "samples": partial(self._samples, now),
            "kernel": partial(self._kernel, now),
            "jacobian": partial(self._jacobian, now),
        }
        if self.discriminator is not None:
            found |= {"drive": partial(self._drive, now), "transport": partial(self._transport, now)}
        if self._ema is not None:
            found["ema"] = partial(self._averaged, now)
        return found

    def derived(self, values: Values, before: Trace) -> Values:
        """How far the kernel between regions has moved since the first reading, and since the one before."""
        self._inputs.let_go()
        return drifts("kernel/cluster", values, before)

    # ------------------------------------------------------------------------ parts

    def _samples(self, now: _Moment) -> Values:
        """How diverse samples are, and how they are shared out."""
        seen = now.all[: self._counted]
        distance = diversity(seen).distance
        found: dict[str, float | Array] = {"samples/diversity": distance}
        if self._real is not None:
            found["samples/relative_diversity"] = distance / self._real_distance if self._real_distance else math.nan
        regions = now.regions
        if regions is not None:
            found |= _shares("samples/occupancy", regions(seen), len(self.axes["cluster"]))
            found["samples/effective_clusters"] = entropy_number(found["samples/occupancy"])
        if self._classifier is not None:
            logits = answers(self._classifier, seen, fewest=2)
            if not torch.isfinite(logits).all():
                raise NonFiniteError("the logits of the classifier at generated samples hold NaN or infinity")
            found |= _shares("samples/class_share", logits.argmax(1).numpy(), len(self.axes["class"]))
        return found

    def _kernel(self, now: _Moment) -> Values:
        """The normalised trace kernel over latents."""
        exact = math.prod(self.generator.output_shape) <= TRACED_UP_TO
        found = kernel(
            now.generator.tangent,
            now.batch,
            cotangents=exact_trace() if exact else probes(self._probes, self._seed),
            by=None,
            accumulate="float32",
            memory=self._memory(),
            coverage=self._coverage,
            distributed=False,
            progress=False,
        )
        self._coverage = found.coverage
        clusters = now.clusters
        one = Clusters(np.zeros(self._n, dtype=np.int64), ["all"], "one cluster")
        read = read_kernel(found, one if clusters is None else clusters)
        values: dict[str, float | Array] = {
            "kernel/effective_rank": read.effective_rank,
            "kernel/mean": read.mean_off_diagonal,
        }
        return values if clusters is None else values | {"kernel/cluster": read.by_cluster}

    def _jacobian(self, now: _Moment) -> Values:
        """Medians over latents of what the singular values of ∂G/∂z say."""
        found = self._spectra(now)
        with np.errstate(divide="ignore"):
            condition = float(np.median(np.log10(found.condition_number)))
        values: dict[str, float | Array] = {
            "jacobian/condition": condition,
            "jacobian/log_volume": float(np.median(found.log_volume)),
            "jacobian/effective_rank": float(np.median(found.effective_rank)),
        }
        if "jacobian/singular" in self.arrays:
            values["jacobian/singular"] = np.median(found.singular_values, axis=0)
        return values

    def _drive(self, now: _Moment) -> Values:
        """What the discriminator sends, and how it judges."""
        drive, slope = now.drives
        fake = now.logits
        size, unsaturated = _norms(drive), _norms(slope)
        found: dict[str, float | Array] = {
            "loss/generator": float(generator_losses(self._loss, now.answers).mean()),
            "drive/coherence": measures.signed_coherence(-drive),
            "drive/norm": float(size.mean()),
            "drive/saturated": float((size < SATURATED * unsaturated).mean()),
            "discriminator/fake_logit": float(fake.mean()),
            "discriminator/spread": float(fake.std()),
        }
        if self._real is not None:
            true = _per_sample(now.real_answers)
            found |= {
                "discriminator/real_logit": float(true.mean()),
                "discriminator/gap": float(true.mean() - fake.mean()),
                "discriminator/separation": measures.separation(fake, true),
            }
            if self._sides is not None:
                real_loss, fake_loss = self._sides
                both = (
                    generator_losses(real_loss, now.real_answers).mean(),
                    generator_losses(fake_loss, now.answers).mean(),
                )
                found["loss/discriminator"] = float(sum(both))
        return found

    def _transport(self, now: _Moment) -> Values:
        """What a step does to the samples, by the region that drives it."""
        clusters, drive = now.clusters, now.drives[0]
        if clusters is None:
            raise OneClusterError("all samples of the first reading were the same: there are no regions to drive them")
        found = self._field.read(now.batch, drive, clusters, self._memory())
        receivers = len(found.total)
        labels = clusters.labels[:receivers]
        matrix = np.full((clusters.count, clusters.count), math.nan)
        for c in np.unique(labels):
            matrix[:, c] = found.norms[:, labels == c].mean(1)
        share = found.norms.sum(1) / found.norms.sum()
        return {
            "transport/driving_dominance": measures.dominance(share),
            "transport/occupancy_dominance": measures.dominance(clusters.occupancy),
            "transport/axial_coherence": measures.axial_coherence(found.total),
            "transport/coherence": measures.signed_coherence(found.total),
            "transport/spread_gain": measures.spread_gain(now.all[:receivers].cpu(), found.total),
            "transport/amplification": matrix,
            "transport/driving": share,
        }

    def _averaged(self, now: _Moment) -> Values:
        """The average of the generator's weights, and how diverse its samples are."""
        assert self._ema is not None
        found: dict[str, float | Array] = dict(self._ema.read())
        averaged = self._ema.at()
        require_finite_weights(averaged, "the average of the generator")
        if self.generator.space == "z":  # in w the latents come from the mapping network that is trained
            made = self._inputs.at("ema", averaged, now.every, "z").outputs()
            found["ema/diversity"] = diversity(made[: self._counted]).distance
        return found

    # ------------------------------------------------------------------------ inside

    def _parameters(self) -> dict[str, Tensor]:
        """Of both networks."""
        found: dict[str, Tensor] = {f"G.{name}": p for name, p in self.generator.tangent.parameters.items()}
        if self.discriminator is not None:
            found |= {f"D.{name}": p for name, p in self.discriminator.tangent.parameters.items()}
        return found

    def _partition(self, real: Any, clusters: int) -> tuple[list[str], Callable[[Tensor], Any] | None]:
        """Names of the regions, and which of them a sample is in where that is known already."""
        names = [f"cluster {c}" for c in range(clusters)]
        if self._conditional:
            return [f"class {c}" for c in range(self.generator.classes or 0)], None
        if self._real is None:
            return names, None
        every = _real(self.generator, self.discriminator, real, CLUSTERED, self._seed)
        assert every is not None
        if len(every.samples) < clusters:
            raise InputError(f"{clusters} regions need at least as many real samples, not {len(every.samples)}")
        return names, k_means(every.samples, None, clusters, self._seed).assign

    def _regions_are(self, real: Any) -> str:
        if self._conditional:
            return "the classes that the generator is told"
        return "k-means of the samples of the first reading" if real is None else "k-means of the real samples"

    def _classes_of(self, classifier: Features) -> int:
        few = self.generator.images(self.generator.batch(self._z[:2])) if self._real is None else self._real.samples[:2]
        return answers(classifier, few, fewest=2).shape[1]

    def _spectra(self, now: _Moment) -> LatentSpectra:
        few = batches.take(now.batch, slice(0, self._jacobians))
        model = now.generator.tangent
        jacobian = self._inputs.at("jacobian", model, few, "z")
        inputs, outputs = math.prod(jacobian.input_shape), math.prod(self.generator.output_shape)
        if min(inputs, outputs) > SINGULAR_UP_TO:
            return latent_spectra(self.generator, few, seed=self._seed, memory=self._memory())
        values = []
        for _, J in jacobian.dense():
            J = J.double()
            long = J if outputs >= inputs else J.mT
            # the triangle has the same singular values
            values.append(torch.linalg.svdvals(torch.linalg.qr(long, mode="r").R))
        noise = torch.finfo(jacobian.dtype).eps * math.sqrt(max(inputs, outputs))
        return spectra_of(torch.cat(values).cpu().numpy(), True, noise, np.arange(self._jacobians))

    def _memory(self) -> int:
        return self._headroom.bytes(self.generator.device)


class _Moment:
    """What the parts of one reading share; each is made when the first of them asks for it.

    What cannot be made raises the same for every part that asks.
    """

    def __init__(self, watch: GanWatch):
        self._watch = watch

    @cached_property
    def generator(self) -> Generator:
        """With weights that are finite."""
        require_finite_weights(self._watch.generator.tangent, "the generator")
        return self._watch.generator

    @cached_property
    def discriminator(self) -> Discriminator:
        assert self._watch.discriminator is not None
        require_finite_weights(self._watch.discriminator.tangent, "the discriminator")
        return self._watch.discriminator

    @cached_property
    def every(self) -> dict[str, Any]:
        """The batch of all latents; in w they are mapped by the present mapping network."""
        return self.generator.batch(self._watch._z)

    @cached_property
    def batch(self) -> dict[str, Any]:
        """That of the n latents."""
        return batches.take(self.every, slice(0, self._watch._n))

    @cached_property
    def all(self) -> Tensor:
        """Samples of all latents."""
        return self._watch._inputs.at("samples", self.generator.tangent, self.every, "z").outputs()

    @cached_property
    def x(self) -> Tensor:
        """Samples of the n latents."""
        return self.all[: self._watch._n]

    @cached_property
    def regions(self) -> Callable[[Tensor], Any] | None:
        """Which region samples are in; None where regions say nothing about samples, or there are none yet."""
        watch = self._watch
        if watch._regions is None and not watch._conditional:
            try:
                watch._regions = k_means(self.all[: watch._counted], None, watch._clusters, watch._seed).assign
            except OneClusterError:  # a later reading may find them
                return None
        return watch._regions

    @cached_property
    def clusters(self) -> Clusters | None:
        """Of the n latents."""
        watch = self._watch
        names = watch.axes["cluster"].labels
        if watch._conditional:
            assert self.generator.classes is not None
            return by_label(self.batch["y"], self.generator.classes, names)
        if self.regions is None:
            return None
        return Clusters(self.regions(self.x), names, watch.settings["regions"], kind="k-means")

    @cached_property
    def _judge(self) -> InputJacobian:
        return self._judging("generated", self.x, labels_for(self.discriminator, self.batch))

    @cached_property
    def answers(self) -> Tensor:
        """Logits of the n samples ``[n, patches]``."""
        return self._judge.outputs()

    @cached_property
    def logits(self) -> Array:
        """Of the n samples; a map of logits counts as its mean."""
        return _per_sample(self.answers)

    @cached_property
    def real_answers(self) -> Tensor:
        """Logits of as many real samples ``[n, patches]``."""
        real = self._watch._real
        assert real is not None
        few = replace(real, samples=real.samples[: self._watch._n])
        labels = None if self.discriminator.classes is None or real.labels is None else real.labels[: self._watch._n]
        return self._judging("real", few.samples, labels).outputs()

    @cached_property
    def drives(self) -> tuple[Tensor, Tensor]:
        """δ of the loss, and of −l, which never saturates ``[n, *sample]``."""
        loss, found = self._watch._loss, self.answers
        if found.shape[1] == 1 and not self.discriminator.mixes:  # then δ = ℓ′(l) ∇l
            slope = self._judge.vjp(_unsaturated)
            weight = logit_gradient(loss, found).to(slope)
            return -weight.reshape(-1, *[1] * (slope.dim() - 1)) * slope, slope
        both = self._judge.vjps([lambda logits, _: logit_gradient(loss, logits), _unsaturated])
        return both[:, 0], both[:, 1]

    def _judging(self, name: str, x: Tensor, labels: Tensor | None) -> InputJacobian:
        judge = self.discriminator
        together = len(x) if judge.mixes else None
        return self._watch._inputs.at(name, judge.tangent, judge.batch(x, labels), "x", together)


def _real(generator: Generator, discriminator: Discriminator | None, given: Any, most: int, seed: int) -> Real | None:
    """At most so many of the real samples, with their classes.

    Raises:
        InputError: another shape, too few, not finite, or a conditional discriminator is not told their classes.
    """
    samples, labels = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    found = real_samples(generator, samples, labels)
    if found is None:
        return None
    if len(found.samples) < 2:
        raise InputError("real= is at least two samples")
    if not torch.isfinite(found.samples).all():
        raise InputError("the real samples hold NaN or infinity")
    if discriminator is not None and discriminator.classes is not None and found.labels is None:
        raise InputError("the discriminator is conditional: give real=(samples, classes)")
    return found.take(most, seed)


def _shares(name: str, labels: Any, count: int) -> dict[str, float | Array]:
    return {name: np.bincount(labels, minlength=count) / len(labels)}


def _unsaturated(logits: Tensor, _: Any) -> Tensor:
    return logit_gradient(torch.neg, logits)


def _norms(field: Tensor) -> Array:
    return field.double().cpu().flatten(1).norm(dim=1).numpy()


def _per_sample(logits: Tensor) -> Array:
    return logits.double().cpu().flatten(1).mean(1).numpy()

"""``gk.collapse``: from a generator, and its discriminator, to a report on whether its modes collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError
from genkernel.runs import Provenance, RunFolder, Stopwatch, data_sha256, kernels_of
from genkernel.workflows.arguments import (
    as_dtype,
    check_counts,
    check_device,
    check_latents,
    check_memory,
    described,
    say_nothing,
    shared_by_ranks,
    shown,
    stays_on,
)
from genkernel.workflows.files import read_optimizer
from genkernel.workflows.report import GanReport
from genkernel.workflows.resume import finished, leave, take_up

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genkernel.gan import Discriminator, Generator
    from genkernel.gan.clusters import Clusters
    from genkernel.gan.losses import Loss
    from genkernel.workflows.gan_inputs import RealSamples

DEFAULT_LOSS = "non-saturating"
_JUDGE = ("discriminator_factory", "discriminator_args", "discriminator_key")


def collapse(
    model: Any,
    *,
    discriminator: Any = None,
    latents: int = 512,
    jacobians: int = 64,
    clusters: str | int | Clusters = "auto",
    real: Any = None,
    real_range: Sequence[float] | None = None,
    real_labels: Any = None,
    modes: Any = None,
    mode_std: float | Tensor | None = None,
    classifier: Any = None,
    features: Callable[[Tensor], Tensor] | None = None,
    labels: Any = None,
    loss: str | Loss | None = None,
    precondition: Any = None,
    optimizer_state: Any = None,
    probes: int = 8,
    fresh: int = 128,
    check: bool = True,
    game: bool | Mapping[str, Any] = False,
    seed: int = 0,
    out: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    memory: str | int = "8GiB",
    device: str | torch.device | None = None,
    download: bool = False,
    trust_pickle: bool = False,
    split: str = "test",
    resume: bool = False,
    progress: Any = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> GanReport:
    """Do the modes of a generator collapse, what drives it, and what do its samples cover?

    Args:
        model: a :class:`~genkernel.gan.Generator`; a network (then with ``latent_shape=`` and whatever else
            :func:`genkernel.wrap` takes); or a path for :func:`genkernel.load`: a file of weights with ``factory=``,
            or the folder of a reference GAN, whose discriminator, loss, modes and real samples are then known.
        discriminator: a module, a :class:`~genkernel.gan.Discriminator`, or a file of weights (then with
            ``discriminator_factory=`` and ``discriminator_args=`` in ``options``, and ``discriminator_key=`` where the
            file holds several sets of weights). Without one the kernel, the latent geometry and the coverage are
            analysed, and what drives the generator is missing.
        latents: n, drawn with ``seed``; at least 8.
        jacobians: latents whose ∂G/∂z is computed.
        clusters: ``"auto"`` (known modes, else the labels of a conditional generator, else the classes of a
            classifier, else k-means), a number of k-means clusters, or :class:`~genkernel.gan.clusters.Clusters`.
        real: real samples: for images anything :func:`genkernel.load_images` reads, brought to the generator's size,
            channels and range of values; for other samples a tensor ``[m, *out]`` or a file of points (an
            ``.npz``, ``.npy`` or ``.csv``); or, for both, a torch ``Dataset`` or ``DataLoader`` of samples or of
            (samples, labels). At most ``latents`` of them are used, because most comparisons are fair at equal numbers
            only.
        real_range: the values (black, white) of the generator's images. By default that of its last tanh or
            sigmoid, or what the values of its samples leave no doubt about; what was taken is said.
        real_labels: classes ``[m]`` of all real samples that are given, for conditional networks; by default those
            that come with images, an ``.npz`` (``y`` or ``labels``) or a data set. A folder has its images in the order
            of their paths.
        modes: known modes ``[M, *out]``: a tensor, an array, or a file of points.
        mode_std: standard deviation of the data around a mode, one or ``[M]``: samples within three count for it.
        classifier: ``classifier(samples) -> logits``, the folder of a digit classifier, or ``"mnist-classifier"``,
            which is shipped.
        features: ``features(samples) -> [n, f]``, in which samples are compared; the samples themselves by default.
        labels: classes ``[n]`` of the latents of a conditional generator; they take turns by default.
        loss: the generator's training loss: a name of :data:`~genkernel.gan.losses.LOSSES` or a function of the logit.
            By default what the folder of a reference GAN says, else ``"non-saturating"``.
        precondition: P of the transport, as for :func:`genkernel.operator`.
        optimizer_state: the same from an optimizer, its ``state_dict`` or a file with one.
        probes: random probes of the trace kernel, for more than 16 outputs.
        fresh: further latents that the updates are also evaluated at.
        check: also compare the first order with real optimizer steps.
        game: also find eigenvalues of the game of both players, or options of it; for toys.
        seed: of the latents, the probes, the clusters and the choice of real samples.
        out: write the run folder there; it is claimed before the work starts.
        dtype: of the gradients (default: the generator's).
        memory: bound on the memory of the kernel computation, such as ``"8GiB"``.
        device: where to compute; by default where the model is. A model that is loaded goes to a GPU where there is
            one.
        download: allow the network for torchvision data sets.
        trust_pickle: allow a checkpoint's pickle to run code.
        split: of a data source that has several.
        resume: if ``out`` already holds this very run, read it instead of computing it again; if it holds another,
            refuse and name what differs. The finished parts of the kernel are kept in ``out/.kernels`` until the run
            is complete, and those of a run that was stopped are used.
        progress: called with (stage, stages done, number of stages) before each stage; False for none.
        say: called with one sentence for everything that was converted, assumed or reused.
        options: passed on to :func:`genkernel.load` or :func:`genkernel.wrap`.

    Returns:
        GanReport: ``.verdict``, ``.evidence``, ``.result``, ``.kernel``, ``.summary()``, ``.save(dir)``.

    With several processes, all ranks make the same call and get the same report; rank 0 alone writes and speaks.

    Raises:
        GenkernelError: see ``load``, ``load_images`` and the analysis; every message is one sentence.
    """
    from genkernel.gan.losses import loss_of
    from genkernel.tangent.distributed import current_workers, local_device

    say = say or say_nothing
    check_counts(latents=(latents, 8), jacobians=(jacobians, 1), probes=(probes, 1), fresh=(fresh, 0))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed has to be a whole number from 0 to 2^63 - 1, not {shown(seed)}")
    kind = as_dtype(dtype)
    check_memory(memory)
    check_latents(latents, memory)
    if loss is not None:
        loss_of(loss)
    if precondition is not None and optimizer_state is not None:
        raise InputError("give either precondition= or optimizer_state=, not both")
    if isinstance(labels, str):
        raise InputError(
            "labels= holds the classes of the latents; in which form a network takes them is said with "
            f"gk.wrap(module, labels={labels!r})"
        )
    import torch

    from genkernel.tangent import as_preconditioner
    from genkernel.tangent.restore import random_state_kept

    watch = Stopwatch()
    folder: RunFolder | None = None
    assumed: list[str] = []  # what neither network says of itself
    scope = ExitStack()
    # factories draw the weights that a file then replaces, and some libraries draw when they are imported
    scope.enter_context(random_state_kept())
    scope.enter_context(torch.random.fork_rng(devices=[]))
    try:
        with current_workers() as workers:
            if not workers.is_leader:
                say, progress = say_nothing, False

            def claim() -> None:
                nonlocal folder
                if out is not None:
                    folder = RunFolder.create(out, kind="gan")

            workers.lead(claim)
            with watch("load"):
                from genkernel.workflows import gan_arguments, gan_inputs
                from genkernel.workflows.gan_identity import answers_of, clusters_of, function_of, game_of, settings_of

                # whatever can be wrong without the model is found before the model is read
                check_device(device)
                clusters = gan_arguments.read_clusters(clusters, latents)
                gan_arguments.check_game(game)
                _check_source(real, split)
                state = read_optimizer(optimizer_state, trust_pickle=trust_pickle)
                if workers.world > 1 and isinstance(model, (str, Path)) and device in (None, "cuda"):
                    device = local_device()
                gen, disc, names = _networks(model, discriminator, device, download, trust_pickle, options)
                if disc is not None:
                    gan_arguments.check_players(gen, disc)
                    as_preconditioner(state if precondition is None else precondition, gen.tangent)  # for its errors
                for note in [*gen.notes, *(disc.notes if disc is not None else [])]:
                    say(note)
                if loss is None:
                    loss = names.get("loss", DEFAULT_LOSS)
                    how = "as its training record says" if "loss" in names else "which was assumed (loss= says another)"
                    if disc is not None:
                        assumed.append(f"the generator's loss is the {loss} one, {how}")
                gan_arguments.check_losses(loss, game, gen if disc is None else disc)
                labels = gan_arguments.read_labels(labels, gen, latents)
            with watch("data"):
                known = _mixture(names.get("data"), gen)
                if modes is None and known is not None:
                    modes, mode_std = known.modes, known.std if mode_std is None else mode_std
                    assumed.append(f"the {len(modes)} modes of the {names['data']} that it was trained on are known")
                centres = gan_inputs.read_modes(modes, gen)
                mode_std = gan_arguments.read_mode_std(mode_std, centres)
                counting = gan_inputs.read_classifier(classifier, gen)
                seen_in = gan_inputs.read_features(features, gen)
                if real is None and known is not None and real_labels is None:
                    found = _drawn(known, str(names["data"]), latents, seed)
                else:
                    found = gan_inputs.read_real(
                        real, gen, latents,
                        real_range=real_range, labels=real_labels, split=split, seed=seed, download=download,
                    )  # fmt: skip
                if found.samples is not None:
                    assumed.append(found.description)
                for sentence in assumed:
                    say(sentence)
                gan_arguments.check_assign(clusters, found.samples)
                if real_labels is None and gen.classes is not None:
                    real_labels = found.labels_below(gen.classes)
                elif real_labels is None:  # by which a classifier is tried
                    real_labels = None if counting is None else found.labels_below(2**31)
                else:  # of those samples that were kept
                    assert found.labels is not None
                    real_labels = found.labels
                    if gen.classes is not None:
                        gan_arguments.below("real_labels", real_labels, gen.classes)
            provenance = _provenance(
                gen, disc, names, found,
                {
                    "latents": latents,
                    "jacobians": jacobians,
                    "clusters": clusters_of(clusters),
                    "real": str(real) if isinstance(real, (str, Path)) else found.source or None,
                    "real_labels": None if real_labels is None else _digested(real_labels),
                    "modes": None if centres is None else _digested(centres),
                    "mode_std": None if mode_std is None else _number(mode_std),
                    "classifier": function_of(classifier),
                    "features": function_of(features),
                    "labels": None if labels is None else _digested(labels),
                    "loss": loss if isinstance(loss, str) else function_of(loss),
                    "preconditioner": described(optimizer_state if precondition is None else precondition),
                    "probes": probes,
                    "fresh": fresh,
                    "check": check,
                    "game": game_of(game),
                    "seed": seed,
                    "dtype": str(kind or gen.dtype).removeprefix("torch."),
                    "device": str(gen.device),
                    "memory": str(memory),
                    **settings_of(gen, disc),
                },
                answers_of(gen, disc, classifier=counting, features=seen_in, loss=loss, game=game),
            )  # fmt: skip
            provenance.processes = workers.world
            workers.agree({**shared_by_ranks(provenance), "out": out is not None, "resume": resume})
            if resume and out is not None:
                if (earlier := workers.lead(lambda: finished(out, provenance))) is not None:
                    say(f"the finished run in {out} has the same arguments, samples and weights: it is used again")
                    return earlier
                say(workers.lead(lambda: "" if folder is None else take_up(folder, provenance)))
        from genkernel.gan.analysis import analyze

        result, kept = analyze(
            gen,
            disc,
            loss=loss,
            latents=latents,
            jacobians=jacobians,
            clusters=clusters,
            real=found.samples,
            real_labels=real_labels,
            modes=centres,
            mode_std=mode_std,
            classifier=counting,
            features=seen_in,
            labels=labels,
            precondition=state if precondition is None else precondition,
            probes=probes,
            fresh=fresh,
            check=check,
            game=game,
            seed=seed,
            dtype=kind,
            memory=memory,
            store=kernels_of(out) / "kernel" if resume and out is not None else None,
            progress=progress if callable(progress) else None,
        )
        watch.seconds.update({name: float(s) for name, s in (result.meta.get("seconds") or {}).items()})
        kernel = kept.kernel if kept is not None else None
        meta = {**result.meta, "notes": [*(result.meta.get("notes") or []), *assumed]}
        if kernel is not None and kernel.coverage is not None:
            meta.setdefault("coverage", kernel.coverage.summary())
        result = replace(result, meta=meta)
        report = GanReport(result, kernel, provenance, stopwatch=watch)
        if out is None:
            provenance.complete(watch)
            return report

        def save() -> tuple[Path, Provenance]:
            assert folder is not None
            return report.save(folder), report.provenance

        with current_workers() as workers:
            # every rank waits for the page, and fails with it
            report.folder, report.provenance = workers.lead(save)
        return report
    except BaseException as error:
        if resume and folder is not None and (rest := leave(folder)):
            error.add_note(rest)
        raise
    finally:
        scope.close()
        if folder is not None:
            folder.close()


# -------------------------------------------------------------------------- networks


def _networks(
    model: Any, discriminator: Any, device: Any, download: bool, trust_pickle: bool, options: dict[str, Any]
) -> tuple[Generator, Discriminator | None, dict[str, Any]]:
    """Generator, discriminator, and what is known of their checkpoint; what was given is never moved or changed."""
    from genkernel.gan import Generator
    from genkernel.workflows.load_gan import check_discriminator_key, judge, judged, wrap_generator

    if isinstance(model, (str, Path)):
        from genkernel.workflows.load import load

        given = {"kind": "gan", "discriminator": discriminator, **options}
        gen = load(model, device=device, download=download, trust_pickle=trust_pickle, **given)
        return gen, gen.discriminator, dict(gen.checkpoint)
    factory, arguments, key = (options.pop(name, None) for name in _JUDGE)
    check_discriminator_key(key, discriminator)
    if isinstance(model, Generator):
        if options:
            raise InputError(
                f"{', '.join(sorted(options))} cannot be changed on a finished Generator: give it to gk.wrap"
            )
        gen = model
    else:
        gen = wrap_generator(_module(model), options, {})
    stays_on(gen, device)
    checkpoint = dict(gen.checkpoint)
    if discriminator is None:
        return gen, gen.discriminator, checkpoint
    disc = judge(discriminator, gen, factory, arguments, key=key, trust_pickle=trust_pickle)
    return gen, disc, {**checkpoint, "discriminator": judged(discriminator, disc, key)}


def _module(model: Any) -> nn.Module:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(f"collapse takes a generator, a network or a path, not {type(model).__name__}")
    return model


# ------------------------------------------------------------------------------ data


def _check_source(real: Any, split: str) -> None:
    """Find out quickly whether there is something at the path of real samples."""
    from genkernel.data import check_source
    from genkernel.errors import MissingError
    from genkernel.workflows.points import SUFFIXES

    if not isinstance(real, (str, Path)):
        return
    path = Path(real).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        check_source(real, split=split)
    elif not path.is_file():
        raise MissingError(f"there are no real samples at {str(real)!r}: the path does not exist")


def _mixture(data: Any, gen: Generator) -> Any:
    """The mixture in the plane that a reference GAN was trained on; None where it was none."""
    from genkernel.models.mixtures import MIXTURES

    return MIXTURES[data]() if data in MIXTURES and gen.output_shape == (2,) else None


def _drawn(mixture: Any, name: str, count: int, seed: int) -> RealSamples:
    import torch

    from genkernel.workflows.gan_inputs import RealSamples

    samples = mixture.draw(count, torch.Generator().manual_seed(seed))
    source = f"the {name} it was trained on"
    return RealSamples(samples, source, f"{count} real samples drawn from {source}")


# ------------------------------------------------------------------------ provenance


def _provenance(
    gen: Generator,
    disc: Discriminator | None,
    names: dict[str, Any],
    found: RealSamples,
    arguments: dict[str, Any],
    answers: dict[str, Any],
) -> Provenance:
    from genkernel.workflows.gan_identity import weights_of

    judge = None if disc is None else f"{disc.name} (sha256 of its weights {weights_of(disc.module)})"
    name = names.get("name") or gen.name
    checkpoint = {"name": name, "sha256": names.get("sha256"), "answers": answers}
    if disc is not None:
        checkpoint["discriminator"] = names.get("discriminator") or {"name": disc.name, "sha256": None}
    data: dict[str, Any] = {}
    if found.samples is not None:
        data = {
            "source": found.source,
            "description": found.description,
            "count": len(found.samples),
            "conversions": found.steps,
            "sha256": data_sha256(found.samples),
        }
    return Provenance(
        arguments={"checkpoint": name, "data": arguments.pop("real"), "discriminator": judge, **arguments},
        seed=arguments["seed"],
        device=arguments["device"],
        dtype=arguments["dtype"],
        checkpoint=checkpoint,
        data={"sha256": None, **data},
    )


def _digested(values: Any) -> str:
    """An array in a word."""
    import numpy as np

    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return f"{'×'.join(map(str, array.shape))} (sha256 {data_sha256(array)[:16]})"


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) else _digested(value)

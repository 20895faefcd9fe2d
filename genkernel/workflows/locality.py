"""``gk.locality``: from a denoiser and some images to a report on how local its learning is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError
from genkernel.runs import Provenance, RunFolder, Stopwatch, data_sha256, kernels_of
from genkernel.workflows.arguments import (
    as_dtype,
    check_counts,
    check_device,
    check_memory,
    described,
    say_nothing,
    shared_by_ranks,
    shown,
    stays_on,
)
from genkernel.workflows.files import read_conditioning, read_optimizer, read_schemes
from genkernel.workflows.report import Report
from genkernel.workflows.resume import finished, leave, take_up

if TYPE_CHECKING:
    import torch

    from genkernel.data import ImageSet
    from genkernel.diffusion import Denoiser

_NETWORK = ("factory", "factory_args", "key")


def locality(
    model: Any,
    data: Any,
    *,
    levels: int = 24,
    samples: int = 16,
    probes: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    timesteps: Sequence[float] | None = None,
    controls: bool = True,
    untrained: bool = True,
    weights: Mapping[str, Any] | str | Path | None = None,
    samplers: Mapping[str, Any] | str | Path | None = None,
    optimizer_state: Any = None,
    bootstrap: int = 200,
    dtype: str | torch.dtype | None = None,
    memory: str | int = "8GiB",
    device: str | torch.device | None = None,
    download: bool = False,
    trust_pickle: bool = False,
    split: str = "test",
    resume: bool = False,
    distributed: bool | None = None,
    progress: Any = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Report:
    """How local in noise level is what a denoiser has learned, what carries it, and which levels conflict?

    Args:
        model: a :class:`~genkernel.Denoiser`, a network (then with ``scheduler=`` and whatever else
            :func:`genkernel.wrap` takes), or a path or hub id for :func:`genkernel.load`.
        data: anything :func:`genkernel.load_images` reads; brought to the model's size and channels.
        levels: number of noise levels, evenly spread over the schedule.
        samples: number of images, drawn with ``seed`` when there are more; at least 2.
        probes: random probes of the trace kernel.
        seed: of the images, the noise (keyed by image and level), the probes and the bootstrap.
        out: write the run folder there; it is claimed before the work starts.
        timesteps: evaluate at these times instead of ``levels`` even ones.
        controls: also compute the controls of THEORY §6.
        untrained: with the controls, also those of a freshly initialised network.
        weights, samplers: further loss weightings or timestep densities for the what-if table: a
            mapping name → values per level or ``f(t, log_snr)``, or a JSON file
            ``{"name": [[time, weight], ...]}``.
        optimizer_state: an optimizer, its ``state_dict`` or a file with one: interference is then also
            given in its preconditioned metric.
        bootstrap: resamples over images.
        dtype: of the gradients (default: the model's); accumulation is always float64.
        memory: bound on the memory of the kernel computation, such as ``"8GiB"``.
        device: where to compute; by default where the model is. A model that is loaded goes to a GPU where
            there is one; with several processes, to that of the process (``LOCAL_RANK``).
        download: allow the network for hub ids and torchvision data sets.
        trust_pickle: allow a checkpoint's pickle to run code.
        split: of a data source that has several.
        resume: if ``out`` already holds this very run, read it instead of computing it again; if it holds
            another, refuse and name what differs. Finished kernels are kept in ``out/.kernels`` until the
            run is complete, and those of a run that was stopped are used.
        distributed: share the kernels with the other ranks of ``torch.distributed`` or torchrun, which make
            the same call and get the same report; rank 0 alone writes and speaks. None when there are
            any, False never.
        progress: called with (stage, stages done, number of stages) before each stage; or True/False to
            show or hide the engine's progress bars.
        say: called with one sentence for everything that was converted, assumed or reused.
        options: passed on to :func:`genkernel.load` or :func:`genkernel.wrap`.

    Returns:
        Report: ``.result``, ``.kernel``, ``.summary()``, ``.save(dir)``.

    Raises:
        DistributedError: another rank failed, or was given something else.
        GenkernelError: see ``load``, ``load_images`` and the analysis; every message is one sentence.
    """
    from genkernel.data import check_source
    from genkernel.tangent.distributed import current_workers, local_device

    say = say or say_nothing
    check_counts(levels=(levels, 3), samples=(samples, 2), probes=(probes, 1), bootstrap=(bootstrap, 2))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed has to be a whole number from 0 to 2^63 - 1, not {shown(seed)}")
    kind = as_dtype(dtype)
    _check_times(timesteps)
    check_memory(memory)
    watch = Stopwatch()
    folder: RunFolder | None = None
    try:
        with current_workers(distributed) as workers:
            if not workers.is_leader:
                say, progress = say_nothing, False

            def claim() -> None:
                nonlocal folder
                if out is not None:
                    folder = RunFolder.create(out, kind="diffusion")

            workers.lead(claim)
            with watch("load"):
                # whatever can be wrong without the model is found before the model is read
                check_device(device)
                if isinstance(data, (str, Path)):
                    check_source(data, split=split)
                further = read_schemes(weights), read_schemes(samplers)
                conditioning = options.get("conditioning")
                if conditioning is not None:
                    options["conditioning"] = read_conditioning(conditioning)
                state = read_optimizer(optimizer_state, trust_pickle=trust_pickle)
                if workers.world > 1 and isinstance(model, (str, Path)) and device in (None, "cuda"):
                    device = local_device()
                den = _denoiser(model, device, download, trust_pickle, options)
                for note in den.notes:
                    say(note)
            with watch("data"):
                images = images_for(den, data, samples, seed, split, download)
                say(images.describe())
                if len(images) < samples:
                    say(f"{images.source} has {len(images)} images, so {len(images)} are used instead of {samples}")
                if len(images) < 2:
                    raise InputError("locality compares different images: give at least 2")
            arguments: dict[str, Any] = {
                "checkpoint": den.checkpoint.get("name") or den.name,
                "data": str(data) if isinstance(data, (str, Path)) else images.source,
                "levels": levels if timesteps is None else None,
                "timesteps": None if timesteps is None else [float(t) for t in timesteps],
                "samples": len(images),
                "probes": probes,
                "seed": seed,
                "controls": controls,
                "untrained": untrained and controls,
                "weights": described(weights),
                "samplers": described(samplers),
                "optimizer_state": described(optimizer_state),
                "conditioning": described(conditioning),
                "bootstrap": bootstrap,
                "dtype": str(kind or den.dtype).removeprefix("torch."),
                "device": str(den.device),
                "memory": str(memory),
                # what is made of a file, whose digest does not say so
                "network": described({name: options[name] for name in _NETWORK if options.get(name)} or None),
            }
            provenance = Provenance(
                arguments=arguments,
                seed=seed,
                device=str(den.device),
                dtype=arguments["dtype"],
                checkpoint={"name": den.checkpoint.get("name") or den.name, "sha256": den.checkpoint.get("sha256")},
                data={
                    "source": images.source,
                    "description": images.describe(),
                    "count": len(images),
                    "conversions": list(images.steps),
                    "sha256": data_sha256(images.images),
                },
                processes=workers.world,
            )
            workers.agree({**shared_by_ranks(provenance), "out": out is not None, "resume": resume})
            if resume and out is not None:
                if (earlier := workers.lead(lambda: finished(out, provenance))) is not None:
                    say(f"the finished run in {out} has the same arguments, images and weights: it is used again")
                    return earlier
                say(workers.lead(lambda: "" if folder is None else take_up(folder, provenance)))
        from genkernel.diffusion.analysis import analyze

        result, kernel = analyze(
            den,
            images.images,
            levels=levels if timesteps is None else [float(t) for t in timesteps],
            samples=len(images),
            probes=probes,
            seed=seed,
            controls=controls,
            untrained=untrained,
            optimizer_state=state,
            weights=further[0],
            samplers=further[1],
            dtype=kind,
            memory=memory,
            store=kernels_of(out) if resume and out is not None else None,
            distributed=distributed,
            progress=progress,
            bootstrap=bootstrap,
        )
        watch.seconds.update({name: float(s) for name, s in (result.meta.get("seconds") or {}).items()})
        report = Report(result, kernel, provenance, stopwatch=watch)
        if out is None:
            provenance.complete(watch)
            return report
        with current_workers(distributed) as workers:
            # every rank waits for the page, and fails with it
            report.folder, report.provenance = workers.lead(lambda: _save(report, folder))
        return report
    except BaseException as error:
        if resume and folder is not None and (kept := leave(folder)):
            error.add_note(kept)
        raise
    finally:
        if folder is not None:
            folder.close()


def _save(report: Report, folder: RunFolder | None) -> tuple[Path, Provenance]:
    assert folder is not None
    return report.save(folder), report.provenance


# -------------------------------------------------------------------------- inputs


def _denoiser(model: Any, device: Any, download: bool, trust_pickle: bool, options: Mapping[str, Any]) -> Denoiser:
    """A denoiser from whatever was given; a module or denoiser is never moved."""
    from genkernel.diffusion import Denoiser

    if isinstance(model, (str, Path)):
        from genkernel.workflows.load import load

        given = {"kind": "diffusion", **options}
        return load(model, device=device, download=download, trust_pickle=trust_pickle, **given)
    if isinstance(model, Denoiser):
        if options:
            raise InputError(
                f"{', '.join(sorted(options))} cannot be changed on a finished Denoiser: give it to gk.wrap"
            )
        den = model
    else:
        from genkernel.workflows.wrap import wrap

        den = wrap(model, **options)
    stays_on(den, device)
    return den


def images_for(
    den: Denoiser, data: Any, samples: int, seed: int, split: str = "test", download: bool = False
) -> ImageSet:
    """Images of the size and channels that a denoiser takes.

    Raises:
        InputError: its samples are no images; or as for :func:`genkernel.load_images`.
    """
    from genkernel.data import load_images

    if len(den.image_shape) != 3:
        raise InputError(f"the model takes samples of shape {den.image_shape}: locality reads images [C, H, W] only")
    channels, *size = den.image_shape
    return load_images(
        data, size=(size[0], size[1]), channels=channels, limit=samples, split=split, seed=seed, download=download
    )


def _check_times(timesteps: Sequence[float] | None) -> None:
    if timesteps is None:
        return
    try:
        times = [float(t) for t in timesteps]
    except (TypeError, ValueError):
        raise InputError(f"timesteps is a list of numbers, not {timesteps!r}") from None
    if len(times) < 3 or len(set(times)) < len(times) or not all(math.isfinite(t) for t in times):
        raise InputError(f"timesteps has to hold at least 3 finite, different times, not {times}")

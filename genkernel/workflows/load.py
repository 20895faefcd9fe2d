"""``gk.load``: a checkpoint on disk, or in the hub's cache, → :class:`Denoiser`, or a GAN's :class:`Generator`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError, MissingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from genkernel.diffusion import NoiseSchedule

_KINDS = ("diffusion", "gan", "classifier")


def load(
    path: str | Path,
    kind: str | None = None,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    *,
    scheduler: Any = None,
    schedule: NoiseSchedule | None = None,
    prediction_type: str | None = None,
    sample_shape: tuple[int, ...] | None = None,
    data_range: tuple[float, float] | None = None,
    conditioning: Mapping[str, Any] | str | None = None,
    call: Any = None,
    params: Any = None,
    embedding: str | None = None,
    time_mlp: str | None = None,
    name: str | None = None,
    key: str | None = None,
    download: bool = False,
    trust_pickle: bool = False,
    **options: Any,
) -> Any:
    """Load a diffusion or flow-matching model (:class:`Denoiser`), the generator of a GAN (:class:`Generator`), or a
    :class:`Classifier`.

    Args:
        path: a diffusers pipeline or model folder, a hub id ``owner/name`` (from the local cache
            unless ``download``), a file of weights (then with ``factory``), a classifier of torchvision
            (``"torchvision:resnet18"``), or the folder of a reference GAN or classifier, as ``scripts/train_gan.py``
            writes it, whose ``training.json`` says how its networks are built; or the name of what is shipped:
            ``"ddpm-mnist"``, ``"dcgan-mnist"``, ``"dcgan-mnist-collapsed"``, ``"mnist-classifier"``.
        kind: ``"diffusion"``, ``"gan"``, ``"classifier"``, or ``None`` to find out: a generator is what
            ``latent_shape`` or a ``discriminator`` is given for, and what the folder of a GAN holds.
        factory: ``"package.module:Name"``, called with ``factory_args`` to build the network that
            a bare file of weights belongs to.
        device: where to put it; a CUDA device when there is one, else the CPU.
        scheduler, schedule: noise schedule, when the checkpoint has none or another is meant.
        key: entry of a nested weights file, such as ``"ema"``.
        download: allow the network for a hub id.
        trust_pickle: allow a pickle to run code (``--trust-pickle``).

        options: for GANs, ``discriminator=`` (a file of weights, a module, or a
            :class:`~genkernel.gan.Discriminator`), ``discriminator_factory=``, ``discriminator_args=``,
            ``discriminator_key=`` (the entry of its file), and the options of :class:`~genkernel.gan.Generator`
            (``latent_shape``, ``classes``, ``space``, ``truncation``, …); for classifiers, ``weights=`` (a file, for
            a network of torchvision) and the options of :class:`~genkernel.classifier.Classifier` (``names``,
            ``mean``, ``std``, …).

    The remaining arguments are those of :func:`genkernel.wrap`, for diffusion models.

    Returns:
        Denoiser, Generator (with its ``discriminator``, where one was given) or Classifier.

    Raises:
        MissingError: there is nothing at ``path``; a hub id that is not cached fails at once.
        UnsafeCheckpointError: reading it would run code from it.
        InputError: it is neither, or something it needs was not given.
        NonFiniteError: its weights hold NaN or infinity.
    """
    from genkernel.checkpoints import detect, resolve, sha256
    from genkernel.workflows.device import place
    from genkernel.workflows.factory import from_factory
    from genkernel.workflows.wrap import wrap

    if kind not in (None, *_KINDS):
        raise InputError(f"kind is {' or '.join(map(repr, _KINDS))} (or None to find out), not {kind!r}")
    path = shipped(path)
    foreign = {
        "scheduler": scheduler, "schedule": schedule, "prediction_type": prediction_type, "embedding": embedding,
        "data_range": data_range, "conditioning": conditioning, "time_mlp": time_mlp,
    }  # fmt: skip
    if kind == "classifier" or (kind is None and _is_classifier(path)):
        from genkernel.workflows.load_classifier import load_classifier

        if said := [option for option, value in foreign.items() if value is not None]:
            raise InputError(f"{said[0]!r} is an option of diffusion models, and {path} is a classifier")
        own = {"call": call, "params": params, "sample_shape": sample_shape, **options}
        return load_classifier(
            path, factory, factory_args, device, name=name, key=key, download=download, trust_pickle=trust_pickle,
            **{option: value for option, value in own.items() if value is not None},
        )  # fmt: skip
    if kind == "gan" or (kind is None and (options or _is_gan(path))):
        from genkernel.workflows.load_gan import load_generator, refuse_foreign

        refuse_foreign({**foreign, "sample_shape": sample_shape})
        own = {"call": call, "params": params, **options}
        return load_generator(
            path, factory, factory_args, device, name=name, key=key, trust_pickle=trust_pickle,
            **{option: value for option, value in own.items() if value is not None},
        )  # fmt: skip
    if options:
        raise InputError(f"{min(options)!r} is no option of a diffusion model")
    if _is_gan(path):
        raise InputError(f"{path} holds a GAN, not a diffusion model: analyse it with genkernel gan (gk.collapse)")
    if _is_classifier(path):
        raise InputError(f"{path} is a classifier, not a diffusion model: load it without kind=, or kind='classifier'")
    where = resolve(path, download=download)
    target = place(device)
    encoding: dict[str, Any] = {}
    notes: list[str] = []
    module: nn.Module
    if factory is not None:
        module, notes = from_factory(factory, factory_args, where, trust_pickle, key)
        module = module.to(target)
    else:
        from genkernel.diffusion import diffusers_adapter as adapter

        layout = detect(where)
        if layout.kind == "file":
            raise InputError(
                f"{where} is a file of weights, which does not say what network it belongs to: pass "
                "factory='module:Class' and a scheduler, or give a diffusers folder"
            )
        notes = list(layout.notes)
        if scheduler is None and schedule is None:
            if layout.scheduler is None:
                raise InputError(
                    f"{where} has no scheduler_config.json in or beside it: pass scheduler= (a folder or an object) or "
                    "schedule=NoiseSchedule.vp(...)"
                )
            scheduler = layout.scheduler
        module, said = adapter.load_model(layout, target, trust_pickle=trust_pickle)
        notes += said
        if layout.encoder is not None:
            encoder = adapter.load_encoder(layout.encoder, target, trust_pickle=trust_pickle)
            shape = sample_shape or adapter.default_shape(module)
            if shape is not None and len(shape) == 3:
                factor = encoder.factor
                encoding["encode"] = encoder
                encoding["image_shape"] = (encoder.channels, shape[1] * factor, shape[2] * factor)
                notes.append(
                    f"the network works on latents: images are encoded by the pipeline's {layout.encoder.name} "
                    f"(mode of the posterior, times {encoder.scale:g})"
                )
    try:
        return wrap(
            module,
            scheduler,
            schedule,
            prediction_type,
            sample_shape,
            data_range,
            conditioning,
            call,
            params,
            embedding,
            time_mlp,
            name or Path(path).name or where.resolve().name,
            checkpoint={"name": str(path), "sha256": sha256(where)},
            notes=notes,
            **encoding,
        )
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def shipped(path: str | Path) -> str | Path:
    """A path as it is where there is something; else the place of the shipped checkpoint of that name."""
    from genkernel import assets

    name = str(path)
    if not name.replace("-", "").isalnum() or Path(name).expanduser().exists():
        return path
    try:
        return assets.path(name)
    except MissingError:
        return path


def _is_gan(path: str | Path) -> bool:
    from genkernel.workflows.load_gan import is_gan_folder

    return is_gan_folder(path)


def _is_classifier(path: str | Path) -> bool:
    from genkernel.workflows.load_classifier import TORCHVISION, is_classifier_folder

    return str(path).startswith(TORCHVISION) or is_classifier_folder(path)

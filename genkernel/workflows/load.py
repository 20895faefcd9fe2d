"""``gk.load``: a checkpoint on disk, or in the hub's cache, → :class:`Denoiser`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from genkernel.diffusion import Denoiser, NoiseSchedule

_LATER = {"gan": "GAN generators", "classifier": "classifiers"}


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
) -> Denoiser:
    """Load a diffusion or flow-matching model.

    Args:
        path: a diffusers pipeline or model folder, a hub id ``owner/name`` (from the local cache
            unless ``download``), or a file of weights (then with ``factory``).
        kind: ``"diffusion"``, or ``None`` to find out.
        factory: ``"package.module:Name"``, called with ``factory_args`` to build the network that
            a bare file of weights belongs to.
        device: where to put it; a CUDA device when there is one, else the CPU.
        scheduler, schedule: noise schedule, when the checkpoint has none or another is meant.
        key: entry of a nested weights file, such as ``"ema"``.
        download: allow the network for a hub id.
        trust_pickle: allow a pickle to run code (``--trust-pickle``).

    The remaining arguments are those of :func:`genkernel.wrap`.

    Raises:
        MissingError: there is nothing at ``path``; a hub id that is not cached fails at once.
        UnsafeCheckpointError: reading it would run code from it.
        InputError: it is no diffusion model, or something it needs was not given.
        NonFiniteError: its weights hold NaN or infinity.
    """
    from genkernel.checkpoints import detect, resolve, sha256
    from genkernel.workflows.wrap import wrap

    if kind in _LATER or str(path).startswith("torchvision:"):
        what = _LATER.get(kind or "classifier", "classifiers")
        raise InputError(f"{what} are not supported by this version of genkernel: it loads diffusion models")
    if kind not in (None, "diffusion"):
        raise InputError(f"kind is 'diffusion' (or None to find out), not {kind!r}")
    where = resolve(path, download=download)
    target = _device(device)
    options: dict[str, Any] = {}
    notes: list[str] = []
    module: nn.Module
    if factory is not None:
        module, notes = _from_factory(factory, factory_args, where, trust_pickle, key)
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
                options["encode"] = encoder
                options["image_shape"] = (encoder.channels, shape[1] * factor, shape[2] * factor)
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
            **options,
        )
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def _device(device: str | torch.device | None) -> torch.device:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return target


def _from_factory(
    factory: str, factory_args: Mapping[str, Any] | None, path: Path, trust_pickle: bool, key: str | None
) -> tuple[nn.Module, list[str]]:
    """Build the network with the user's own code and fill in the weights, strictly."""
    from torch import nn

    from genkernel.checkpoints import read_state_dict

    place, _, attribute = factory.partition(":")
    if not place or not attribute:
        raise InputError(f"factory is 'package.module:Name', not {factory!r}")
    try:
        build = importlib.import_module(place)
        for part in attribute.split("."):
            build = getattr(build, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the factory {factory!r} cannot be imported: {error}") from error
    try:
        module = build(**dict(factory_args or {}))  # type: ignore[operator]
    except TypeError as error:
        raise InputError(
            f"the factory {factory!r} cannot be called with {dict(factory_args or {})}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"the factory {factory!r} built a {type(module).__name__}, not a torch.nn.Module")
    if path.is_dir():
        raise InputError(f"{path} is a folder: with a factory, give the file of weights")
    state = read_state_dict(path, trust_pickle=trust_pickle, key=key)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise InputError(f"the weights in {path} do not fit {factory!r}: {reason}") from error
    return module.eval(), [f"built by {factory}"]

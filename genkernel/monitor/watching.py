"""What is to be watched, from what the user gives: a module and its scheduler, latent shape or targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.monitor.unwrapped import unwrapped
from genkernel.monitor.watch import Watch

_WATCH = ("kind", "modules", "axes", "arrays", "settings", "parts", "derived", "forget")
_DIFFUSION = ("scheduler", "schedule")


def watch_of(
    model: Any, discriminator: Any = None, *, seed: int = 0, memory: str | int | None = None, options: dict[str, Any]
) -> Watch:
    """The watch for a model.

    Args:
        options: what was given to the monitor beside its own arguments; each belongs to the wrapper or to the watch.

    Raises:
        InputError: it cannot be known what to watch, an option is unknown, or something does not fit.
    """
    from genkernel.diffusion import Denoiser
    from genkernel.gan import Generator

    if not isinstance(model, torch.nn.Module) and hasattr(model, "parts"):
        if lacking := [name for name in _WATCH if not hasattr(model, name)]:
            raise InputError(
                f"a watch of your own has {', '.join(_WATCH)}; {type(model).__name__} lacks {', '.join(lacking)}"
            )
        if options or discriminator is not None:
            raise InputError("a watch of your own takes its options itself")
        given: Watch = model
        return given
    common = {"seed": seed, "memory": memory}
    if isinstance(model, Denoiser) or any(options.get(name) is not None for name in _DIFFUSION):
        return _of_denoiser(model, discriminator, common, dict(options))
    if isinstance(model, Generator) or discriminator is not None or options.get("latent_shape") is not None:
        return _of_gan(model, discriminator, common, dict(options))
    if options.get("targets") is None and _is_labelled(options.get("data")):
        options = options | dict(zip(("data", "targets"), options["data"], strict=True))
    if options.get("targets") is not None:
        return _of_classifier(model, common, dict(options))
    raise InputError(
        "it is not clear what to watch: give scheduler= for a diffusion model, a discriminator or latent_shape= for a "
        "GAN, or data=(inputs, classes), which is short for data=inputs, targets=classes, for a classifier"
    )


def _is_labelled(data: Any) -> bool:
    """Inputs with a class for each: a pair whose second part is whole numbers ``[n]``."""
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not isinstance(data[1], Tensor):
        return False
    return data[1].dim() == 1 and not data[1].is_floating_point() and not data[1].is_complex()


def _of_denoiser(model: Any, discriminator: Any, common: dict[str, Any], options: dict[str, Any]) -> Watch:
    from genkernel.diffusion import Denoiser
    from genkernel.diffusion.wrapping import wrap_denoiser
    from genkernel.monitor.denoiser_watch import DenoiserWatch

    if discriminator is not None:
        raise InputError("a diffusion model has no discriminator: leave it out, or leave out the scheduler")
    data = options.pop("data", None)
    if not isinstance(data, Tensor):
        have = "nothing" if data is None else type(data).__name__
        raise InputError(
            f"data= is the images that a diffusion model is watched on, [n, C, H, W] in [0, 1], not {have}"
        )
    own = _taken(options, DenoiserWatch)
    if isinstance(model, Denoiser):
        _refuse(options, set(), DenoiserWatch, "a denoiser")
        return DenoiserWatch(model, data, **own, **common)
    known = set(inspect.signature(wrap_denoiser).parameters) | set(inspect.signature(Denoiser).parameters)
    _refuse(options, known, DenoiserWatch, "a denoiser")
    return DenoiserWatch(wrap_denoiser(unwrapped(model), **options), data, **own, **common)


def _of_gan(model: Any, discriminator: Any, common: dict[str, Any], options: dict[str, Any]) -> Watch:
    from genkernel.gan import Discriminator, Generator
    from genkernel.gan.pairing import for_generator
    from genkernel.monitor.gan_watch import GanWatch

    own = _taken(options, GanWatch)
    if isinstance(model, Generator):
        _refuse(options, set(), GanWatch, "a GAN")
        generator = model
    else:
        _refuse(options, set(inspect.signature(Generator).parameters), GanWatch, "a GAN")
        generator = Generator(unwrapped(model), **options)
    if discriminator is None:
        discriminator = generator.discriminator
    elif not isinstance(discriminator, Discriminator):
        discriminator = for_generator(unwrapped(discriminator), generator)
    return GanWatch(generator, discriminator, **own, **common)


def _of_classifier(model: Any, common: dict[str, Any], options: dict[str, Any]) -> Watch:
    from genkernel.monitor.classifier_watch import ClassifierWatch

    data, targets = options.pop("data", None), options.pop("targets")
    if data is None:
        raise InputError("data= is the inputs that a classifier is watched on, and targets= are their classes")
    own = _taken(options, ClassifierWatch)
    _refuse(options, set(), ClassifierWatch, "a classifier")
    return ClassifierWatch(unwrapped(model), data, targets, **own, **common)


def _taken(options: dict[str, Any], watch: Callable[..., Any]) -> dict[str, Any]:
    """Take the options of a watch out of all."""
    return {name: options.pop(name) for name in _options(watch) if name in options}


def _options(watch: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(watch).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("seed", "memory")]


def _names(watch: Callable[..., Any], wrapper: set[str] | None = None) -> str:
    return ", ".join([*_options(watch), *sorted(wrapper or ())])


def _refuse(options: dict[str, Any], wrapper: set[str], watch: Callable[..., Any], kind: str) -> None:
    wrapper = wrapper - {"module", "options", "self"}
    if unknown := sorted(set(options) - wrapper):
        raise InputError(f"{unknown[0]!r} is no option of a monitor of {kind}: there are {_names(watch, wrapper)}")

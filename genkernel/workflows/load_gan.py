"""``gk.load`` and ``gk.wrap`` for GANs: the user's own classes, and their weights → :class:`Generator`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import GenkernelError, InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from genkernel.gan import Discriminator, Generator

_OURS = frozenset({"module", "name", "checkpoint", "notes", "discriminator"})


def options_of_generators() -> frozenset[str]:
    """Names that :func:`load_generator` passes on to :class:`Generator`."""
    from genkernel.gan import Generator

    return frozenset(inspect.signature(Generator).parameters) - _OURS


def refuse_foreign(options: Mapping[str, Any]) -> None:
    """Options of diffusion models that were given for a generator."""
    if given := [option for option, value in options.items() if value is not None]:
        raise InputError(f"{given[0]}= belongs to diffusion models, not to a generator")


def wrap_generator(module: nn.Module, options: Mapping[str, Any], foreign: Mapping[str, Any]) -> Generator:
    """A generator in memory, with its discriminator where there is one; see :func:`genkernel.wrap`."""
    from genkernel.gan import Discriminator, Generator

    refuse_foreign(foreign)
    own = {option: value for option, value in options.items() if value is not None}
    discriminator = own.pop("discriminator", None)
    _refuse_unknown(set(own) - _OURS)
    found = Generator(module, **own)
    if discriminator is not None:
        judge = discriminator if isinstance(discriminator, Discriminator) else for_generator(discriminator, found)
        found.discriminator = judge
    return found


def _refuse_unknown(options: set[str]) -> None:
    known = options_of_generators()
    if unknown := sorted(options - known):
        raise InputError(f"{unknown[0]!r} is no option of a generator: there are {', '.join(sorted(known))}")


def load_generator(
    path: str | Path,
    factory: str | None,
    factory_args: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    *,
    discriminator: str | Path | nn.Module | Discriminator | None = None,
    discriminator_factory: str | None = None,
    discriminator_args: Mapping[str, Any] | None = None,
    name: str | None = None,
    key: str | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> Generator:
    """A generator, with its discriminator where there is one.

    Args:
        path: a file of weights.
        factory: ``"package.module:Name"``, called with ``factory_args``.
        device: where to put both; a CUDA device when there is one, else the CPU.
        discriminator: a file of weights, a module, or a :class:`Discriminator`.
        discriminator_factory: its class; by default the factory's name with Discriminator for Generator.
        discriminator_args: what that is called with.
        key: entry of a nested weights file, such as ``"g_ema"``; of the generator's alone.
        options: those of :class:`Generator` (``latent_shape``, ``classes``, ``space``, ``truncation``, …).

    Raises:
        MissingError, UnsafeCheckpointError: from reading a file.
        InputError: no factory, unknown options, or weights that do not fit.
        NonFiniteError: weights hold NaN or infinity.
    """
    from genkernel.checkpoints import resolve, sha256
    from genkernel.gan import Generator
    from genkernel.workflows.factory import from_factory, place

    _refuse_unknown(set(options))
    where = resolve(path)
    if factory is None:
        raise InputError(f"{path} does not say what network it belongs to: pass factory='module:Class'")
    target = place(device)
    module, notes = from_factory(factory, factory_args, where, trust_pickle, key)
    try:
        found = Generator(
            module.to(target),
            name=name or where.stem,
            checkpoint={"name": str(path), "sha256": sha256(where)},
            notes=notes,
            **options,
        )
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    if discriminator is not None:
        found.discriminator = _judge(
            discriminator,
            discriminator_factory or _counterpart(factory),
            discriminator_args,
            found,
            target,
            trust_pickle,
        )
    return found


def _judge(
    given: Any,
    factory: str | None,
    arguments: Mapping[str, Any] | None,
    generator: Generator,
    target: torch.device,
    trust_pickle: bool,
) -> Discriminator:
    from torch import nn

    from genkernel.checkpoints import resolve
    from genkernel.gan import Discriminator
    from genkernel.workflows.factory import from_factory

    if isinstance(given, Discriminator):
        return given
    notes: list[str] = []
    name = None
    if isinstance(given, nn.Module):
        module = given
    else:
        if factory is None:
            raise InputError(
                "the file of the discriminator does not say what network it belongs to: pass "
                "discriminator_factory='module:Class'"
            )
        where = resolve(given)
        module, notes = from_factory(factory, arguments, where, trust_pickle, None)
        module, name = module.to(target), where.stem
    return for_generator(module, generator, name=name, notes=notes)


def for_generator(module: nn.Module, generator: Generator, **options: Any) -> Discriminator:
    """A discriminator of what a generator makes; conditional if it only runs with the generator's classes.

    Raises:
        InputError: it cannot judge these samples.
    """
    from genkernel.gan import Discriminator

    try:
        return Discriminator(module, generator.output_shape, **options)
    except GenkernelError:
        if generator.classes is None:
            raise
    return Discriminator(module, generator.output_shape, classes=generator.classes, **options)


def _counterpart(factory: str) -> str | None:
    """``module:DCGANDiscriminator`` for ``module:DCGANGenerator``, ``D`` for ``G``."""
    home, _, name = factory.partition(":")
    for one, other in (("Generator", "Discriminator"), ("generator", "discriminator")):
        if one in name:
            return f"{home}:{name.replace(one, other)}"
    return f"{home}:D{name[1:]}" if name.startswith("G") else None

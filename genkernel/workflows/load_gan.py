"""``gk.load`` and ``gk.wrap`` for GANs: the user's own classes, and their weights → :class:`Generator`.

The folder of a reference GAN says by itself how its networks are built. Its ``training.json`` is data, so of the names
in it only networks of :mod:`genkernel.models` are called, unless the user gives a factory.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import GenkernelError, InputError, MissingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from genkernel.gan import Discriminator, Generator

_OURS = frozenset({"module", "name", "checkpoint", "notes", "discriminator"})
RECORD, SNAPSHOTS = "training.json", "snapshots"
_GENERATOR, _DISCRIMINATOR = "G.safetensors", "D.safetensors"
_SNAPSHOT = re.compile(r"(\d+)\.G\.safetensors")


@dataclass(frozen=True)
class Training:
    """What a folder written by ``scripts/train_gan.py`` says of its networks.

    Attributes:
        name: for reports.
        generator, discriminator: files of weights.
        record: the content of ``training.json``.
    """

    name: str
    generator: Path
    discriminator: Path
    record: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        found = self.record.get("recipe")
        return found if isinstance(found, dict) else {}

    def side(self, name: str) -> tuple[str, dict[str, Any]]:
        """Factory and arguments of ``"generator"`` or ``"discriminator"``."""
        found = self.record[name]
        return found["factory"], dict(found.get("arguments") or {})

    @property
    def step(self) -> int | None:
        """Generator steps behind the weights of a snapshot; None for those at the end of the training."""
        found = _SNAPSHOT.fullmatch(self.generator.name)
        return int(found[1]) if found else None

    def facts(self) -> dict[str, str]:
        """The generator's ``loss`` at these weights and the ``data``, by name, where the recipe says them."""
        found = {"loss": self._loss(), "data": self.recipe.get("data")}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    def notes(self) -> list[str]:
        facts = self.facts()
        words = [f"on {facts['data']}"] if "data" in facts else []
        words += [f"with the {facts['loss']} loss"] if "loss" in facts else []
        words += [f"for {self.step} steps"] if self.step is not None else []
        found = [f"trained {' '.join(words)}"] if words else []
        # snapshots are of the generator that is trained, and not of its average
        if self.recipe.get("ema") and self.generator.name == _GENERATOR:
            found.append("the weights are the running average of the trained generator")
        return found

    def _loss(self) -> Any:
        from genkernel.models.gans import GANRecipe

        later = self.recipe.get("later")
        changed = later.get("loss") if isinstance(later, dict) else None
        if changed is None:
            return self.recipe.get("loss")
        try:
            last = self.recipe["steps"] - 1  # the last step that was taken
            return GANRecipe(**self.recipe).at(last if self.step is None else min(self.step, last)).loss
        except (KeyError, TypeError, ValueError, GenkernelError):  # of another version, or written by hand
            return changed if self.step is None else None  # of a snapshot it is not known


def is_gan_folder(path: str | Path) -> bool:
    """Whether a ``training.json`` says how the GAN in a folder, or one of its generator's files, is built."""
    return training_of(path) is not None


def training_of(path: str | Path) -> Training | None:
    """What is recorded of a folder, of the ``G.safetensors`` in it, or of one of its snapshots; None for nothing."""
    path = Path(path).expanduser()
    folder, weights = path, path / _GENERATOR
    if not path.is_dir():
        if not path.name.endswith(_GENERATOR):
            return None
        folder, weights = path.parent.parent if path.parent.name == SNAPSHOTS else path.parent, path
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        good = all(isinstance(record[side]["factory"], str) for side in ("generator", "discriminator"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    name = folder.resolve().name if weights.name == _GENERATOR else f"{folder.resolve().name}, {weights.stem}"
    judge = weights.with_name(weights.name.removesuffix(_GENERATOR) + _DISCRIMINATOR)
    return Training(name, weights, judge, record) if good else None


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
    from genkernel.gan.pairing import for_generator

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
    discriminator_key: str | None = None,
    name: str | None = None,
    key: str | None = None,
    trust_pickle: bool = False,
    **options: Any,
) -> Generator:
    """A generator, with its discriminator where there is one.

    Args:
        path: a file of weights, or the folder of a reference GAN (see :class:`Training`).
        factory: ``"package.module:Name"``, called with ``factory_args``.
        device: where to put both; a CUDA device when there is one, else the CPU.
        discriminator: a file of weights, a module, or a :class:`Discriminator`.
        discriminator_factory: its class; by default the factory's name with Discriminator for Generator.
        discriminator_args: what that is called with.
        discriminator_key: entry of the discriminator's file, where it holds several sets of weights. Both networks may
            come from the same file.
        key: entry of a nested weights file, such as ``"g_ema"``; of the generator's alone.
        options: those of :class:`Generator` (``latent_shape``, ``classes``, ``space``, ``truncation``, …).

    Raises:
        MissingError, UnsafeCheckpointError: from reading a file.
        InputError: no factory, unknown options, or weights that do not fit.
        NonFiniteError: weights hold NaN or infinity.
    """
    from genkernel.checkpoints import resolve, sha256
    from genkernel.gan import Generator
    from genkernel.workflows.device import place
    from genkernel.workflows.factory import from_factory

    _refuse_unknown(set(options))
    where = resolve(path)
    training = training_of(where) if factory is None or where.is_dir() else None
    notes: list[str] = []
    if training is not None:
        where, notes = training.generator, training.notes()
        if not where.is_file():
            raise MissingError(f"{path} holds no {where.name}: the training that it is of has not finished")
        factory, factory_args = _recorded(training, "generator", factory, factory_args)
        if discriminator is None and training.discriminator.is_file():
            discriminator = training.discriminator
        if isinstance(discriminator, (str, Path)):
            discriminator_factory, discriminator_args = _recorded(
                training, "discriminator", discriminator_factory, discriminator_args
            )
        name = name or training.name
    check_discriminator_key(discriminator_key, discriminator)
    if factory is None:
        raise InputError(f"{path} does not say what network it belongs to: pass factory='module:Class'")
    target = place(device)
    module, built = from_factory(factory, factory_args, where, trust_pickle, key)
    facts = training.facts() if training is not None else {}
    try:
        found = Generator(
            module.to(target),
            name=name or where.stem,
            checkpoint={"name": str(path), "sha256": sha256(where), **facts},
            notes=built + notes,
            **options,
        )
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    if discriminator is not None:
        found.discriminator = judge(
            discriminator,
            found,
            discriminator_factory or _counterpart(factory),
            discriminator_args,
            key=discriminator_key,
            trust_pickle=trust_pickle,
        )
        found.checkpoint["discriminator"] = judged(discriminator, found.discriminator, discriminator_key)
    return found


def check_discriminator_key(key: str | None, discriminator: Any) -> None:
    """Raise InputError where an entry of the discriminator's file is named, but no file."""
    if key is not None and not isinstance(discriminator, (str, Path)):
        raise InputError(
            "discriminator_key= names an entry of the discriminator's file: give that file with discriminator="
        )


def _recorded(
    training: Training, side: str, factory: str | None, arguments: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """Factory and arguments of one side: those given, else those recorded, as far as they are networks of ours."""
    from genkernel.workflows.factory import is_ours

    recorded, with_arguments = training.side(side)
    if factory is None and not is_ours(recorded):
        given = "factory=" if side == "generator" else "discriminator_factory="
        raise InputError(
            f"{training.generator.parent / RECORD} names {recorded!r}, which is no network of genkernel.models: if it "
            f"may be imported, pass {given}{recorded!r}"
        )
    return factory or recorded, with_arguments if arguments is None else arguments


def judged(given: Any, discriminator: Discriminator, key: str | None = None) -> dict[str, Any]:
    """Name and sha256 of the discriminator, for provenance; the digest is None for one in memory.

    Args:
        key: entry of the file that its weights are, where it was named.
    """
    from genkernel.checkpoints import resolve, sha256

    if isinstance(given, (str, Path)):
        found: dict[str, Any] = {"name": str(given), "sha256": sha256(resolve(given))}
        return found if key is None else {**found, "key": key}
    return {"name": discriminator.name, "sha256": None}


def judge(
    given: Any,
    generator: Generator,
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    trust_pickle: bool = False,
) -> Discriminator:
    """The discriminator of a generator's samples.

    Args:
        given: a :class:`Discriminator`, a module, or a file of weights (then with ``factory`` and its ``arguments``).
        key: entry of a file that holds several sets of weights.

    Raises:
        MissingError, UnsafeCheckpointError: from reading a file.
        InputError: no factory, weights that do not fit, or it cannot judge these samples.
        NonFiniteError: weights hold NaN or infinity.
    """
    from torch import nn

    from genkernel.checkpoints import resolve
    from genkernel.gan import Discriminator
    from genkernel.gan.pairing import for_generator
    from genkernel.workflows.factory import from_factory

    if isinstance(given, Discriminator):
        return given
    notes: list[str] = []
    name = None
    if isinstance(given, nn.Module):
        module = given
    else:
        if not isinstance(given, (str, Path)):
            raise InputError(f"a discriminator is a module or a file of weights, not {type(given).__name__}")
        if factory is None:
            raise InputError(
                "the file of the discriminator does not say what network it belongs to: pass "
                "discriminator_factory='module:Class'"
            )
        where = resolve(given)
        module, notes = from_factory(factory, arguments, where, trust_pickle, key, "discriminator_key=")
        module, name = module.to(generator.device), where.stem
    return for_generator(module, generator, name=name, notes=notes)


def _counterpart(factory: str) -> str | None:
    """``module:DCGANDiscriminator`` for ``module:DCGANGenerator``, ``D`` for ``G``."""
    home, _, name = factory.partition(":")
    for one, other in (("Generator", "Discriminator"), ("generator", "discriminator")):
        if one in name:
            return f"{home}:{name.replace(one, other)}"
    return f"{home}:D{name[1:]}" if name.startswith("G") else None

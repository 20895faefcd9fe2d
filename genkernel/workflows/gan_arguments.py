"""Arguments of ``gk.collapse``: what can be wrong with them is said before anything long is computed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.errors import GenkernelError, InputError, NonFiniteError
from genkernel.gan.clusters import Clusters
from genkernel.gan.latents import is_number, is_whole
from genkernel.gan.losses import Loss, generator_losses, logit_gradient
from genkernel.workflows.arguments import shown, whole_numbers

if TYPE_CHECKING:
    from genkernel.gan import Discriminator, Generator

_TRIED = (-0.5, 0.5)  # logits that a loss is tried on
_OF_THE_RUN = frozenset({"labels", "real_labels"})  # that the analysis fills in by itself


def check_players(generator: Generator, discriminator: Discriminator) -> None:
    """Raise InputError unless the discriminator judges what the generator makes."""
    if discriminator.sample_shape != generator.output_shape:
        raise InputError(
            f"the generator makes samples {_by(generator.output_shape)}, the discriminator takes "
            f"{_by(discriminator.sample_shape)}"
        )
    if discriminator.classes is None:
        return
    if generator.classes is None:
        raise InputError("the discriminator is conditional, the generator is not: give it classes=")
    if generator.classes > discriminator.classes:
        raise InputError(
            f"the generator has {generator.classes} classes, the discriminator {discriminator.classes}: both have to "
            "know the same"
        )


def check_game(game: Any) -> None:
    """Raise InputError unless it is True, False, or options of a GameJacobian."""
    if isinstance(game, bool):
        return
    if not isinstance(game, Mapping):
        raise InputError(f"game is True, False, or a mapping with its options, not {shown(game)}")
    from genkernel.gan.game import GameJacobian

    named = inspect.signature(GameJacobian).parameters.values()
    known = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_RUN]
    if unknown := [name for name in game if name not in known]:
        raise InputError(
            f"{unknown[0]!r} is no option of the game: there are {', '.join(known)} (loss and labels are those of the "
            "run)"
        )
    penalty, rates, sides = game.get("r1", 0.0), game.get("rates", (1.0, 1.0)), game.get("discriminator_loss")
    if not is_number(penalty) or penalty < 0:
        raise InputError(f"r1 of the game is a penalty from 0 on, not {shown(penalty)}")
    if not _is_pair(rates) or not all(is_number(rate) and rate > 0 for rate in rates):
        raise InputError(
            f"rates of the game are two positive numbers, of the generator and the discriminator, not {shown(rates)}"
        )
    if sides is not None and not (_is_pair(sides) and all(map(callable, sides))):
        raise InputError(
            "discriminator_loss of the game is two functions of logits, of real and of generated samples, not "
            f"{shown(sides)}"
        )


def check_losses(loss: str | Loss, game: bool | Mapping[str, Any], judge: Discriminator | Generator) -> None:
    """Try losses that are functions on two logits, of the dtype and on the device of the discriminator.

    Raises:
        InputError: one fails, does not act entry by entry, or has no gradient.
        NonFiniteError: it gives NaN or infinity for ordinary logits.
    """
    logits = torch.tensor(_TRIED, dtype=judge.dtype, device=judge.device)
    if callable(loss):
        _try_loss("the generator's loss", partial(logit_gradient, loss, logits))
    sides = game.get("discriminator_loss") if isinstance(game, Mapping) else None
    for name, side in zip(("real", "generated"), sides or (), strict=False):
        _try_loss(f"discriminator_loss of {name} samples", partial(generator_losses, side, logits))


def _try_loss(what: str, run: Callable[[], Tensor]) -> None:
    try:
        found = run()
    except GenkernelError:
        raise
    except Exception as error:  # of any kind: whatever the user's function says
        raise InputError(f"{what} cannot be run on two logits: {_reason(error)}") from error
    if not torch.isfinite(found).all():
        few = " and ".join(f"{x:g}" for x in _TRIED)
        raise NonFiniteError(f"{what} is NaN or infinite, or has such a gradient, at logits {few}")


def read_clusters(given: Any, latents: int) -> str | int | Clusters:
    """``"auto"``, a number of clusters, or :class:`Clusters` of the latents with their labels as an array.

    Raises:
        InputError: anything else, more clusters than latents, or labels that are not one for each latent.
    """
    if isinstance(given, str) and given == "auto":
        return given
    if isinstance(given, Clusters):
        return _given_clusters(given, latents)
    if not is_whole(given) or given < 1:
        raise InputError(f"clusters is 'auto', a number of clusters, or Clusters, not {shown(given)}")
    if given > latents:
        raise InputError(f"{latents} latents cannot be put into {given} clusters")
    return int(given)


def _given_clusters(given: Clusters, latents: int) -> Clusters:
    names = given.names
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise InputError(f"names of clusters are a list of words, not {shown(names)}")
    labels = whole_numbers("labels of clusters", given.labels, latents, "latent").numpy()
    if not len(names) or int(labels.max()) >= len(names):
        raise InputError(f"labels of clusters reach {int(labels.max())}, and there are names for {len(names)} clusters")
    if given.assign is not None and not callable(given.assign):
        raise InputError(f"assign of clusters is a function samples -> labels, not {shown(given.assign)}")
    return replace(given, labels=labels, names=list(names))


def check_assign(clusters: str | int | Clusters, real: Tensor | None) -> None:
    """Try a given rule for clusters on two real samples.

    Raises:
        InputError: it fails, or does not answer with a cluster for each.
    """
    if not isinstance(clusters, Clusters) or clusters.assign is None or real is None:
        return
    few = real[:2]
    try:
        found = clusters.assign(few)
    except GenkernelError:
        raise
    except Exception as error:  # of any kind: whatever the user's function says
        raise InputError(f"assign of clusters cannot be run on real samples: {_reason(error)}") from error
    labels = whole_numbers("clusters that assign gives", found, len(few), "sample")
    if int(labels.max()) >= clusters.count:
        raise InputError(f"assign of clusters answers {int(labels.max())}, and there are {clusters.count} clusters")


def read_labels(given: Any, generator: Generator, latents: int) -> Tensor | None:
    """Classes ``[n]`` of the latents, int64.

    Raises:
        InputError: they are not one class of the generator for each latent, or it is not conditional.
    """
    if given is None:
        return None
    if generator.classes is None:
        raise InputError("labels= were given, but the generator is not conditional: give it classes=")
    return below("labels", whole_numbers("labels", given, latents, "latent"), generator.classes)


def below(name: str, labels: Tensor, classes: int) -> Tensor:
    """The labels themselves.

    Raises:
        InputError: one is of no class.
    """
    if int(labels.max()) >= classes:
        raise InputError(
            f"{name} lie in 0 … {classes - 1}, the classes of the generator: the largest is {labels.max()}"
        )
    return labels


def read_mode_std(given: Any, modes: Tensor | None) -> float | Tensor | None:
    """The standard deviation around a mode, or one for each ``[M]`` float64.

    Raises:
        InputError: they are not positive numbers, or there are no modes.
    """
    if given is None:
        return None
    if modes is None:
        raise InputError("mode_std= is the standard deviation around known modes: give modes= as well")
    try:
        found = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
        good = not isinstance(given, bool) and bool(((found > 0) & (found < math.inf)).all())
        good = good and found.shape in ((), (len(modes),))
    except Exception:  # words, ragged lists and objects each raise their own kind
        good = False
    if not good:
        raise InputError(
            f"mode_std is the standard deviation around a mode: a positive number, or {len(modes)}, one for each, not "
            f"{shown(given)}"
        )
    return float(found) if found.dim() == 0 else found


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _is_pair(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))

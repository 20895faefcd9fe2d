"""What tells the networks and functions of two GAN runs apart: weights exactly, and what they answer roughly.

Weights alone do not: the arguments of a factory, ``call=``, ``inputs=`` and functions without weights decide numbers as
well. So networks and functions are also asked about the same few samples. Sums in another order, as with another number
of threads, move last bits of the answers, which are therefore compared as numbers and not by a digest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.gan.answers import answers
from genkernel.gan.clusters import Clusters
from genkernel.gan.losses import Loss, generator_losses
from genkernel.gan.stages import labels_for
from genkernel.runs.provenance import WEIGHTS
from genkernel.tangent.fingerprint import fingerprint
from genkernel.tangent.restore import random_state_kept
from genkernel.workflows.arguments import described

if TYPE_CHECKING:
    from genkernel.gan import Discriminator, Generator

ASKED = 4  # latents
_STREAM = 7  # of those latents, so that they are none of the run's
_SUMS = 2  # random signed sums of a sample's outputs: a change of any output moves them
_TOLERANCE = 1e-3  # relative, in float32
_SMALL = 1e-3  # what a loss below this is compared with
_LOGITS = tuple(x / 2 for x in range(-16, 17))  # that losses are asked about


def weights_of(module: nn.Module) -> str:
    """The start of one sha256 for all weights and buffers in memory, by their names."""
    return fingerprint(dict(module.state_dict()))[:16]


def function_of(given: Any) -> str | None:
    """A classifier, features or a loss: a file's digest, a network's, or a name."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        weights = Path(given).expanduser() / "model.safetensors"
        return described(weights) if weights.is_file() else str(given)
    if isinstance(given, nn.Module):
        return f"{type(given).__name__} (sha256 of its weights {weights_of(given)})"
    return str(getattr(given, "__name__", type(given).__name__))


def clusters_of(given: str | int | Clusters) -> str | int:
    """A word, a number, or a digest of the labels and names."""
    if not isinstance(given, Clusters):
        return given
    digest = fingerprint([given.labels, given.names, given.by, given.fixed, given.kind])
    return f"{given.count} clusters of {len(given.labels)} latents (sha256 {digest[:16]})"


def game_of(given: bool | Mapping[str, Any]) -> bool | dict[str, str]:
    """Options of the game in words; functions by their names, because their texts differ from process to process."""
    if isinstance(given, bool):
        return given
    sides = given.get("discriminator_loss")
    named = {} if sides is None else {"discriminator_loss": ", ".join(str(function_of(side)) for side in sides)}
    return {**{str(name): str(value) for name, value in given.items()}, **named}


def settings_of(generator: Generator, discriminator: Discriminator | None) -> dict[str, Any]:
    """What of the two networks decides numbers beside their weights, JSON-ready; entries that say nothing left out."""
    about = generator.describe()
    names = list(generator.tangent.parameter_names)
    every = [name for name, _ in generator.module.named_parameters()]
    found = {
        **{name: about[name] for name in _SETTINGS},
        "label_form": about["labels"],
        "inputs": described(generator.inputs) if generator.inputs else None,
        "parameter_names": None if set(names) == set(every) else fingerprint(names)[:16],
        WEIGHTS: weights_of(generator.module),
    }
    if discriminator is not None:
        judge = discriminator.describe()
        found |= {f"discriminator_{name}": judge[name] for name in _OF_JUDGES}
    return {name: value for name, value in found.items() if value is not None}


_SETTINGS = ("latent_shape", "space", "prior", "truncation", "classes", "batch_norm", "parameters")
_OF_JUDGES = ("output", "classes", "parameters", "mixes_samples")


def answers_of(
    generator: Generator,
    discriminator: Discriminator | None,
    *,
    classifier: Any = None,
    features: Any = None,
    loss: str | Loss = "",
    game: bool | Mapping[str, Any] = False,
) -> dict[str, Any]:
    """What networks and functions say of a few fixed latents, JSON-ready.

    Returns:
        A list of numbers for each that was asked, by its name; and the relative ``tolerance`` that they are compared
        with, which follows from the coarsest dtype.

    Raises:
        GenkernelError: see the networks; what one of them answers is not finite, or not of the right shape.
    """
    dtypes = [generator.dtype] if discriminator is None else [generator.dtype, discriminator.dtype]
    coarse = max(torch.finfo(dtype).eps for dtype in dtypes)
    found: dict[str, Any] = {"tolerance": max(_TOLERANCE, 8 * coarse)}
    with _same_random_numbers():
        batch = generator.draw(ASKED, stream=_STREAM)
        samples = generator.images(batch)
        found["generator"] = _summary(samples)
        if discriminator is not None:
            found["discriminator"] = _summary(discriminator.logits(samples, labels_for(discriminator, batch)))
        for name, function in (("classifier", classifier), ("features", features)):
            if function is not None:
                found[name] = _summary(answers(function, samples))
        sides = game.get("discriminator_loss") if isinstance(game, Mapping) else None
        for name, side in zip(("loss", "loss of real", "loss of generated"), (loss, *(sides or ())), strict=False):
            if callable(side):
                judge = generator if discriminator is None else discriminator
                logits = torch.tensor(_LOGITS, dtype=judge.dtype, device=judge.device)
                found[name] = _numbers(generator_losses(side, logits).detach())
    return found


def other_answers(mine: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> list[str]:
    """Sentences on what answers otherwise than in an earlier run; empty when all agree, or were never asked.

    Args:
        mine, theirs: of :func:`answers_of`, the latter as read from ``run.json``. What only one of them has is told by
            the arguments of the runs.
    """
    if mine is None:
        return []
    if not isinstance(theirs, Mapping):
        return ["what its networks answer was not recorded"]
    return [
        f"the {_NAMES.get(name, name)} now answers the same latents in another way"
        for name in mine
        if name != "tolerance"
        and name in theirs
        and _differ(mine[name], theirs[name], mine["tolerance"], each=name.startswith("loss"))
    ]


_NAMES = {
    "features": "function of features",
    "loss of real": "discriminator_loss of real samples",
    "loss of generated": "discriminator_loss of generated samples",
}


def _differ(a: list[float | None], b: list[float | None], tolerance: float, each: bool) -> bool:
    """Whether two lists differ.

    Args:
        tolerance: relative to the largest number, because sums with random signs cancel; or, with ``each``, to the two
            that are compared, because a loss grows with the logit.
    """
    if len(a) != len(b) or any((x is None) != (y is None) for x, y in zip(a, b, strict=True)):
        return True
    x, y = (np.array([v for v in values if v is not None], dtype=np.float64) for values in (a, b))
    if not x.size:
        return False
    size = np.maximum(np.abs(x), np.abs(y))
    return bool((np.abs(x - y) > tolerance * (size + _SMALL if each else size.max())).any())


def _summary(values: Tensor) -> list[float | None]:
    """Of every sample's outputs ``[n, ...]``: their root mean square, and sums with fixed random signs."""
    rows = values.detach().double().cpu().reshape(len(values), -1).numpy()
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(rows.shape[1], _SUMS)) / math.sqrt(rows.shape[1])
    return _numbers(torch.from_numpy(np.concatenate([np.sqrt((rows**2).mean(1, keepdims=True)), rows @ signs], 1)))


def _numbers(values: Tensor) -> list[float | None]:
    """In six digits; None where they are not finite, as JSON has it."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.double().cpu().flatten().tolist()]


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Functions that draw random numbers draw the same in every run, and leave no trace."""
    with torch.random.fork_rng(devices=[]), random_state_kept():
        torch.default_generator.manual_seed(0)
        np.random.seed(0)
        yield

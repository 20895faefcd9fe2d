"""Latents and labels: how they are drawn and checked, and which shape of latent a generator takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from genkernel.errors import InputError

_TAG = 0x6C6174  # separates these streams from other uses of the same seed
PRIORS = ("normal", "uniform", "sphere")
LABELS = ("index", "one-hot")


@dataclass(frozen=True)
class Prior:
    """The distribution that latents are drawn from.

    Attributes:
        shape: of one latent.
        kind: ``"normal"``, ``"uniform"`` on [-1, 1], or ``"sphere"`` (normal, scaled to length √d).
        truncation: only for ``"normal"``: entries beyond ±truncation are drawn again (the truncation
            trick of BigGAN, Brock et al. 2019); None for none.

    Raises:
        InputError: an unknown kind, or a shape or truncation that makes no sense.
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    truncation: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in PRIORS:
            raise InputError(f"the prior of latents is one of {', '.join(PRIORS)}, not {self.kind!r}")
        if not self.shape or not all(is_whole(s) and s >= 1 for s in self.shape):
            raise InputError(f"a latent shape is like (100,) or (100, 1, 1), not {self.shape!r}")
        if self.truncation is not None:
            if self.kind != "normal":
                raise InputError("only normal latents can be truncated in z")
            if not (is_number(self.truncation) and self.truncation >= 0.05):
                raise InputError(f"truncation in z is a number of at least 0.05, not {self.truncation!r}")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def draw(self, n: int, seed: int, *, stream: int = 0) -> Tensor:
        """``[n, *shape]`` float32; latent i depends on (seed, stream, i) alone, however many are drawn.

        Raises:
            InputError: n, seed or stream is no whole number, or too small.
        """
        if not is_whole(n) or n < 1:
            raise InputError(f"the number of latents is a whole number of at least 1, not {n!r}")
        for name, value in (("seed", seed), ("stream", stream)):
            if not is_whole(value) or value < 0:
                raise InputError(f"a {name} is a whole number from 0 on, not {value!r}")
        rows = [self._one(np.random.default_rng([_TAG, seed, stream, i])) for i in range(n)]
        return torch.from_numpy(np.stack(rows).astype(np.float32)).reshape(n, *self.shape)

    def _one(self, rng: np.random.Generator) -> np.ndarray:
        if self.kind == "uniform":
            return rng.uniform(-1, 1, self.numel)
        z = rng.standard_normal(self.numel)
        if self.kind == "sphere":
            return z * (math.sqrt(self.numel) / np.linalg.norm(z))
        while self.truncation is not None and (far := np.abs(z) > self.truncation).any():
            z[far] = rng.standard_normal(int(far.sum()))
        return z


# ---------------------------------------------------------------------- what goes in beside


def check_classes(classes: Any, labels: str | None) -> None:
    """Raise InputError unless ``classes`` (or None) and the form of ``labels`` (or None) make sense together."""
    if labels not in (None, *LABELS):
        raise InputError(f"labels is {' or '.join(map(repr, LABELS))}, not {labels!r}")
    if classes is None and labels is not None:
        raise InputError("labels= belongs to a conditional network: give classes=, the number of its classes")
    if classes is not None and (not is_whole(classes) or classes < 2):
        raise InputError(f"classes is the number of classes, at least 2, not {classes!r}")


def check_labels(labels: Any, n: int, classes: int) -> Tensor:
    """Labels as ``[n]`` int64.

    Raises:
        InputError: they are not n whole numbers from 0 to ``classes - 1``.
    """
    y = torch.as_tensor(labels)
    if y.shape != (n,) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"labels are {n} whole numbers, not {y.dtype} of shape {tuple(y.shape)}")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise InputError(f"labels lie in 0 … {classes - 1}, these reach from {int(y.min())} to {int(y.max())}")
    return y.long()


def few_labels(n: int, classes: int | None) -> Tensor | None:
    """Labels to try a conditional network on: the first and the last class are among them."""
    return None if classes is None else (torch.arange(n) - 1) % classes


def as_input(labels: Tensor, form: str, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels ``[n]`` as a network takes them."""
    return labels if form == "index" else nn.functional.one_hot(labels, classes).to(dtype)


def for_each(inputs: Mapping[str, Any], n: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Further inputs of a network: their tensors, which have one row, for n samples.

    Raises:
        InputError: a tensor has another number of rows.
    """

    def widen(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() == 0 or value.shape[0] != 1:
            raise InputError(f"the input {name!r} needs one row for every sample alike, shape [1, …]")
        value = value.detach().to(device, dtype if value.is_floating_point() else value.dtype)
        return value.expand(n, *value.shape[1:])

    return {name: tree_map(lambda leaf, name=name: widen(name, leaf), value) for name, value in inputs.items()}


# ---------------------------------------------------------------------- the shape of a latent


def likely_shapes(module: nn.Module, classes: int | None = None) -> list[tuple[int, ...]]:
    """Latent shapes that a generator may take, the likeliest first: by what it says of itself, then by its weights.

    Args:
        classes: number of classes of a conditional generator: its first layer may take the latent joined with a
            one-hot label or an embedding.
    """
    weights = list(_weights(module))
    first = weights[0][1] if weights else 0
    found: dict[tuple[int, ...], None] = {}  # an ordered set
    for size in _named_sizes(module):
        options = [size] if isinstance(size, tuple) else [(size, *[1] * first), (size,), (size, 1, 1)]
        found.update(dict.fromkeys(options))
    embeddings = [m.embedding_dim for m in module.modules() if isinstance(m, nn.Embedding)]
    for width, spatial in weights:
        for beside in (0,) if classes is None else (0, classes, *embeddings):
            if (size := width - beside) > 0:
                found[size, *[1] * spatial] = None
                found[size,] = None
    return list(found)


_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_NAMES = ("latent_shape", "latent_dim", "z_dim", "nz", "dim_z", "latent_size", "noise_dim", "latent_channels")


def _weights(module: nn.Module) -> Iterator[tuple[int, int]]:
    """(channels in, spatial axes) of every layer: torch's own, then those that hold a weight in their own way."""
    foreign: list[tuple[int, int]] = []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield part.in_features, 0
        elif isinstance(part, _CONVOLUTIONS):
            yield part.in_channels, len(part.kernel_size)  # to read .weight might run a parametrisation
        elif not isinstance(part, nn.Embedding):
            shapes = [p.shape for p in part.parameters(recurse=False) if 2 <= p.dim() <= 5]
            foreign += [(channels, len(shape) - 2) for shape in shapes for channels in (shape[1], shape[0])]
    yield from foreign


def _named_sizes(module: nn.Module) -> Iterator[int | tuple[int, ...]]:
    for holder in (module, getattr(module, "config", None)):
        for name in _NAMES:
            value = holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
            if is_whole(value) and value > 0:
                yield value
            elif isinstance(value, (tuple, list)) and value and all(is_whole(v) and v > 0 for v in value):
                yield tuple(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """A whole number, of Python's or numpy's."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """A finite real number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)

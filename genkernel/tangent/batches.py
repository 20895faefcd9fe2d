"""Batches: any pytree of tensors with a leading sample axis.

Leaves that are no tensors (numbers, strings, ``None``) belong to every sample alike and pass
through untouched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from genkernel.errors import InputError


def tensors(batch: Any) -> list[Tensor]:
    """The tensor leaves, in order."""
    return [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]


def size(batch: Any) -> int:
    """Number of samples ``n``; every tensor leaf has to agree on it."""
    leaves = tensors(batch)
    if not leaves:
        given = sorted({type(leaf).__name__ for leaf in tree_flatten(batch)[0]})
        hint = f": it holds {', '.join(given)}" + (" (torch.from_numpy converts arrays)" if "ndarray" in given else "")
        raise InputError(f"a batch needs at least one tensor with a leading sample axis{hint if given else ''}")
    if any(leaf.dim() == 0 for leaf in leaves):
        raise InputError("a batch holds a tensor without a sample axis: give every tensor a leading axis of length n")
    counts = sorted({leaf.shape[0] for leaf in leaves})
    if len(counts) > 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise InputError(f"the tensors of a batch disagree on the number of samples: shapes {shapes}")
    if counts[0] == 0:
        raise InputError("the batch is empty: give at least one sample")
    return counts[0]


def take(batch: Any, index: slice | Tensor | list[int]) -> Any:
    """The samples picked by ``index``."""
    return tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, batch)


def spread(batch: Any, most: int = 16) -> Any:
    """At most ``most`` samples, evenly over the batch."""
    n = size(batch)
    return take(batch, sorted({round(i * (n - 1) / (most - 1)) for i in range(most)}))


def concatenate(first: Any, second: Any) -> Any:
    """The samples of ``first`` followed by those of ``second``.

    Raises:
        InputError: the two have different structures or sample shapes.
    """
    (a, spec), (b, other) = tree_flatten(first), tree_flatten(second)
    if spec != other:
        raise InputError("the two sides of a cross kernel must be batches of the same structure")
    joined = []
    for left, right in zip(a, b, strict=True):
        if isinstance(left, Tensor) != isinstance(right, Tensor):
            raise InputError("the two sides of a cross kernel must be batches of the same structure")
        if not isinstance(left, Tensor):
            joined.append(left)
            continue
        if left.shape[1:] != right.shape[1:]:
            raise InputError(
                f"samples of the two sides differ in shape: {tuple(left.shape[1:])} and {tuple(right.shape[1:])}"
            )
        joined.append(torch.cat([left, right.to(left.device)]))
    return tree_unflatten(joined, spec)


def alike(batch: Any, other: Any) -> bool:
    """Apart from the number of samples and what tensors hold the same."""
    (leaves, spec), (others, as_well) = tree_flatten(batch), tree_flatten(other)
    return spec == as_well and all(
        (a.shape[1:], a.dtype, a.device) == (b.shape[1:], b.dtype, b.device)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else a is b or (type(a) is type(b) and (a == b) is True)
        for a, b in zip(leaves, others, strict=True)
    )


def place(samples: Any, k: int, batch: Any) -> int | None:
    """Where sample ``k`` of ``samples`` is in a batch of the same structure; None where it is not."""
    same: Tensor | None = None
    for one, many in zip(tensors(samples), tensors(batch), strict=True):
        if one.shape[1:] != many.shape[1:] or one.dtype != many.dtype:
            return None
        equal = (many == one[k]).flatten(1).all(1) if many.dim() > 1 else many == one[k]
        same = equal if same is None else same & equal
    return int(same.to(torch.uint8).argmax()) if same is not None and bool(same.any()) else None


def copy(batch: Any, *, detach: bool = True) -> Any:
    """The same batch in memory of its own, cut off from any graph unless ``detach`` is False."""
    return tree_map(
        lambda leaf: (leaf.detach() if detach else leaf).clone() if isinstance(leaf, Tensor) else leaf, batch
    )


def move(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Detached copies-if-needed on ``device``; floating leaves cast to ``dtype`` when one is given."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.detach().to(device)
        return leaf.to(dtype) if dtype is not None and leaf.is_floating_point() else leaf

    return tree_map(one, batch)


def does_not_run(batch: Any, error: Exception) -> InputError:
    """What to say of a model that failed on samples of a batch."""
    shapes = ", ".join(f"{str(leaf.dtype)[6:]} {tuple(leaf.shape)}" for leaf in tensors(batch))
    said = (str(error).splitlines() or [""])[0]
    hint = " (without call= a tuple or list is given as module(*batch), a dict as module(**batch))"
    return InputError(
        f"the model does not run on samples of this batch ({shapes}; the first axis counts them): "
        f"{type(error).__name__}: {said}{'' if isinstance(batch, Tensor) else hint}"
    )

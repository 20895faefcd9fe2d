"""Classes of samples as whole numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import InputError

Labels = NDArray[np.int64]


def class_indices(labels: Any, count: int, what: str = "probes", names: Sequence[str] | None = None) -> Labels:
    """Classes 0 … C−1 ``[count]`` of whole numbers, of rows of one-hot vectors, or of names.

    Args:
        labels: ``[count]``, or one-hot ``[count, C]``.
        what: is labelled, for messages.
        names: of the classes ``[C]``, in their order; without these, labels are no names.

    Raises:
        InputError: another number of them, or something else than classes.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.dtype.kind in "iubf" and values.ndim == 2 and values.shape[1] > 1:
        values = values.argmax(1)
    values = values.reshape(-1)
    if len(values) != count:
        raise InputError(f"there are {count} {what} and {len(values)} labels")
    if values.dtype.kind in "US" or (values.dtype.kind == "O" and all(isinstance(one, str) for one in values)):
        return _of_names([one.decode() if isinstance(one, bytes) else str(one) for one in values], names)
    if values.dtype.kind not in "iub":
        first = f", such as {values[0]}" if count else ""
        raise InputError(f"classes are whole numbers from 0 on, and labels are {values.dtype}{first}: convert them")
    if count and values.min() < 0:
        raise InputError(
            f"classes are whole numbers from 0 on, and {int((values < 0).sum())} of the {count} labels are below 0, "
            f"such as {values.min()}: leave these samples out, or count classes from 0"
        )
    return values.astype(np.int64)


def _of_names(labels: Sequence[str], names: Sequence[str] | None) -> Labels:
    if names is None:
        raise InputError(
            f"labels are names such as {labels[0]!r}, and those of the classes are not known: give the numbers "
            "of the classes from 0 on, or the classifier its names= in the order of the logits"
        )
    place = places(labels, names)
    if missing := sorted({name for name in labels if name not in place}):
        raise InputError(
            f"the label {missing[0]!r} is not the name of one class: these are {listed(names)}; give one of them, or "
            "the numbers of the classes from 0 on"
        )
    return np.array([place[name] for name in labels], dtype=np.int64)


def places(given: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Place among ``names`` of each of the given ones that is one of them, in any case of letters.

    A name that two classes have is none of them.
    """
    exact, lower = Counter(names), Counter(name.casefold() for name in names)
    found = {}
    for one in set(given):
        if exact[one] == 1:
            found[one] = list(names).index(one)
        elif not exact[one] and lower[one.casefold()] == 1:
            found[one] = [name.casefold() for name in names].index(one.casefold())
    return found


def listed(words: Sequence[str], most: int = 6) -> str:
    """Words with commas; the first few of many."""
    return ", ".join(words) if len(words) <= most else f"{', '.join(words[: most - 1])}, … ({len(words)} of them)"


def balanced(labels: Labels, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Places of at most ``limit`` samples, as many of every class as there are and fit, in rising order.

    Classes take turns, so that a rare one gives all it has and the others share the rest.
    """
    draw = np.random.default_rng(seed)
    turns = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        turns[draw.permutation(mine)] = np.arange(len(mine))
    last = np.lexsort((draw.permutation(len(labels)), turns))
    return np.sort(last[:limit])

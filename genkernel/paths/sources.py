"""What moves parameters: groups of samples, by label, and what is none of the data's doing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError

DECAY, BEFORE, ROUNDING, BUFFERS = "weight decay", "before recording", "rounding", "buffers"
RESERVED = (DECAY, BEFORE, ROUNDING, BUFFERS)
Label = int | float | str | bool
Groups = Callable[[Any, Any], Any]


class Sources:
    """Labels and their numbers, in the order in which they appear.

    Attributes:
        names: the label of each.
        counts: how many samples were seen of each.
    """

    def __init__(self) -> None:
        self.names: list[Label] = []
        self.counts: list[int] = []
        self._number: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, labels: Sequence[Any]) -> Tensor:
        """The number of each label ``[b]``; new labels get new numbers.

        Raises:
            InputError: a label is neither a number nor a string, or one of the names of other sources.
        """
        found = []
        for label in labels:
            label = label.item() if isinstance(label, np.generic) else label
            if not isinstance(label, (int, float, str)) or label != label:
                raise InputError(f"a group's label is a number or a string, not {label!r}")
            if label in RESERVED:
                raise InputError(f"{label!r} names a source that is not data: give the group another label")
            found.append(self._of(label))
        return torch.tensor(found)

    def extra(self, name: str) -> int:
        """The number of a source that is not data."""
        return self._of(name)

    def is_data(self, number: int) -> bool:
        """A group of samples."""
        return self.names[number] not in RESERVED

    def order(self) -> list[int]:
        """Numbers by sorted label, what is not data last."""
        data = [i for i in range(len(self)) if self.is_data(i)]
        data.sort(key=lambda i: (isinstance(self.names[i], str), self.names[i]))
        return data + sorted((i for i in range(len(self)) if not self.is_data(i)), key=self._rank)

    def _rank(self, number: int) -> int:
        return RESERVED.index(str(self.names[number]))

    def _of(self, label: Label) -> int:
        if label not in self._number:
            self._number[label] = len(self.names)
            self.names.append(label)
            self.counts.append(0)
        return self._number[label]

    def state(self) -> dict[str, Any]:
        """Everything, for :meth:`restore`."""
        return {"names": list(self.names), "counts": list(self.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.names, self.counts = list(state["names"]), list(state["counts"])
        self._number = {name: i for i, name in enumerate(self.names)}


def labels_of(groups: Groups | None, ids: Any, batch: Any, n: int) -> list[Label]:
    """What ``groups(ids, batch)`` says of n samples; one group for all of them without it.

    Raises:
        InputError: it does not give one label per sample.
    """
    if groups is None:
        return ["data"] * n
    given = groups(ids, batch)
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.tolist()
    labels = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    if labels is None or len(labels) != n:
        got = type(given).__name__ if labels is None else f"{len(labels)} labels"
        raise InputError(f"groups(ids, batch) gave {got} for a batch of {n} samples: it gives one label per sample")
    return labels

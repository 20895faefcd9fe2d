"""``Replay``: what every visit of a training sample did, as a replay leaves it, and its sums by source and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.paths.decomposition import PathDecomposition
from genkernel.paths.sources import RESERVED, Label

Array = NDArray[np.float64]


@dataclass(repr=False)
class Replay:
    """What every visit of a training sample did to every query. Made by :func:`genkernel.replay`.

    Attributes:
        ids: of the sample of each visit ``[V]``.
        steps: training step of each visit ``[V]``.
        extras: what else the tape says of each visit, name → ``[V]`` (of numbers per sample).
        values: contributions ``[V, L, m, *out]`` float64.
        others: sources that are not data → ``[N, L, m, *out]`` by training step.
        layers: L names.
        copies: steps at which the outputs are known.
        outputs: f there ``[len(copies), m, *out]``.
        meta: how it was made.
    """

    ids: NDArray[Any]
    steps: NDArray[np.int64]
    extras: dict[str, NDArray[Any]]
    values: Array
    others: dict[str, Array]
    layers: list[str]
    copies: list[int]
    outputs: Array
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def visits(self) -> int:
        """V."""
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Replay({self.visits} visits of {len(np.unique(self.ids))} samples, {self.values.shape[2]} queries, "
            f"{self.meta.get('steps')} steps)"
        )

    def per_sample(self) -> tuple[NDArray[Any], Array]:
        """Distinct ids ``[n]`` and what each did in all its visits ``[n, m, *out]``."""
        ids, index = np.unique(self.ids, return_inverse=True)
        found = np.zeros((len(ids), *self.values.shape[2:]))
        np.add.at(found, index, self.values.sum(1))
        return ids, found

    def contributions(
        self,
        groups: Callable[..., Any] | None = None,
        edges: list[int] | None = None,
    ) -> PathDecomposition:
        """Visits gathered into sources and windows of time.

        Args:
            groups: ``groups(ids, **extras)`` gives a label per visit ``[V]``, also from what the tape says beside the
                ids; every sample by itself by default.
            edges: steps at which windows start, among :attr:`copies` (for windows whose own gap is known); one window
                by default.

        Raises:
            InputError: labels or edges do not fit.
        """
        labels = self.ids if groups is None else np.asarray(groups(self.ids, **self.extras))
        if labels.shape != self.ids.shape:
            raise InputError(
                f"groups gave labels of shape {labels.shape} for {self.visits} visits: one per visit, please"
            )
        if any(str(label) in RESERVED for label in np.unique(labels)):
            raise InputError(
                f"labels may not be {', '.join(map(repr, RESERVED))}: these name sources that are not data"
            )
        cuts = sorted({self.copies[0], self.copies[-1], *(edges or [])})
        if any(step not in self.copies for step in cuts):
            raise InputError(f"edges are among the steps with copies of the weights, {self.copies}")
        names, index = np.unique(labels, return_inverse=True)
        data: list[Label] = [name.item() for name in names]
        extra = [name for name in RESERVED if name in self.others]
        shape = (len(cuts) - 1, len(data) + len(extra), *self.values.shape[1:])
        net, gross = np.zeros(shape), np.zeros(shape[:4])
        steps_of = np.searchsorted(cuts, self.steps, side="right") - 1
        np.add.at(net, (steps_of, index), self.values)
        # the size of a source in one step is that of the sum of its visits
        order = np.lexsort((index, self.steps))
        key = np.stack([self.steps[order], index[order]])
        starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(0)]) if len(order) else np.zeros(0, int)
        if len(starts):
            per_step = np.add.reduceat(self.values[order], starts)
            where = steps_of[order][starts], index[order][starts]
            np.add.at(gross, where, _sizes(per_step))
        for number, name in enumerate(extra, start=len(data)):
            windows = np.searchsorted(cuts, np.arange(len(self.others[name])), side="right") - 1
            np.add.at(net[:, number], windows, self.others[name])
            np.add.at(gross[:, number], windows, _sizes(self.others[name]))
        kept = [self.copies.index(step) for step in cuts]
        return PathDecomposition(
            sources=[*data, *extra],
            net=torch.from_numpy(net),
            gross=torch.from_numpy(gross),
            layers=list(self.layers),
            edges=cuts,
            outputs=torch.from_numpy(self.outputs[kept]),
            samples=torch.from_numpy(np.r_[np.bincount(index, minlength=len(data)), np.zeros(len(extra), int)]),
            data=[True] * len(data) + [False] * len(extra),
            meta=dict(self.meta),
        )


def _sizes(values: Array) -> Array:
    """Norms over the outputs: ``[…, L, m, *out]`` with one leading axis → ``[…, L, m]``."""
    return np.sqrt(np.square(values).reshape(*values.shape[:3], -1).sum(-1))

"""Gradients by source of the micro-batches that a step is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Gathered:
    """Gradients by source of some micro-batches, and how many samples they are of."""

    gradients: dict[int, Tensor]
    counts: dict[int, int]

    def plus(self, other: Gathered) -> Gathered:
        gradients = dict(self.gradients)
        for a, g in other.gradients.items():
            gradients[a] = gradients[a] + g if a in gradients else g
        counts = {a: self.counts.get(a, 0) + other.counts.get(a, 0) for a in self.counts | other.counts}
        return Gathered(gradients, counts)


class Pending:
    """The micro-batches since the last step, and which of them the coming one may be made of.

    A gradient scaler skips steps without a trace, so earlier ones may have been thrown away: all of them count, or
    those since the gradients were last seen gone, or the last one alone. The gradient itself decides.
    """

    def __init__(self, first: Gathered):
        self.total = self.since = self.last = first

    def add(self, new: Gathered, gone: bool) -> None:
        """One more; ``gone``: the gradients of the earlier ones are not there any more."""
        self.total = self.total.plus(new)
        self.since = new if gone else self.since.plus(new)
        self.last = new

    def choices(self) -> list[Gathered]:
        """In the order in which they are tried."""
        return [self.total, *(other for other in (self.since, self.last) if other is not self.total)]


def gradients_gone(parameters: Iterable[Tensor]) -> bool:
    """The loop has thrown away what was in ``.grad``: the step of those batches was skipped."""
    grads = (p.grad for p in parameters)
    return all(g is None or not (g._nnz() if g.is_sparse else bool(g.any())) for g in grads)

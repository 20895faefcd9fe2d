"""Gradients by source of the micro-batches that a step is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gathered:
    """Gradients by source of some micro-batches, and how many samples they are of."""

    gradients: dict[int, Tensor]
    counts: dict[int, int]
    again: tuple[Callable[[], dict[int, Tensor]], ...] = ()  # what makes the gradients once more, batch by batch

    def plus(self, other: Gathered) -> Gathered:
        gradients = dict(self.gradients)
        for a, g in other.gradients.items():
            gradients[a] = gradients[a] + g if a in gradients else g
        counts = {a: self.counts.get(a, 0) + other.counts.get(a, 0) for a in self.counts | other.counts}
        return Gathered(gradients, counts, (*self.again, *other.again))

    def remade(self) -> Gathered:
        """The same batches with their gradients made anew."""
        found: dict[int, Tensor] = {}
        for make in self.again:
            for a, g in make().items():
                found[a] = found[a] + g if a in found else g
        return Gathered(found, self.counts, self.again)


class Pending:
    """The micro-batches since the last step, and which of them the coming one may be made of.

    A gradient scaler skips steps without a trace, so earlier ones may have been thrown away: all of them count, or
    those since the gradients were last seen gone, or the last one alone. The gradient itself decides.
    """

    def __init__(self, first: Gathered):
        self.total = self.since = first
        self._last: Gathered | None = None  # without its gradients, which are made again if they are asked for

    def add(self, new: Gathered, gone: bool) -> None:
        """One more; ``gone``: the gradients of the earlier ones are not there any more."""
        whole = self.since is self.total
        self.total = self.total.plus(new)
        self.since = new if gone else self.total if whole else self.since.plus(new)
        self._last = Gathered({}, new.counts, new.again)

    def choices(self) -> Iterator[Gathered]:
        """In the order in which they are tried."""
        yield self.total
        if self.since is not self.total:
            yield self.since
        if self._last is not None and len(self._last.again) < len(self.since.again):
            yield self._last.remade()


def gradients_gone(parameters: Iterable[Tensor]) -> bool:
    """The loop has thrown away what was in ``.grad``, or will: the step of those batches was skipped.

    A gradient scaler skips steps whose gradients are not finite.
    """
    there = False
    for p in parameters:
        if p.grad is not None:
            content = p.grad._values() if p.grad.is_sparse else p.grad
            if not bool(torch.isfinite(content).all()):
                return True
            there = there or bool(content.any())
    return not there

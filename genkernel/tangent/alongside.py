"""Sketches made in the same pass as a kernel, from the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Factor
from genkernel.tangent.passes import Sink
from genkernel.tangent.sketch_accumulator import SketchAccumulator


@dataclass(frozen=True)
class Part:
    """Samples ``rows`` of the batch that are the samples from ``start`` on of ``side`` (``"x"`` or ``"y"``)."""

    side: str
    rows: slice
    start: int


class Alongside:
    """A sink that hands everything on to another, and sketches some of the samples.

    Args:
        inner: the other sink.
        parts: which samples.
        make: an accumulator for so many samples.
    """

    def __init__(self, inner: Sink, parts: Sequence[Part], make: Callable[[int], SketchAccumulator]):
        self.inner, self.parts, self.make = inner, parts, make
        self.accumulators: list[SketchAccumulator] = []

    def begin(self) -> None:
        self.inner.begin()
        self.accumulators = [self.make(part.rows.stop - part.rows.start) for part in self.parts]

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        self.inner.add(which, parameter, factor, view)
        for part, accumulator in zip(self.parts, self.accumulators, strict=True):
            some = factor
            if part.rows != slice(0, factor.n):
                some = factor.like({name: tensor[part.rows] for name, tensor in factor.parts().items()})
            accumulator.add(which, parameter, some, view)

    def finite(self) -> bool:
        return self.inner.finite() and all(accumulator.finite() for accumulator in self.accumulators)

    def results(self) -> list[tuple[Part, Tensor, Tensor]]:
        """(part, rows ``[r, layers, probes, dim]``, squared norms ``[r, layers, probes]``)."""
        return [(part, a.rows, a.norms) for part, a in zip(self.parts, self.accumulators, strict=True)]

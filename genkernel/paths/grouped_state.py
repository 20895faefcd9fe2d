"""One first-moment buffer per source, so that an optimizer's step splits into what every source did.

Sources are groups of training samples, and what else moves parameters: weight decay, and the momentum from before
the recording. Each buffer obeys the optimizer's own recursion (:mod:`genkernel.paths.linear_step`); their sum is the
optimizer's buffer, and the sum of the increments its step. Increments are made one at a time when they are asked for:
beside the buffers, S × P numbers, nothing of that size is held.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genkernel.paths.coordinates import Coordinates
from genkernel.paths.linear_step import LinearStep, Number


class GroupedState:
    """First-moment buffers ``[S, P]``, growing with the sources.

    Args:
        coordinates: the order of the P entries.
    """

    def __init__(self, coordinates: Coordinates):
        self._like = torch.empty(0, dtype=coordinates.dtype, device=coordinates.device)
        self._size = coordinates.size
        self.buffers: list[Tensor | None] = []  # None: zero so far
        self._steps: list[LinearStep] = []
        self._gradients: dict[int, Tensor] = {}
        self._theta: Tensor | None = None
        self._decay: int | None = None
        self._remainder: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.buffers)

    def grow(self, sources: int) -> None:
        """Make room for sources that appear for the first time; they start from zero."""
        self.buffers += [None] * (sources - len(self.buffers))

    def set_buffer(self, source: int, buffer: Tensor) -> None:
        """Start a source from a buffer ``[P]`` that is there already."""
        self.buffers[source] = buffer

    def advance(self, steps: list[LinearStep], gradients: dict[int, Tensor], theta: Tensor, decay: int | None) -> None:
        """Make one step; :meth:`increment` says what each source did in it, until the next.

        Args:
            steps: its coefficients; coordinates of none of them stay where they are.
            gradients: source → data gradient ``[P]``, as it stood in ``.grad``.
            theta: θ_k ``[P]`` before the step; not written to later.
            decay: the source of weight decay; None without one.
        """
        self._steps, self._theta, self._decay, self._remainder = steps, theta, decay, None
        # gradients outlive the update of the buffers only where the step uses them beside these
        self._gradients = gradients if any(not _is_zero(s.q) for s in steps) else {}
        for a in range(len(self.buffers)):
            for s in steps:
                if not s.buffered:
                    continue
                terms, b = self._drive(s, a, gradients), self.buffers[a]
                if b is None and not terms:
                    continue
                if b is None:
                    b = self.buffers[a] = self._zeros()
                own = b[s.part].mul_(s.alpha)
                for values, scale in terms:
                    _add(own, values, s.rho, scale)

    def increment(self, source: int, into: Tensor | None = None) -> Tensor | None:
        """Δθ^(a) of the last step ``[P]``, a new tensor or ``into``; None where it is zero."""
        moved, b = None, self.buffers[source]
        for s in self._steps:
            terms: list[tuple[Tensor, Number, float]] = []
            if s.buffered and b is not None:
                terms.append((b[s.part], s.p, -1.0))
            if not _is_zero(s.q):
                terms += ((values, s.q, -scale) for values, scale in self._drive(s, source, self._gradients))
            if source == self._decay and s.decoupled and self._theta is not None:
                terms.append((self._theta[s.part], s.decoupled, -1.0))
            if terms:
                if moved is None:
                    moved = self._zeros() if into is None else into.zero_()
                for values, factor, scale in terms:
                    _add(moved[s.part], values, factor, scale)
        if self._remainder is not None and self._remainder[0] == source:
            moved = self._remainder[1].clone() if moved is None else moved.add_(self._remainder[1])
        return moved

    def set_remainder(self, source: int, remainder: Tensor) -> None:
        """Add to a source's increment of the last step what the weights were rounded by ``[P]``."""
        self._remainder = source, remainder

    def total_increment(self) -> tuple[Tensor, Tensor]:
        """Σ_a Δθ^(a) and Σ_a |Δθ^(a)|, which its rounding is relative to; both ``[P]``."""
        total, sizes, scratch = self._zeros(), self._zeros(), self._zeros()
        for a in range(len(self.buffers)):
            increment = self.increment(a, scratch)
            if increment is not None:
                total.add_(increment)
                sizes.add_(increment.abs_())
        return total, sizes

    def total_buffer(self) -> Tensor:
        """Σ_a b^(a) ``[P]``, which is the optimizer's own buffer."""
        total = self._zeros()
        for buffer in self.buffers:
            if buffer is not None:
                total.add_(buffer)
        return total

    def _drive(self, s: LinearStep, source: int, gradients: Mapping[int, Tensor]) -> list[tuple[Tensor, float]]:
        """What a source adds to the gradient in a run of coordinates: numbers ``[c]`` with their factors."""
        terms = []
        if source in gradients:
            terms.append((gradients[source][s.part], s.sign))
        if source == self._decay and s.coupled and self._theta is not None:
            terms.append((self._theta[s.part], s.coupled))
        return terms

    def _zeros(self) -> Tensor:
        return self._like.new_zeros(self._size)


def _add(to: Tensor, values: Tensor, factor: Number, scale: float) -> None:
    """``to += values × factor × scale`` without anything new."""
    if isinstance(factor, Tensor):
        to.addcmul_(values, factor, value=scale)
    else:
        to.add_(values, alpha=factor * scale)


def _is_zero(value: Number) -> bool:
    return isinstance(value, float) and value == 0.0

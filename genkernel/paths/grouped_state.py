"""One first-moment buffer per source, so that an optimizer's step splits into what every source did.

Sources are groups of training samples, and what else moves parameters: weight decay, and the momentum from before
the recording. Each buffer obeys the optimizer's own recursion (:mod:`genkernel.paths.linear_step`); their sum is the
optimizer's buffer, and the sum of the increments its step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genkernel.paths.coordinates import Coordinates
from genkernel.paths.linear_step import LinearStep


class GroupedState:
    """First-moment buffers ``[S, P]``, growing with the sources.

    Args:
        coordinates: the order of the P entries.
    """

    def __init__(self, coordinates: Coordinates):
        self._like = torch.empty(0, dtype=coordinates.dtype, device=coordinates.device)
        self._size = coordinates.size
        self.buffers: list[Tensor | None] = []  # None: zero so far
        self._increments: list[Tensor | None] = []

    def __len__(self) -> int:
        return len(self.buffers)

    def grow(self, sources: int) -> None:
        """Make room for sources that appear for the first time; they start from zero."""
        self.buffers += [None] * (sources - len(self.buffers))
        self._increments += [None] * (sources - len(self._increments))

    def set_buffer(self, source: int, buffer: Tensor) -> None:
        """Start a source from a buffer ``[P]`` that is there already."""
        self.buffers[source] = buffer

    def advance(
        self, steps: list[LinearStep], gradients: Mapping[int, Tensor], theta: Tensor, decay: int | None
    ) -> None:
        """Make one step.

        Args:
            steps: its coefficients; coordinates of none of them stay where they are.
            gradients: source → data gradient ``[P]``, as it stood in ``.grad``. Freed for the increments.
            theta: θ_k ``[P]`` before the step.
            decay: the source of weight decay; None without one.
        """
        for a in range(len(self.buffers)):
            g = gradients.get(a)
            b = self.buffers[a]
            moved: Tensor | None = None
            for s in steps:
                has_decay = a == decay and (s.coupled or s.decoupled)
                if g is None and b is None and not has_decay:
                    continue
                data: Tensor | None = None
                if g is not None:
                    data = g[s.part] * s.sign
                if a == decay and s.coupled:
                    pull = theta[s.part] * s.coupled
                    data = pull if data is None else data.add_(pull)
                if s.buffered:
                    if b is None and data is not None:
                        b = self.buffers[a] = self._zeros()
                    if b is not None:
                        b[s.part].mul_(s.alpha)
                        if data is not None:
                            b[s.part].add_(data * s.rho)
                        moved = self._zeros() if moved is None else moved
                        moved[s.part].sub_(b[s.part] * s.p)
                if data is not None and not (isinstance(s.q, float) and s.q == 0.0):
                    moved = self._zeros() if moved is None else moved
                    moved[s.part].sub_(data.mul_(s.q))
                if a == decay and s.decoupled:
                    moved = self._zeros() if moved is None else moved
                    moved[s.part].sub_(theta[s.part] * s.decoupled)
            self._increments[a] = moved

    def increment(self, source: int) -> Tensor | None:
        """Δθ^(a) ``[P]`` of the last step; None where it is zero."""
        return self._increments[source]

    def total_increment(self) -> Tensor:
        """Σ_a Δθ^(a) ``[P]``."""
        return self._sum(self._increments)

    def total_buffer(self) -> Tensor:
        """Σ_a b^(a) ``[P]``, which is the optimizer's own buffer."""
        return self._sum(self.buffers)

    def _sum(self, rows: list[Tensor | None]) -> Tensor:
        total = self._zeros()
        for row in rows:
            if row is not None:
                total.add_(row)
        return total

    def _zeros(self) -> Tensor:
        return self._like.new_zeros(self._size)

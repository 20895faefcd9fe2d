"""Averaged weights follow the path of the trained ones, and their path splits in the same way.

    θᴱ_{k+1} = d θᴱ_k + (1 - d) θ_{k+1}

With A^(a) the displacement of θ that source a made so far, the average's own E^(a) ← d E^(a) + (1 - d) A^(a) sum to its
displacement. The decay d of every step is measured on the weights, so that warm-ups, updates on some steps only and
whatever else sets it need not be told.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.paths.coordinates import Coordinates
from genkernel.tangent.weights import read_weights


class Average:
    """The running average of a network's weights, split by source.

    Args:
        module: the network.
        average: where its averaged weights are, as :meth:`genkernel.tangent.TangentModel.at` takes them
            (``AveragedModel``, diffusers' ``EMAModel``, a module, tensors by name).
        coordinates: the order of the parameters.
        theta: the trained weights ``[P]`` now.

    Attributes:
        theta: the averaged weights ``[P]``.
        followed: it ever moved.

    Raises:
        InputError: it does not hold weights of this network.
    """

    def __init__(self, module: nn.Module, average: Any, coordinates: Coordinates, theta: Tensor):
        self._module, self._source, self._coordinates = module, average, coordinates
        self.theta = self._read()
        if not torch.isfinite(self.theta).all():
            raise InputError("the averaged weights hold NaN or infinite entries")
        self.followed = False
        self._displaced: dict[int, Tensor] = {}  # A
        self._averaged: dict[int, Tensor] = {}  # E
        self._increments: dict[int, Tensor] = {}
        self.apart = None if torch.equal(self.theta, theta) else theta - self.theta

    def start(self, source: int) -> None:
        """Give what lay between the average and the weights at the start to a source."""
        if self.apart is not None:
            self._displaced[source] = self.apart
            self.apart = None

    def displace(self, source: int, increment: Tensor) -> None:
        """The weights moved by an increment ``[P]`` of a source."""
        if source in self._displaced:
            self._displaced[source].add_(increment)
        else:
            self._displaced[source] = increment.clone()

    def moved(self) -> bool:
        """The averaged weights are not those of the last look."""
        return not torch.equal(self._read(), self.theta)

    def update(self, theta: Tensor) -> Tensor:
        """Look at the average after a step.

        Args:
            theta: the trained weights ``[P]`` that it may have taken in.

        Returns:
            The averaged weights ``[P]``; :meth:`increment` says what each source moved them by.

        Raises:
            InputError: they are no average of what they were and the weights.
        """
        now = self._read()
        moved, towards = (now - self.theta).double(), (theta - self.theta).double()
        square = float(towards.square().sum())
        share = float(moved @ towards) / square if square else 0.0
        error = (moved - share * towards).abs().max()
        eps = torch.finfo(self.theta.dtype).eps
        allowed = 8 * eps * float(now.abs().max()) + 1e-3 * float(moved.abs().max())
        if float(error) > allowed or not -1e-6 <= share <= 1 + 1e-6:
            raise InputError(
                "the averaged weights are not d · (what they were) + (1 - d) · (the trained weights) for any d: they "
                f"were changed in another way (off by {float(error):.1e})"
            )
        self._increments, self.followed = {}, self.followed or bool(moved.any())
        for a, displaced in self._displaced.items():
            averaged = self._averaged.get(a)
            increment = (displaced - averaged if averaged is not None else displaced).mul(share)
            self._averaged[a] = averaged.add_(increment) if averaged is not None else increment.clone()
            self._increments[a] = increment
        self.theta = now
        return now

    def increment(self, source: int) -> Tensor | None:
        """What a source moved the average by in the last update, a new tensor ``[P]``; None for zero."""
        found = self._increments.get(source)
        return None if found is None else found.clone()

    def buffers(self) -> dict[str, Tensor]:
        """The average's buffers where it keeps its own, the network's otherwise."""
        found = read_weights(self._module, self._source, strict=False)
        own = dict(self._module.named_buffers())
        return {name: found.get(name, value).detach() for name, value in own.items()}

    def _read(self) -> Tensor:
        found = read_weights(self._module, self._source, strict=False)
        missing = [name for name in self._coordinates.names if name not in found]
        if missing:
            raise InputError(f"the averaged weights have nothing for {missing[0]!r} ({len(missing)} are missing)")
        return self._coordinates.flat(found)

    def state(self) -> dict[str, Any]:
        """Everything, for :meth:`restore`."""
        return {
            "theta": self.theta,
            "displaced": {str(a): value for a, value in self._displaced.items()},
            "averaged": {str(a): value for a, value in self._averaged.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            InputError: the averaged weights are others.
        """
        saved = state["theta"].to(self.theta.device)
        if not torch.equal(saved, self.theta):
            raise InputError("the averaged weights are not those of the recording: load them as well")
        self._displaced = {int(a): value.to(saved.device) for a, value in state["displaced"].items()}
        self._averaged = {int(a): value.to(saved.device) for a, value in state["averaged"].items()}
        self.apart = None

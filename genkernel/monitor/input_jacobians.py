"""Networks as functions of their inputs, time and again as weights and samples change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genkernel.tangent import TangentModel
from genkernel.tangent.input_jacobian import InputJacobian


class InputJacobians:
    """Keeps what was measured and verified of a network: memory per sample, the route to products.

    Args:
        memory: bytes that running samples may take, asked once for each name.
    """

    def __init__(self, memory: Callable[[], int]):
        self._memory = memory
        self._known: dict[str, InputJacobian] = {}

    def at(self, name: str, model: TangentModel, batch: Any, leaf: str, together: int | None = None) -> InputJacobian:
        """The one of this name, by the present weights of the model, at these samples: as many as ever.

        Args:
            leaf: the entry of the batch that is the input.
            together: samples that have to run together; follows from the memory by default.
        """
        found = self._known.get(name)
        if found is None:
            found = InputJacobian(model, batch, leaf, batch_size=together, memory=max(1, self._memory()))
            self._known[name] = found
        found.model, found.batch = model, batch
        return found

    def let_go(self) -> None:
        """The samples of a reading are not held until the next."""
        for one in self._known.values():
            one.batch = None

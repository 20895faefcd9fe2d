"""Networks beside the one that trains (a discriminator in a generator's loss): found, and left as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from genkernel.tangent.restore import restored


class OtherModules:
    """Modules that are run although they are no part of a network.

    Args:
        module: the network.
        known: those that are known beforehand.

    Attributes:
        coarse: something ran under autocast, so that numbers are no better than those of 16 bits.
    """

    def __init__(self, module: nn.Module, known: Sequence[nn.Module] = ()):
        self._own = {id(m) for m in module.modules()}
        self._device = next((p.device.type for p in module.parameters()), "cpu")
        self._known = list(known)
        self.coarse = False

    @contextmanager
    def found(self) -> Iterator[None]:
        """Look for others while a forward pass runs, and put back what it did to them."""
        held: list[tuple[Tensor, Tensor]] = []
        seen = {id(m) for known in self._known for m in known.modules()} | self._own

        def look(module: nn.Module, _: object) -> None:
            self.coarse = self.coarse or torch.is_autocast_enabled(self._device)
            if id(module) in seen:
                return
            if any(id(part) in self._own for part in module.modules()):  # a wrapper around the network itself
                seen.add(id(module))
                return
            held.extend((buffer, buffer.detach().clone()) for buffer in module.buffers())
            seen.update(map(id, module.modules()))
            if any(True for _ in (*module.parameters(), *module.buffers())):
                self._known.append(module)

        handle = nn.modules.module.register_module_forward_pre_hook(look)
        try:
            with self.kept():
                yield
        finally:
            handle.remove()
            _put_back(held)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Attributes and buffers of the others are what they were, afterwards."""
        held = [(buffer, buffer.detach().clone()) for other in self._known for buffer in other.buffers()]
        with ExitStack() as stack:
            stack.callback(_put_back, held)
            for other in self._known:
                stack.enter_context(restored(other))
            yield


def _put_back(held: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Running statistics and spectral norm's vectors that a forward pass in training mode wrote to."""
    with torch.no_grad():
        for buffer, before in held:
            if not torch.equal(buffer, before):
                buffer.copy_(before)

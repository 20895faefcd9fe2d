"""Readings leave the training as it was: random states, autocast, gradient mode, and the modules themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from genkernel.monitor.unwrapped import run_plainly
from genkernel.tangent.restore import random_state_kept, restored


@contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Whatever happens inside, exceptions too, modules and global states are afterwards what they were.

    Autocast is off meanwhile, gradients can be taken even where the caller is in ``no_grad`` or inference mode, and
    modules are in the mode they are in; what reads them puts them into evaluation mode for as long as it runs them.
    They run the functions they were written with (:func:`~genkernel.monitor.unwrapped.run_plainly`).
    """
    modules = list(modules)
    kinds = {parameter.device.type for module in modules for parameter in module.parameters()} | {"cpu"}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(restored(module))
        run_plainly(modules)
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(random_state_kept())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted(kinds - {"meta"}):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield

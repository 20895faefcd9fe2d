"""Recognise errors: those that mean there is not enough memory, and where torch does not say how much is taken."""

from __future__ import annotations

import torch

#: by torch's allocators, and by oneDNN, which cannot make its buffers (it says the same of what it does not
#: support; that is raised all the same once there is nothing left to halve)
SAID = ("can't allocate memory", "not enough memory", "out of memory", "could not create a ")


def out_of_memory(error: BaseException) -> bool:
    """True for the ways in which torch and Python say so, on a CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)


def refuses_hooks(error: RuntimeError) -> bool:
    """True where a model that calls ``torch.func.grad`` and the like met hooks that count what autograd saves."""
    return "saved tensor hooks" in str(error)

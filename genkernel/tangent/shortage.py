"""Recognise the errors that mean there is not enough memory."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """True for the ways in which torch and Python say so, on a CPU or a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text.lower()
    )

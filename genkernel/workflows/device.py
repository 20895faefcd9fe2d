"""Where a checkpoint goes."""

from __future__ import annotations

import torch

from genkernel.errors import InputError


def place(device: str | torch.device | None) -> torch.device:
    """Where a checkpoint goes: a CUDA device when there is one, unless something else is asked for."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return target

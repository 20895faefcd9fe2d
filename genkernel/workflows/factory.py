"""A network from the user's own code and a file of weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn


def place(device: str | torch.device | None) -> torch.device:
    """Where a checkpoint goes: a CUDA device when there is one, unless something else is asked for."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return target


def from_factory(
    factory: str, factory_args: Mapping[str, Any] | None, path: Path, trust_pickle: bool, key: str | None
) -> tuple[nn.Module, list[str]]:
    """Build the network with the user's own code and fill in the weights, strictly."""
    from torch import nn

    from genkernel.checkpoints import read_state_dict

    home, _, attribute = factory.partition(":")
    if not home or not attribute:
        raise InputError(f"factory is 'package.module:Name', not {factory!r}")
    try:
        build = importlib.import_module(home)
        for part in attribute.split("."):
            build = getattr(build, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the factory {factory!r} cannot be imported: {error}") from error
    try:
        module = build(**dict(factory_args or {}))  # type: ignore[operator]
    except TypeError as error:
        raise InputError(
            f"the factory {factory!r} cannot be called with {dict(factory_args or {})}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"the factory {factory!r} built a {type(module).__name__}, not a torch.nn.Module")
    if path.is_dir():
        raise InputError(f"{path} is a folder: with a factory, give the file of weights")
    state = read_state_dict(path, trust_pickle=trust_pickle, key=key)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise InputError(f"the weights in {path} do not fit {factory!r}: {reason}") from error
    return module.eval(), [f"built by {factory}"]

"""A network from the user's own code and a file of weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import GenkernelError, InputError

if TYPE_CHECKING:
    from torch import nn


_OF_OURS = re.compile(r"genkernel\.models\.\w+:\w+")


def is_ours(factory: str) -> bool:
    """Whether it names a network that is defined in :mod:`genkernel.models`."""
    from torch import nn

    if not _OF_OURS.fullmatch(factory):
        return False
    home, _, name = factory.partition(":")
    try:
        found = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == home


def from_factory(
    factory: str,
    factory_args: Mapping[str, Any] | None,
    path: Path,
    trust_pickle: bool,
    key: str | None,
    key_option: str = "key=",
) -> tuple[nn.Module, list[str]]:
    """Build the network with the user's own code and fill in the weights, strictly.

    Args:
        key_option: for messages: what the caller gives ``key`` with.

    Returns:
        The network in evaluation mode on the CPU, and a note on how it was built.

    Raises:
        InputError: the code cannot be imported or fails, builds no network, or the weights do not fit.
        MissingError, UnsafeCheckpointError: from reading the weights.
    """
    from torch import nn

    from genkernel.checkpoints import read_state_dict
    from genkernel.checkpoints.weights import a
    from genkernel.workflows.arguments import shown

    home, _, attribute = factory.partition(":")
    if not home or not attribute:
        raise InputError(f"factory is 'package.module:Name', not {factory!r}")
    try:
        build = importlib.import_module(home)
        for part in attribute.split("."):
            build = getattr(build, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the factory {factory!r} cannot be imported: {_line(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise InputError(f"the factory {factory!r} cannot be imported: {_reason(error)}") from error
    try:
        module = build(**dict(factory_args or {}))  # type: ignore[operator]
    except TypeError as error:
        raise InputError(
            f"the factory {factory!r} cannot be called with {shown(dict(factory_args or {}))}: {_line(error)}"
        ) from error
    except GenkernelError:  # of our own networks, which say it well
        raise
    except (Exception, SystemExit) as error:  # whatever the user's class does when it is built
        raise InputError(
            f"the factory {factory!r} fails when it is called with {shown(dict(factory_args or {}))}: {_reason(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"the factory {factory!r} built {a(module)}, not a torch.nn.Module")
    if path.is_dir():
        raise InputError(f"{path} is a folder: with a factory, give the file of weights")
    state = read_state_dict(path, trust_pickle=trust_pickle, key=key, option=key_option)
    try:
        module.load_state_dict(state)
    except Exception as error:  # a RuntimeError, or what a network's own hooks raise
        raise InputError(f"the weights in {path} do not fit {factory!r}: {_misfit(module, state, error)}") from error
    return module.eval(), [f"built by {factory}"]


def _misfit(module: nn.Module, state: Mapping[str, Any], error: Exception) -> str:
    """Which names the network misses and which the file has instead; else torch's own first reason."""
    expected = list(module.state_dict())
    missing = [name for name in expected if name not in state]
    others = [name for name in state if name not in set(expected)]
    if missing:
        instead = f", and it has {_few(others)} that the network does not know" if others else ""
        return f"the file lacks {_few(missing)}{instead}"
    if others:
        return f"the file has {_few(others)} that the network does not know"
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 else _reason(error)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _reason(error: BaseException) -> str:
    """Type and message, with the place of a syntax error, in one line."""
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename).name}, line {error.lineno})" if error.filename else ""
        return f"{type(error).__name__}: {error.msg}{where}"
    if isinstance(error, SystemExit):
        return "it ends the program (SystemExit), as scripts do without an 'if __name__ == \"__main__\":'"
    return f"{type(error).__name__}: {_line(error)}"

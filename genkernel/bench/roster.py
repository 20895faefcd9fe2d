"""Who takes part in the comparison: genkernel, plain PyTorch, third-party packages, and what a caller brings."""

from __future__ import annotations

import importlib

from genkernel.bench.contenders import AGAIN, FLOOR, OWN, TF32, TORCH, Contender
from genkernel.bench.peers import PEERS
from genkernel.errors import InputError


def contenders() -> dict[str, Contender]:
    """Everyone by name, in the order of the table."""
    return {c.name: c for c in (*OWN, FLOOR, *AGAIN, *TORCH, *PEERS, *TF32)}


def find(name: str) -> Contender:
    """A contender by name, or any other as ``module:attribute``.

    Raises:
        InputError: there is no such contender.
    """
    known = contenders()
    if name in known:
        return known[name]
    home, _, attribute = name.partition(":")
    if attribute:
        try:
            found = getattr(importlib.import_module(home), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(f"the contender {name!r} cannot be imported: {error}") from error
        if isinstance(found, Contender):
            return found
        raise InputError(f"{name!r} is not a genkernel.bench.Contender")
    raise InputError(f"there is no contender {name!r}: choose from {', '.join(known)}, or give module:attribute")

"""What each tensor function does to its parameters: one rule per family, found by function object.

A rule turns the inputs A kept by a use and its output-gradient B into the per-sample gradient
of one argument. A function without a rule is differentiated per sample by ``generic``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genkernel.tangent.rules.base import Rule
from genkernel.tangent.rules.own import REGISTERED, register

__all__ = ["Rule", "composite", "find", "register"]

_TABLE: dict[Any, Rule] = {}


def find(func: Any) -> Rule | None:
    """The rule of a torch function, or None."""
    if not _TABLE:
        from genkernel.tangent.rules import (
            attention,
            convolution,
            elementwise,
            embedding,
            joining,
            linear,
            normalization,
            products,
            selection,
        )

        families = (linear, products, convolution, normalization, embedding, elementwise, selection, joining, attention)
        for module in families:
            _TABLE.update(module.RULES)
    try:
        return REGISTERED.get(func) or _TABLE.get(func)
    except TypeError:  # an unhashable callable
        return None


def composite(func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The same function written with simpler ones that have rules, or None."""
    from genkernel.tangent.rules import recurrent

    try:
        found = recurrent.COMPOSITES.get(func)
    except TypeError:
        return None
    return found if found is not None and recurrent.plain(args) else None

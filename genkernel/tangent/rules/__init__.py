"""What each tensor function does to its parameters: one rule per family, found by function object.

A rule turns the inputs A kept by a use and its output-gradient B into the per-sample gradient
of one argument. A function without a rule is differentiated per sample by ``generic``.
"""

from __future__ import annotations

from typing import Any

from genkernel.tangent.rules.base import Rule

__all__ = ["Rule", "find"]

_TABLE: dict[Any, Rule] = {}


def find(func: Any) -> Rule | None:
    """The rule of a torch function, or None."""
    if not _TABLE:
        from genkernel.tangent.rules import convolution, elementwise, embedding, linear, normalization

        for module in (linear, convolution, normalization, embedding, elementwise):
            _TABLE.update(module.RULES)
    try:
        return _TABLE.get(func)
    except TypeError:  # an unhashable callable
        return None

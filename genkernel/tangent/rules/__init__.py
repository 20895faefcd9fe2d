"""What each tensor function does to its parameters: one rule per family, found by function object.

A rule turns the inputs A kept by a use and its output-gradient B into the per-sample gradient
of one argument. A function without a rule is differentiated per sample by ``generic``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genkernel.errors import InputError
from genkernel.tangent.rules.base import Rule

__all__ = ["Rule", "composite", "find", "register"]

_TABLE: dict[Any, Rule] = {}
_REGISTERED: dict[Any, Rule] = {}


def register(func: Callable[..., Any], rule: Rule | None) -> None:
    """Give a function of tensors, such as an operator of one's own, a rule; it goes before the engine's.

    The proof before every run compares what the rule makes with autograd: a parameter that a wrong rule gets wrong
    goes through the generic path, and is named. Stores and proofs of earlier runs do not know of rules: begin new ones.

    Args:
        func: the function that the model calls, such as ``torch.logaddexp`` or ``torch.Tensor.logaddexp``: each name
            is a function of its own.
        rule: turns its inputs and output-gradients into per-sample gradients; None takes an earlier one back.

    Raises:
        InputError: it is no function, or no rule.
    """
    try:
        hash(func)
    except TypeError:
        raise InputError(f"a rule is for a function that can be looked up, not {func!r}") from None
    if not callable(func) or not (rule is None or isinstance(rule, Rule)):
        raise InputError(f"register takes a function and a Rule, not {func!r} and {type(rule).__name__}")
    if rule is None:
        _REGISTERED.pop(func, None)
    else:
        _REGISTERED[func] = rule


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
        return _REGISTERED.get(func) or _TABLE.get(func)
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

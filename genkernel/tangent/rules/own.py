"""Rules of the user's own: what they may be registered for, and what is said of one that fails.

The proof takes the calls of such a rule by another way, and names it; in a run it raises :class:`RuleError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name

from genkernel.errors import CaptureError, InputError
from genkernel.tangent.factors import Factor
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.base import Rule
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.use import Use

REGISTERED: dict[Any, Rule] = {}
_TOLD: set[str] = set()  # warnings about rules as they are registered now

Found = TypeVar("Found")


class RuleError(CaptureError):
    """A registered rule raised, or gave something that is no gradient."""


def register(func: Callable[..., Any], rule: Rule | None) -> None:
    """Give a function of tensors, such as a custom operator, a rule; it goes before the engine's.

    The proof before every run compares what the rule makes of three samples with autograd. A parameter that the rule
    gets wrong there is differentiated another way, and is named in the coverage; so is a rule that raises. Stores and
    proofs of earlier runs do not know of rules: begin new ones.

    Args:
        func: the function that the model calls, such as ``torch.logaddexp`` or ``torch.Tensor.logaddexp``: each name
            is a function of its own, and so is each operator. Or an operator by :func:`torch.library.custom_op`.
        rule: turns its inputs and output-gradients into per-sample gradients; None takes an earlier one back.

    Raises:
        InputError: it is no function of which calls are seen, or no rule.
    """
    func = getattr(func, "_opoverload", func)  # what a custom operator calls
    try:
        hash(func)
    except TypeError:
        raise InputError(f"a rule is for a function that can be looked up, not {func!r}") from None
    if not callable(func) or not (rule is None or isinstance(rule, Rule)):
        raise InputError(f"register takes a function and a Rule, not {func!r} and {type(rule).__name__}")
    if rule is None:
        REGISTERED.pop(func, None)
    else:
        _refuse_unseen(func)
        REGISTERED[func] = rule
    _TOLD.clear()


def _refuse_unseen(func: Any) -> None:
    """Refuse what never arrives at the engine as a call."""
    owner = func if isinstance(func, type) else getattr(func, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        raise InputError(
            f"calls of the autograd.Function {owner.__name__} are not seen, so a rule for it would have no effect: "
            "make it an operator with torch.library.custom_op (and register_autograd), let the model call that, and "
            "register the operator"
        )
    module = func if isinstance(func, type) else type(owner if isinstance(owner, nn.Module) else func)
    if issubclass(module, nn.Module):
        raise InputError(
            f"{module.__name__} is a module, and the engine sees functions of tensors: register the function that its "
            "forward calls, such as torch.nn.functional.linear for torch.nn.Linear"
        )
    if isinstance(func, type):
        raise InputError(f"{func.__name__} is a class, not a function that a model calls with tensors")


def tell_once(message: str) -> bool:
    """True the first time, and after a rule was registered or taken back."""
    new = message not in _TOLD
    _TOLD.add(message)
    return new


def factor(use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
    """What the rule of a use gives: :meth:`Rule.factor`.

    Raises:
        RuleError: the rule is a registered one, and it raised or gave no factor of the right shape.
    """
    assert use.rule is not None
    rule, wanted = use.rule, (n, *use.slots[position].shape)
    if not _registered(use.func, rule):
        return rule.factor(use, position, B, n, layout)
    found: Any = _guarded(use.func, rule, lambda: rule.factor(use, position, B, n, layout))
    if found is not None and not isinstance(found, Factor):
        raise RuleError(f"{_named(use.func, rule)} returned {_described(found)}, not a Factor (such as Dense) or None")
    if found is not None and (found.n, *found.shape) != wanted:
        got = (found.n, *found.shape)
        raise RuleError(f"{_named(use.func, rule)} returned gradients of shape {got} where {wanted} was due")
    return found


def own(use: Use, position: int, B: Tensor) -> Tensor | None:
    """The same for an argument that has a slot for every sample: :meth:`Rule.own`."""
    assert use.rule is not None
    rule, wanted = use.rule, tuple(use.slots[position].shape)
    if not _registered(use.func, rule):
        return rule.own(use, position, B)
    found: Any = _guarded(use.func, rule, lambda: rule.own(use, position, B))
    if found is not None and not (isinstance(found, Tensor) and tuple(found.shape) == wanted):
        what = f"{_named(use.func, rule)} returned {_described(found)} as the gradient of an argument"
        raise RuleError(f"{what} with samples of its own, where a tensor of shape {wanted} was due")
    return found


def call(rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """:meth:`Rule.call`. What the function itself raises is the model's, and raised as it is."""
    if type(rule).call is Rule.call or not _registered(func, rule):
        return rule.call(func, args, kwargs)
    try:
        return _guarded(func, rule, lambda: rule.call(func, args, kwargs))
    except RuleError:
        func(*args, **kwargs)
        raise


def forget(use: Use, rule: Rule) -> None:
    """:meth:`Rule.forget`."""
    if _registered(use.func, rule):
        _guarded(use.func, rule, lambda: rule.forget(use))
    else:
        rule.forget(use)


def in_a_run(error: RuleError, use: Use, n: int) -> RuleError:
    """What to say of a rule that failed on samples which the proof did not see."""
    return RuleError(
        f"{error}, on a batch of {n} sample{'s' * (n != 1)}; it did not on those of the proof. Correct it, or take it "
        f"back: register({_called(use.func)}, None)"
    )


def _registered(func: Any, rule: Rule) -> bool:
    return REGISTERED.get(func) is rule


def _guarded(func: Any, rule: Rule, compute: Callable[[], Found]) -> Found:
    try:
        return compute()
    except Exception as error:
        if out_of_memory(error):
            raise
        said = (str(error).splitlines() or [""])[0]
        hint = " (is an argument that it reads missing from keeps?)" if "NoneType" in said else ""
        raise RuleError(f"{_named(func, rule)} raised {type(error).__name__}: {said}{hint}") from error


def _named(func: Any, rule: Rule) -> str:
    return f"the rule {type(rule).__name__} of {_called(func)}"


def _called(func: Any) -> str:
    name = resolve_name(func) or getattr(func, "__name__", None) or str(func)
    return f"torch.ops.{name}" if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) else name


def _described(found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"

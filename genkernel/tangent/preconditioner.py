"""Preconditioners: the P of K^P = J P Jᵀ, symmetric and positive semidefinite (THEORY §1).

P is block-diagonal over groups of parameters. On most parameters it is a diagonal, on some it is
given by its action on a block of them (one parameter, or several that it couples), and elsewhere
the identity. The kernel with P equals the plain kernel of features scaled by P^{1/2}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent.actions import Action, Between, Block, Function, Rows, check_shape
from genkernel.tangent.fingerprint import fingerprint
from genkernel.tangent.kronecker import Kronecker
from genkernel.tangent.model import ParameterFilter, TangentModel, as_tangent_model, name_filter
from genkernel.tangent.optimizers import Names, diagonal_of

EVERY: Block = ("*",)  # an action on every parameter alone, until there is a model to name them


class Preconditioner:
    """P by parameter: made by the class methods below, used by ``kernel(precondition=)``.

    Parameters that it says nothing about have P = 1. Two P's multiply (``p @ q``) where the product
    is symmetric, and ``p.between(d)`` is D P D for a diagonal D, which always is.
    """

    def __init__(
        self,
        roots: Mapping[str, Tensor],
        actions: Mapping[Block, tuple[Action, float]],
        label: str,
        scale: float = 1.0,
    ):
        self._roots = dict(roots)  # square roots of the diagonals: what kernels multiply gradients by
        self._actions = dict(actions)  # block → (P on it, a number times that)
        self._scale = scale  # of every parameter without an entry
        self._label = label

    # ------------------------------------------------------------------ diagonal P

    @classmethod
    def diagonal(cls, diagonal: Mapping[str, Tensor], label: str | None = None) -> Preconditioner:
        """A diagonal by parameter name, each shaped like its parameter; 1 on parameters without an entry.

        Raises:
            InputError: an entry is no tensor, negative, or not finite.
        """
        if not isinstance(diagonal, Mapping):
            raise InputError(f"a diagonal is a mapping from parameter names to tensors, not {type(diagonal).__name__}")
        return cls(
            {name: _checked_root(name, value) for name, value in diagonal.items()},
            {},
            label or f"diagonal given on {_count(len(diagonal), 'parameter')}",
        )

    @classmethod
    def from_optimizer(
        cls,
        optimizer: Any,
        model: TangentModel | nn.Module,
        *,
        names: Names | None = None,
        kind: str | None = None,
        learning_rates: str = "relative",
        without_state: str = "refuse",
    ) -> Preconditioner:
        """What a torch optimizer multiplies a gradient by, momentum and learning rate left out.

        SGD (P = 1), Adagrad, RMSprop (centred, too), Adam and AdamW (amsgrad, too), NAdam, RAdam, Adamax
        and Adadelta; the formulas are at :mod:`genkernel.tangent.optimizers`. A step is -γ P m̂ with γ the
        learning rate and m̂ the bias-corrected momentum (THEORY §3.2). Read it after a step: then P is the
        one that step used (Adadelta's: the next one's).

        Args:
            optimizer: the optimizer, or its ``state_dict()``.
            model: the model whose selected parameters get a P.
            names: names of the parameters of a ``state_dict()``, in the order of its groups, or by index.
                By default the names it carries (torch writes them if the optimizer was made from
                ``named_parameters()``), else the order of ``module.parameters()`` (all, those that require
                gradients, or the selected ones) with every shape compared; groups keep that order, and where
                more than one assignment fits, it is refused.
            kind: which optimizer's formula holds (``"adam"``), for optimizers that are not torch's.
            learning_rates: ``"relative"`` multiplies P by a parameter's learning rate over the largest, so P
                is the bare diagonal for one group; ``"include"`` by the learning rate itself; ``"exclude"`` by
                nothing.
            without_state: what a selected parameter gets that the optimizer never moved, or does not hold:
                ``"refuse"`` raises, ``"zero"`` is P = 0.

        Raises:
            InputError: the optimizer's step is no known diagonal times the gradient, or its state does not
                fit the model.
        """
        model = as_tangent_model(model)
        found, words = diagonal_of(
            optimizer, model, names=names, kind=kind, learning_rates=learning_rates, without_state=without_state
        )
        return cls.diagonal(found, words)

    @classmethod
    def mask(cls, model: TangentModel | nn.Module, keep: ParameterFilter | Mapping[str, Tensor]) -> Preconditioner:
        """P = 1 on some parameters or entries and 0 on the others.

        Args:
            model: the model whose selected parameters are masked.
            keep: a glob, a compiled regular expression or a predicate on names: whole parameters, the others
                get 0. Or booleans by name, shaped like the parameters: entries; parameters without an entry
                are kept whole.

        Raises:
            InputError: nothing matches, or an entry is not boolean.
        """
        model = as_tangent_model(model)
        if isinstance(keep, Mapping):
            wrong = [name for name, value in keep.items() if getattr(value, "dtype", None) is not torch.bool]
            if wrong:
                raise InputError(f"the mask of {wrong[0]!r} has to be a tensor of booleans (True keeps an entry)")
            return cls.diagonal(keep, f"mask given on {_count(len(keep), 'parameter')}")
        chosen = name_filter(keep)
        kept = {name for name in model.parameter_names if chosen(name)}
        if not kept:
            raise InputError(f"the mask {keep!r} keeps none of the {len(model.parameter_names)} selected parameters")
        constants = {name: float(name in kept) for name in model.parameter_names}
        words = f"mask that keeps {len(kept)} of {_count(len(constants), 'parameter')}"
        return cls(_constant_roots(model, constants), {}, words)

    @classmethod
    def learning_rates(
        cls, model: TangentModel | nn.Module, rates: Mapping[str, float] | Sequence[tuple[ParameterFilter, float]]
    ) -> Preconditioner:
        """One number for each group of parameters, such as its learning rate.

        Args:
            model: the model whose selected parameters are grouped.
            rates: name pattern (glob, compiled regular expression or predicate) to a number ≥ 0; the first
                pattern that matches decides.

        Raises:
            InputError: a parameter matches no pattern, a pattern decides for none, or a number is negative.
        """
        model = as_tangent_model(model)
        pairs = list(rates.items()) if isinstance(rates, Mapping) else list(rates)
        filters = [name_filter(pattern) for pattern, _ in pairs]
        constants, used = {}, set()
        for name in model.parameter_names:
            place = next((i for i, matches in enumerate(filters) if matches(name)), None)
            if place is None:
                raise InputError(f"no learning rate is given for {name!r}: let '*' be the last pattern for the rest")
            used.add(place)
            constants[name] = _factor(pairs[place][1])
        unused = [pairs[i][0] for i in range(len(pairs)) if i not in used]
        if unused:
            raise InputError(f"the learning rate for {unused[0]!r} belongs to no selected parameter")
        return cls(_constant_roots(model, constants), {}, f"learning rates of {_count(len(pairs), 'group')}")

    # ----------------------------------------------------------------- P by action

    @classmethod
    def action(
        cls, fn: Callable[[Rows], Rows], blocks: Iterable[Sequence[str] | str] | None = None, label: str | None = None
    ) -> Preconditioner:
        """Any symmetric positive semidefinite P, given by what it does.

        Args:
            fn: rows by parameter name ``[r, *shape]`` to P times each row, in the same shapes, dtype and
                device; it is called with all parameters of one block at a time.
            blocks: names of the parameters that ``fn`` couples, one tuple for each block; parameters in none
                have P = 1. By default every selected parameter is a block of its own.

        It is tried on random rows before its first use with a model (:meth:`check`).

        Raises:
            InputError: a parameter is in two blocks.
        """
        if not callable(fn):
            raise InputError(f"an action is a function of rows by parameter name, not {type(fn).__name__}")
        operator = Function(fn)
        names = [EVERY] if blocks is None else [(b,) if isinstance(b, str) else tuple(b) for b in blocks]
        _disjoint(names)
        where = "every parameter" if blocks is None else _count(len(names), "block")
        return cls({}, dict.fromkeys(names, (operator, 1.0)), label or f"{operator.name} acting on {where}")

    @classmethod
    def kronecker(
        cls, factors: Mapping[str | Block, tuple[Tensor, Tensor]], *, damping: float = 0.0, inverse: bool = False
    ) -> Preconditioner:
        """Kronecker factors: P = L ⊗ R + λ or, with ``inverse``, (L ⊗ R + λ)⁻¹.

        (L ⊗ R) G = L G R on a gradient G ``[rows, columns]``, a parameter reshaped to its first axis by the
        rest. Inverted it is the preconditioner of K-FAC (Martens & Grosse 2015, with undivided damping:
        there R is the second moment of a layer's inputs and L that of its output-gradients).

        Args:
            factors: parameter name to (L ``[rows, rows]``, R ``[columns, columns]``), symmetric positive
                semidefinite. A tuple of names puts their columns side by side, a vector ``[rows]`` as one
                column: ``("fc.weight", "fc.bias")``.
            damping: λ ≥ 0.
            inverse: invert, by the eigendecompositions of L and R.

        Raises:
            InputError: a factor is not square, symmetric and positive semidefinite, λ is negative, or the
                inverse does not exist.
        """
        operators = {(key,) if isinstance(key, str) else tuple(key): pair for key, pair in factors.items()}
        _disjoint(operators)
        words = "inverse of Kronecker factors" if inverse else "Kronecker factors"
        words += f" on {_count(len(operators), 'block')}" + (f", damping {damping:g}" if damping else "")
        return cls({}, {b: (Kronecker(b, *pair, damping, inverse), 1.0) for b, pair in operators.items()}, words)

    # ----------------------------------------------------------------- composition

    def scaled(self, factor: float) -> Preconditioner:
        """factor · P, for a factor ≥ 0."""
        factor = _factor(factor)
        return Preconditioner(
            {name: _product(root, math.sqrt(factor)) for name, root in self._roots.items()},
            {block: (action, own * factor) for block, (action, own) in self._actions.items()},
            f"{factor:g} × ({self._label})",
            self._scale * factor,
        )

    def __matmul__(self, other: Preconditioner) -> Preconditioner:
        """The product P Q, where it is symmetric: where P and Q commute.

        Diagonals do. An action commutes with a diagonal that is constant over its block.

        Raises:
            InputError: the product is not symmetric.
        """
        if not isinstance(other, Preconditioner):
            return NotImplemented
        actions = {}
        for one, two in ((self, other), (other, self)):
            for block, (action, factor) in one._actions.items():
                constant = two._constant_on(block)
                if constant is None:
                    if EVERY in (block, *two._actions):
                        raise InputError(_unbound(f"{one._label} · {two._label}"))
                    raise InputError(
                        f"the product of two preconditioners is not symmetric where one acts on {_said(block)} and the "
                        "other is not constant there: p.between(d) is D P D"
                    )
                actions[block] = (action, factor * constant)
        acted = {name for block in actions for name in block}
        names = [name for name in self._roots | other._roots if name not in acted]
        roots = {name: _product(self._root(name), other._root(name)) for name in names}
        label = " · ".join(p._label for p in (self, other))
        return Preconditioner(roots, actions, label, self._scale * other._scale)

    def between(self, diagonal: Preconditioner) -> Preconditioner:
        """D P D for a diagonal D: symmetric and positive semidefinite whatever P is.

        With a mask for D it is P restricted to the entries that the mask keeps.

        Raises:
            InputError: D is not diagonal.
        """
        if diagonal._actions:
            raise InputError(f"only a diagonal can stand on both sides of a preconditioner, not {diagonal._label}")
        if EVERY in self._actions and diagonal._roots:
            raise InputError(_unbound(self._label))
        actions = {}
        for block, (action, factor) in self._actions.items():
            d = {name: _square(diagonal._root(name)) for name in block}
            actions[block] = (Between(action, d), factor)
        acted = {name for block in actions for name in block}
        names = [name for name in self._roots | diagonal._roots if name not in acted]
        roots = {name: _product(self._root(name), _square(diagonal._root(name))) for name in names}
        label = f"{self._label} between {diagonal._label}"
        return Preconditioner(roots, actions, label, self._scale * diagonal._scale**2)

    def _root(self, name: str) -> Tensor | float:
        return self._roots[name] if name in self._roots else math.sqrt(self._scale)

    def _constant_on(self, block: Block) -> float | None:
        """c where P = c on a block; None where it is more than a number there."""
        if EVERY in (block, *self._actions):
            return self._scale if not self._roots and not self._actions else None
        if any(name in own for own in self._actions for name in block):
            return None
        constants = set()
        for name in block:
            root = self._root(name)
            value = float(root.flatten()[0]) if isinstance(root, Tensor) and root.numel() else root
            if isinstance(root, Tensor) and not bool((root == value).all()):
                return None
            constants.add(float(value) ** 2)
        return constants.pop() if len(constants) == 1 else None

    # --------------------------------------------------------- used by the engine

    @property
    def blocks(self) -> list[Block]:
        """The parameters that :meth:`apply` handles, grouped by what P couples."""
        if EVERY in self._actions:
            raise InputError(_unbound(self._label))
        return list(self._actions)

    def diagonal_root(self, name: str) -> Tensor | None:
        """√P of a parameter with a diagonal P, shaped like it; None where P = 1.

        Raises:
            InputError: the parameter is in one of :attr:`blocks`.
        """
        if any(name in block or block == EVERY for block in self._actions):
            raise InputError(f"the preconditioner acts on {name!r} as a whole: it has no diagonal")
        if name not in self._roots and self._scale != 1:
            raise InputError(_unbound(self._label))
        return self._roots.get(name)

    def apply(self, rows: Mapping[str, Tensor]) -> Rows:
        """P times rows of gradients: name → ``[r, *shape]``, the same names and shapes.

        Raises:
            InputError: only a part of a block is given, or an action returned something else.
        """
        found: Rows = {}
        for block, (action, factor) in self._actions.items():
            for part in [(name,) for name in rows] if block == EVERY else [block]:
                present = [name for name in part if name in rows]
                if not present:
                    continue
                if len(present) < len(part):
                    raise InputError(f"P couples {_said(part)}: give the rows of all of them, not of {_said(present)}")
                done = action.apply({name: rows[name] for name in part})
                found |= {name: row * factor for name, row in done.items()} if factor != 1 else done
        for name, row in rows.items():
            if name not in found:
                square = _square(self._root(name))
                found[name] = row * (square.to(row) if isinstance(square, Tensor) else square)
        return {name: found[name] for name in rows}

    def bound(self, model: TangentModel) -> Preconditioner:
        """The same P with every parameter of a model spelt out."""
        if EVERY not in self._actions and self._scale == 1:
            return self
        actions = {block: own for block, own in self._actions.items() if block != EVERY}
        roots = dict(self._roots)
        if EVERY in self._actions:
            actions |= {(name,): self._actions[EVERY] for name in model.parameter_names}
        else:
            taken = {*roots, *(name for block in actions for name in block)}
            rest = {name: self._scale for name in model.parameter_names if name not in taken}
            roots |= _constant_roots(model, rest)
        return Preconditioner(roots, actions, self._label)

    def check(self, model: TangentModel) -> None:
        """Refuse a P that is not one on this model's selected parameters; actions are tried on random rows.

        Raises:
            InputError: it names other parameters, shapes differ, or an action is not linear, symmetric and
                positive semidefinite.
        """
        parameters = model.parameters
        own = self.bound(model)
        for name in (*own._roots, *(name for block in own._actions for name in block)):
            if name not in parameters:
                raise InputError(f"the preconditioner names {name!r}, which is not among the selected parameters")
        for name, root in own._roots.items():
            check_shape(name, root, parameters[name])
        for block, (action, _) in own._actions.items():
            action.check(block, parameters)

    def describe(self) -> str:
        """One line for plans, figures and provenance."""
        return self._label

    def fingerprint(self) -> str:
        """sha256 of what decides its numbers: entries, factors, and the code and closure of functions.

        In the dtype it has: of the P before :meth:`to`, not after.
        """
        actions = {str(block): [action.fingerprint(), factor] for block, (action, factor) in self._actions.items()}
        return fingerprint(["Preconditioner", self._roots, actions, self._scale])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Preconditioner:
        """The same P on another device, in another dtype; functions stay as they are."""
        device = torch.device(device) if device is not None else None
        return Preconditioner(
            {name: _moved(root, device, dtype) for name, root in self._roots.items()},
            {block: (action.to(device, dtype), factor) for block, (action, factor) in self._actions.items()},
            self._label,
            self._scale,
        )

    def __repr__(self) -> str:
        return f"Preconditioner({self._label})"


def as_preconditioner(obj: Any, model: TangentModel) -> Preconditioner:
    """A checked P for a model, every parameter spelt out.

    Args:
        obj: a :class:`Preconditioner`; a mapping from names to diagonals; a torch optimizer or its
            ``state_dict()``; None for the identity.
        model: the model it preconditions.

    Raises:
        InputError: it is none of these, or does not fit the model.
    """
    if obj is None:
        return Preconditioner({}, {}, "none")
    if not isinstance(obj, Preconditioner):
        saved = isinstance(obj, Mapping) and "state" in obj and "param_groups" in obj
        if saved or hasattr(obj, "param_groups"):
            obj = Preconditioner.from_optimizer(obj, model)
        elif isinstance(obj, Mapping):
            obj = Preconditioner.diagonal(obj)
        else:
            raise InputError(
                "a preconditioner is a gk.Preconditioner, a mapping from parameter names to diagonals, or an "
                f"optimizer, not {type(obj).__name__}"
            )
    bound = obj.bound(model)
    bound.check(model)
    return bound


# ----------------------------------------------------------------------- diagonals


def _checked_root(name: str, value: Any) -> Tensor:
    """√ of a diagonal, float64."""
    if not isinstance(value, Tensor):
        raise InputError(f"the preconditioner of {name!r} is a {type(value).__name__}, not a tensor")
    if value.is_complex():
        raise InputError(f"the preconditioner of {name!r} is complex, and has to be real")
    value = value.detach()
    content = _content(value).double()
    if not torch.isfinite(content).all() or bool((content < 0).any()):
        raise InputError(f"the preconditioner of {name!r} has to be finite and non-negative")
    return content.sqrt().expand(value.shape)


def _constant_roots(model: TangentModel, constants: Mapping[str, float]) -> dict[str, Tensor]:
    """One number for each parameter, held once."""
    parameters = dict(model.module.named_parameters())
    return {
        name: torch.full((), math.sqrt(c), dtype=torch.float64, device=model.device).expand(parameters[name].shape)
        for name, c in constants.items()
    }


def _moved(root: Tensor, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    return _content(root).to(device, dtype).expand(root.shape)


def _content(tensor: Tensor) -> Tensor:
    """One number, expanded, as that number."""
    constant = tensor.dim() > 0 and tensor.numel() > 0 and not any(tensor.stride())
    return tensor[(0,) * tensor.dim()] if constant else tensor


def _product(a: Tensor | float, b: Tensor | float) -> Tensor:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            raise InputError(f"two preconditioners of one parameter have shapes {tuple(a.shape)} and {tuple(b.shape)}")
        one, two = _content(a), _content(b.to(a))
        return (one * two).expand(a.shape) if one.dim() == two.dim() else a * two
    root, number = (a, b) if isinstance(a, Tensor) else (b, a)
    assert isinstance(root, Tensor)
    return (_content(root) * number).expand(root.shape)


def _square(root: Tensor | float) -> Any:
    return _product(root, root) if isinstance(root, Tensor) else root * root


def _factor(value: Any) -> float:
    if not isinstance(value, (int, float)) or not (value >= 0 and math.isfinite(value)):
        raise InputError(f"a factor of a preconditioner is a finite number ≥ 0, not {value!r}")
    return float(value)


# --------------------------------------------------------------------------- words


def _disjoint(blocks: Iterable[Block]) -> None:
    seen: set[str] = set()
    for block in blocks:
        if not block or len(set(block)) < len(block) or seen.intersection(block):
            raise InputError(f"the block {block} of a preconditioner is empty or names a parameter a second time")
        seen |= set(block)


def _unbound(label: str) -> str:
    return (
        f"the preconditioner ({label}) speaks of every parameter and is not tied to a model yet: "
        "as_preconditioner(p, model) does that"
    )


def _said(names: Iterable[str]) -> str:
    return " and ".join(map(repr, names))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

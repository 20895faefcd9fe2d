"""Per-sample gradients of parameters from the uses of one tape.

``Assembly`` holds the output-gradients B as they arrive and, once all uses of a parameter have
theirs, hands out its per-sample gradient as a factor. Several uses of one parameter are summed
per sample before anything is multiplied: cross terms are never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor

from genkernel.tangent.capture import Tape
from genkernel.tangent.derivation import Geometry, geometry, parameters_of, pull_back, pull_back_own
from genkernel.tangent.factors import Dense, Factor, combine
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules import generic, own
from genkernel.tangent.use import Use


@dataclass
class Slot:
    """One parameter-derived argument of one use, and how its gradient is taken."""

    position: int
    view: Geometry | None
    parameters: tuple[str, ...]
    own: Layout | None = None  # the argument has a slot for every sample
    by_rule: bool = True


@dataclass
class UsePlan:
    """What the probe found out about one use."""

    name: str
    layout: Layout
    inputs: dict[int, Layout | None]
    slots: list[Slot]
    rest: tuple[int, ...]  # output shape without the sample axis
    proved: bool = True  # its output-gradient was nonzero on the probed samples


@dataclass
class Group:
    """Parameters whose gradients have to be completed together (they share a derivation)."""

    parameters: tuple[str, ...]
    uses: list[int] = field(default_factory=list)


Emit = Callable[[str, Factor, Geometry | None], None]


class Assembly:
    """Turn output-gradients into factors of parameters, as soon as each is complete.

    Args:
        tape: the recorded forward pass.
        plans: one plan per use, None for uses that take the generic path.
        n: number of samples.
        emit: called as ``emit(parameter, factor, view)``; with a view, the factor's coordinates
            are those of that view of the parameter.
        wanted: the parameters to hand out (and those that share a derivation with them); None for all.
        signs: what to note about uses, for the proof.
    """

    def __init__(
        self,
        tape: Tape,
        plans: list[UsePlan | None],
        n: int,
        emit: Emit,
        wanted: set[str] | None = None,
        signs: Signs | None = None,
    ):
        self.tape, self.plans, self.n, self.emit, self.signs = tape, plans, n, emit, signs
        self.groups = group_parameters(plans)
        if wanted is not None:
            self.groups = [group for group in self.groups if wanted.intersection(group.parameters)]
        self._of_use: dict[int, list[int]] = {}
        for g, group in enumerate(self.groups):
            for u in group.uses:
                self._of_use.setdefault(u, []).append(g)
        self.keep_inputs = True
        self.begin()

    @property
    def awaited(self) -> set[int]:
        """The uses whose output-gradients are needed."""
        return set(self._of_use)

    def begin(self) -> None:
        """Start a new cotangent."""
        self._B: dict[int, Tensor] = {}
        self._missing = [len(group.uses) for group in self.groups]
        self._open = [True] * len(self.groups)
        self._left = {u: len(groups) for u, groups in self._of_use.items()}

    def receive(self, use: Use, B: Tensor) -> None:
        """An output-gradient arrived; finish every group that it completes."""
        if use.index not in self._of_use:
            return
        plan = self.plans[use.index]
        if plan is not None and not plan.proved and bool(B.any()):
            raise UnprovedError({name for slot in plan.slots for name in slot.parameters})
        self._B[use.index] = B
        for g in self._of_use[use.index]:
            self._missing[g] -= 1
            if self._missing[g] == 0:
                self._finish(g)

    def flush(self) -> None:
        """Finish the groups some of whose uses have no influence on the output."""
        for g, group in enumerate(self.groups):
            if self._open[g] and any(u in self._B for u in group.uses):
                self._finish(g)

    # ------------------------------------------------------------------ one group

    def _finish(self, g: int) -> None:
        group = self.groups[g]
        self._open[g] = False
        pieces: dict[str, list[tuple[Factor, Geometry | None]]] = {name: [] for name in group.parameters}
        wanted = set(group.parameters)
        for u in group.uses:
            if u not in self._B:
                continue
            use, plan = self.tape.uses[u], self.plans[u]
            assert plan is not None
            use.check_versions()
            if self.signs is not None and bool(self._B[u].any()):
                self.signs.reached.add(u)
            for slot in plan.slots:
                if wanted.intersection(slot.parameters):
                    self._gradient(use, plan, slot, pieces)
        for name in group.parameters:
            if pieces[name]:
                self._emit(name, pieces[name])
        for u in group.uses:
            self._left[u] -= 1
            if self._left[u] == 0:
                self._B.pop(u, None)
                if not self.keep_inputs:
                    self.tape.uses[u].leaves = []

    def _gradient(
        self, use: Use, plan: UsePlan, slot: Slot, pieces: dict[str, list[tuple[Factor, Geometry | None]]]
    ) -> None:
        B, derived, aliases, n = self._B[use.index], use.slots[slot.position], self.tape.parameters, self.n
        if slot.own is not None:
            gradient = self._own(use, slot, B)
            self._note(use, [gradient])
            view = geometry(derived, self.tape.storages)  # its size follows the number of samples
            if view is not None:
                rows = view.scatter_own(gradient, slot.own, n, aliases[view.parameter].numel())
                pieces[view.parameter].append((Dense(rows), None))
            else:
                for name, rows in pull_back_own(derived, gradient, slot.own, n, list(slot.parameters), aliases).items():
                    pieces[name].append((Dense(rows), None))
            return
        factor: Factor | None = None
        if slot.by_rule and use.rule is not None:
            try:
                factor = own.factor(use, slot.position, B, n, plan.layout)
            except own.RuleError as error:
                raise self._failed(use, slot, error) from error
        elif not slot.by_rule:
            factor = generic.per_sample(use, slot.position, B, n, plan.layout, plan.inputs)
        if factor is None:
            raise NotCapturedError(use.index, slot.position)
        self._note(use, factor.parts().values())
        if slot.view is not None:
            pieces[slot.view.parameter].append((factor, slot.view))
            return
        for name, rows in pull_back(derived, factor.dense(), list(slot.parameters), aliases).items():
            pieces[name].append((Dense(rows), None))

    def _own(self, use: Use, slot: Slot, B: Tensor) -> Tensor:
        """Gradient of an argument that has a slot for every sample."""
        known: Tensor | None = None
        if slot.by_rule and use.rule is not None:
            try:
                known = own.own(use, slot.position, B)
            except own.RuleError as error:
                raise self._failed(use, slot, error) from error
        return generic.own_samples(use, slot.position, B) if known is None else known

    def _failed(self, use: Use, slot: Slot, error: own.RuleError) -> Exception:
        """In the proof there is another way; in a run the inputs that it needs are gone."""
        if self.signs is not None:
            return NotCapturedError(use.index, slot.position, str(error))
        return own.in_a_run(error, use, self.n)

    def _note(self, use: Use, parts: Iterable[Tensor]) -> None:
        if self.signs is not None and all(bool(part.any()) for part in parts):
            self.signs.full.add(use.index)

    def _emit(self, name: str, pieces: list[tuple[Factor, Geometry | None]]) -> None:
        views = {view for _, view in pieces}
        if len(views) == 1:
            view = views.pop()
            if view is None or view.injective:
                self.emit(name, combine([factor for factor, _ in pieces]), view)
                return
        numel = self.tape.parameters[name].numel()
        total = None
        for factor, view in pieces:
            rows = factor.dense().reshape(self.n, -1) if view is None else view.scatter(factor.dense(), numel)
            total = rows if total is None else total + rows
        assert total is not None
        self.emit(name, Dense(total), None)


@dataclass
class Signs:
    """Of some samples: uses that have an influence on the output, and uses with a gradient that can be nonzero."""

    reached: set[int] = field(default_factory=set)
    full: set[int] = field(default_factory=set)


class NotCapturedError(Exception):
    """A use turned out to be outside its rule, or the rule failed; the probe answers with another method."""

    def __init__(self, use: int, position: int, failure: str | None = None):
        super().__init__(use, position)
        self.use, self.position, self.failure = use, position, failure


class UnprovedError(Exception):
    """A use that had no influence on the probed samples has some now."""

    def __init__(self, parameters: set[str]):
        super().__init__(parameters)
        self.parameters = parameters


def describe_slots(use: Use, tape: Tape) -> list[Slot]:
    """The parameter-derived arguments of a use, as views or as computed tensors."""
    slots = []
    for position, derived in use.slots.items():
        view = geometry(derived, tape.storages)
        names = (view.parameter,) if view is not None else tuple(parameters_of(derived, tape.parameters))
        slots.append(Slot(position, view, names, by_rule=use.rule is not None))
    return slots


def use_parameters(use: Use, tape: Tape) -> tuple[str, ...]:
    """Names of the parameters behind the arguments of a use."""
    return tuple(name for slot in describe_slots(use, tape) for name in slot.parameters)


def group_parameters(plans: list[UsePlan | None]) -> list[Group]:
    """Connected components of parameters under shared derivations, with the uses of each."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for plan in plans:
        for slot in plan.slots if plan is not None else ():
            for name in slot.parameters:
                parent.setdefault(name, name)
            for name in slot.parameters[1:]:
                parent[root(name)] = root(slot.parameters[0])
    groups: dict[str, Group] = {}
    for name in parent:
        group = groups.setdefault(root(name), Group(()))
        group.parameters = (*group.parameters, name)
    for u, plan in enumerate(plans):
        for key in {root(name) for slot in (plan.slots if plan is not None else ()) for name in slot.parameters}:
            groups[key].uses.append(u)
    return list(groups.values())

"""``Coverage``: what the probe found out about a model, and when a later batch still fits it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genkernel.tangent.assembly import UsePlan, use_parameters
from genkernel.tangent.capture import Tape
from genkernel.tangent.derivation import geometry, parameters_of
from genkernel.tangent.factors import Factor


@dataclass(frozen=True)
class Look:
    """What a run gives for a few samples.

    Attributes:
        samples: as the run takes them.
        out: outputs ``[k, *out]``.
        seconds: of the forward pass, recorded or not.
    """

    samples: Any
    out: Tensor
    seconds: float


@dataclass
class Coverage:
    """What the probe found: how each use is taken, and what is not captured.

    Attributes:
        plans: one per use in call order; None where the parameters take the generic path.
        calls: function and parameters of every use, in call order.
        generic: parameters differentiated through the user's forward, one sample at a time.
        by_call: parameters differentiated call by call because no rule knows the function.
        silent: parameters without influence on the probed samples.
        weak: captured parameters whose gradients on the probed samples were too small beside those of others to be
            compared, and no other parameter of the same call vouches for them.
        failures: what registered rules did instead of giving a gradient; their calls were taken another way.
        error: largest relative disagreement with autograd among captured parameters that could be compared.
        dtype: precision of the comparison.
        bytes_per_sample: memory held per sample in the run's dtype: activations, and gradients
            that cannot be contracted in slices.
        footprints: the form of each parameter's gradient, for one sample and without data.
        channels_last: convolutions may compute with such weights (:mod:`genkernel.tangent.memory_format`).
        look: at three of the probed samples, where none is made up and they ran as the run does.
        largest: samples of the largest batch that later ran, and in which outputs were what they are in small ones.
    """

    plans: list[UsePlan | None]
    calls: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    generic: list[str] = field(default_factory=list)
    by_call: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    error: float = 0.0
    dtype: torch.dtype = torch.float64
    bytes_per_sample: int = 0
    footprints: dict[str, Factor] = field(default_factory=dict)
    channels_last: bool = False
    look: Look | None = field(default=None, compare=False)
    largest: int = 0

    @property
    def uses(self) -> dict[str, int]:
        """Number of captured uses by function name."""
        counts: dict[str, int] = {}
        for plan in self.plans:
            if plan is not None:
                counts[plan.name] = counts.get(plan.name, 0) + 1
        return counts

    @property
    def keep_all(self) -> frozenset[int]:
        """Uses that need all their inputs, because some argument is not taken by rule."""
        return frozenset(
            u
            for u, plan in enumerate(self.plans)
            if plan is not None and any(s.own or not s.by_rule for s in plan.slots)
        )

    def matches(self, tape: Tape, out: Tensor, n: int) -> bool:
        """True when a later batch shows the same uses in the same places, and hides no other parameter."""
        return self.matches_calls(tape, n) and uncaptured(tape, out) <= set(self.generic)

    def matches_calls(self, tape: Tape, n: int) -> bool:
        """The same uses of the same parameters in the same places."""
        if [(use.name, use_parameters(use, tape)) for use in tape.uses] != self.calls:
            return False
        for use, plan in zip(tape.uses, self.plans, strict=True):
            if plan is None:
                continue
            if not plan.layout.fits(use.out_shape, n):
                return False
            if tuple(s for d, s in enumerate(use.out_shape) if d != plan.layout.axis) != plan.rest:
                return False
            if not {slot.position for slot in plan.slots} <= set(use.slots):
                return False
            for slot in plan.slots:
                if slot.own is None and geometry(use.slots[slot.position], tape.storages) != slot.view:
                    return False
        return True

    def merge(self, others: list[Coverage]) -> Coverage:
        """What is said about a run whose batches needed several coverages."""
        every = [self, *others]
        generic = sorted({name for c in every for name in c.generic})
        # as a proof of its own it must not hand out a parameter both ways
        known = replace(self, plans=deepcopy(self.plans))
        known.give_up(set(generic))
        return replace(
            known,
            by_call=sorted({name for c in every for name in c.by_call} - set(generic)),
            silent=[name for name in self.silent if all(name in c.silent for c in others)],
            weak=sorted({name for c in every for name in c.weak}),
            failures=list(dict.fromkeys(failure for c in every for failure in c.failures)),
            error=max(c.error for c in every),
        )

    def dense_entries(self, numels: dict[str, int]) -> int:
        """Gradient entries per sample that have to be materialised at once.

        Parameters on the generic path come together; computed tensors, several different views of
        one parameter, and arguments taken call by call come one at a time (twice: with their sum).
        """
        views: dict[str, set[object]] = {}
        whole: set[str] = set()
        for plan in self.plans:
            for slot in plan.slots if plan is not None else ():
                for name in slot.parameters:
                    views.setdefault(name, set()).add(slot.view)
                if slot.view is None or slot.own is not None or not slot.by_rule:
                    whole.update(slot.parameters)
        whole |= {name for name, seen in views.items() if len(seen) > 1}
        return sum(numels[name] for name in self.generic) + 2 * max((numels[name] for name in whole), default=0)

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "uses": self.uses,
            "generic": list(self.generic),
            "by_call": list(self.by_call),
            "silent": list(self.silent),
            "weak": list(self.weak),
            "failures": list(self.failures),
            "channels_last": self.channels_last,
            "largest_disagreement_with_autograd": self.error,
            "checked_in": str(self.dtype).removeprefix("torch."),
        }

    def __repr__(self) -> str:
        told = [f"{sum(self.uses.values())} uses", f"{len(self.generic)} generic", f"{len(self.by_call)} by call"]
        told += [f"{len(self.silent)} silent", f"{len(self.weak)} weak", f"error {self.error:.1e}"]
        told += self.failures
        return f"Coverage({', '.join(told)})"

    def demote(self, names: set[str]) -> None:
        """Take parameters call by call instead of by rule."""
        for plan in self.plans:
            for slot in plan.slots if plan is not None else ():
                if names.intersection(slot.parameters):
                    slot.by_rule = False

    def give_up(self, names: set[str]) -> None:
        """Send parameters, and those they share a derivation with, through the user's forward."""
        names = set(names)
        while True:
            linked = {
                other
                for plan in self.plans
                if plan is not None
                for slot in plan.slots
                if names.intersection(slot.parameters)
                for other in slot.parameters
            }
            if linked <= names:
                break
            names |= linked
        self.generic = sorted(set(self.generic) | names)
        for u, plan in enumerate(self.plans):
            if plan is not None:
                plan.slots = [s for s in plan.slots if not names.intersection(s.parameters)]
                if not plan.slots:
                    self.plans[u] = None


def uncaptured(tape: Tape, out: Tensor) -> set[str]:
    """Parameters that reach the output past the tape: through opaque calls, or hidden from it.

    Uses run on detached tensors, so a fully captured forward leaves no parameter in the graph of
    its output.
    """
    found = set(parameters_of(out, tape.parameters))
    for call in tape.opaque:
        for tensor in call.derived:
            view = geometry(tensor, tape.storages)
            found.update([view.parameter] if view is not None else parameters_of(tensor, tape.parameters))
    return found

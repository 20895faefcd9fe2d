"""Contributions along a path of weights, step by step, by a quadrature rule.

Running statistics and other buffers are no parameters, and outputs change with them without any Δθ. A step goes from
(θ_k, b_k) to (θ_{k+1}, b_k), along the increments, and then to (θ_{k+1}, b_{k+1}): the second part is the source
"buffers", exact whatever its size. While the buffers stay the same, the trapezoid's evaluation at the end of a step
and at the start of the next are one and the same:

    Σ_k ½ (J_k + J_{k+1}) Δθ_k = ½ J_0 Δθ_0 + Σ_k J_k ½ (Δθ_{k-1} + Δθ_k) + ½ J_N Δθ_{N-1}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import NonFiniteError, RecordingError
from genkernel.paths.quadrature import MISSED, Rule
from genkernel.paths.queries import Queries
from genkernel.paths.windows import Windows

Buffers = Mapping[str, Tensor]
Increments = Callable[[int], Tensor | None]


class Integrator:
    """Accumulates J̄_k Δθ_k^(a) for every source a.

    Args:
        queries: whose outputs are followed.
        rule: for J̄.
        windows: where contributions go.
        theta, buffers: where the path starts.

    Attributes:
        step: steps done.
        evaluations: of J for all sources at nodes between the recorded weights (none with the trapezoid, whose nodes
            are the weights; those of rules that the adaptive one tries and finds too coarse do not count).
    """

    def __init__(self, queries: Queries, rule: Rule, windows: Windows, theta: Tensor, buffers: Buffers):
        self._queries, self._rule, self.windows = queries, rule, windows
        self._theta = theta
        self._buffers = {name: value.clone() for name, value in buffers.items()}
        self._waiting: dict[int, Tensor] = {}  # half increments that still need J at the present weights
        self._waiting_buffers: dict[str, Tensor] = self._buffers
        self.step = self.evaluations = 0
        self._whole = True  # no step was left in the middle
        first = queries.outputs(theta, buffers)
        self._here: Tensor | None = first  # f at the present weights and buffers, where it is known
        self._edge = theta, self._buffers, first

    def advance(
        self,
        theta: Tensor,
        buffers: Buffers,
        increments: Increments,
        sources: int,
        moved: Callable[[], int],
        further: bool = False,
    ) -> None:
        """One step from the present weights.

        Args:
            theta: θ_{k+1} ``[P]``; not written to later.
            buffers: b_{k+1}, of which copies are kept.
            increments: source → Δθ_k^(a), a new tensor ``[P]`` at every call, or None for zero.
            sources: their number.
            moved: gives the number of the source "buffers" when it is needed.
            further: the weights move on in the step that was done last.
        """
        with self._in_a_step():
            if not further and self.windows.starts_at(self.step):
                self._flush()
                outputs = self.outputs()
                if self.step:
                    self.check()
                self._edge = self._theta, self._buffers, outputs
                self.windows.open(self.step, outputs)
            after: Tensor | None = None
            if self._rule.telescopes:
                self._trapezoid(increments, sources)
            else:
                after = self._nodes(theta, increments, sources)
            self._theta, self._here, self.step = theta, after, self.step + (not further)
            self._set_buffers(buffers, moved)

    def set_buffers(self, buffers: Buffers, moved: Callable[[], int]) -> None:
        """Buffers change while the weights stay."""
        with self._in_a_step():
            self._set_buffers(buffers, moved)

    def _set_buffers(self, buffers: Buffers, moved: Callable[[], int]) -> None:
        if buffers.keys() != self._buffers.keys():
            raise RecordingError("the network got or lost a buffer after the recording began")
        changed = any(not torch.equal(value, self._buffers[name]) for name, value in buffers.items())
        if not changed:
            return
        self._flush()
        before = self.outputs()
        self._buffers = {name: value.clone() for name, value in buffers.items()}
        self._waiting_buffers, self._here = self._buffers, None
        change = self.outputs() - before
        value = torch.zeros(len(self._queries.layers), *change.shape, dtype=change.dtype)
        value[-1] = change  # the entry of what belongs to no parameter, where layers are resolved
        self.windows.add(moved(), value)

    def check(self) -> None:
        """Outputs are a function of the recorded weights and buffers alone: at the last edge they are what they were.

        Raises:
            RecordingError: something else moves them.
        """
        theta, buffers, before = self._edge
        now = self._queries.outputs(theta, buffers)
        if not torch.allclose(now, before, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
            self.give_up()
            raise RecordingError(
                "the outputs at the queries are others than before at the same weights: query_call uses something that "
                "moves besides the recorded parameters (another network that trains, or random numbers)"
            )

    def finish(
        self, partial: bool = False, buffers: Buffers | None = None, moved: Callable[[], int] | None = None
    ) -> tuple[Windows, Tensor, int]:
        """The windows with everything that is waiting, f at their end, and the step that this is.

        The path can go on afterwards as if it had not been asked.

        Args:
            buffers, moved: what buffers are now, as for :meth:`advance`; by default those after the last step.
            partial: where a step was left in the middle, or the outputs are not to be had any more, the windows that
                had been closed before.

        Raises:
            RecordingError: no window had been closed.
            NonFiniteError: the outputs are NaN or infinite.
        """
        own, waiting, held = self.windows, self._waiting, (self._buffers, self._waiting_buffers, self._here)
        if self._whole or not partial:
            self.windows = own.copy()
            try:
                self._flush()
                if buffers is not None and moved is not None:
                    self._set_buffers(buffers, moved)
                return self.windows, self.outputs(), self.step
            except NonFiniteError:
                if not partial:
                    raise
            finally:
                self.windows, self._waiting = own, waiting
                self._buffers, self._waiting_buffers, self._here = held
        if len(own.edges) < 2:
            raise RecordingError(
                "the recording stopped within its first window of time, so that no part of it is whole"
            )
        return own.closed(), own.outputs[-1], own.edges[-1]

    def give_up(self) -> None:
        """The network is not what it was: nothing can be evaluated at the present weights any more."""
        self._whole = False

    @contextmanager
    def _in_a_step(self) -> Iterator[None]:
        self._whole = False
        yield
        self._whole = True

    def outputs(self) -> Tensor:
        """f at the present weights and buffers ``[m, *out]``."""
        if self._here is None:
            self._here = self._queries.outputs(self._theta, self._buffers)
        return self._here

    def state(self) -> dict[str, Any]:
        """Everything, for :meth:`restore`."""
        return {
            "theta": self._theta,
            "buffers": self._buffers,
            "waiting": {str(a): value for a, value in self._waiting.items()},
            "waiting_buffers": self._waiting_buffers,
            "step": self.step,
            "evaluations": self.evaluations,
            "windows": self.windows.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        device = self._theta.device
        self._theta = state["theta"].to(device)
        self._buffers = {name: value.to(device) for name, value in state["buffers"].items()}
        self._waiting = {int(a): value.to(device) for a, value in state["waiting"].items()}
        self._waiting_buffers = {name: value.to(device) for name, value in state["waiting_buffers"].items()}
        self.step, self.evaluations = int(state["step"]), int(state["evaluations"])
        self.windows.restore(state["windows"])
        self._here = None
        self._edge = self._theta, self._buffers, self.outputs()

    # --------------------------------------------------------------------------- private

    def _nodes(self, theta: Tensor, increments: Increments, sources: int) -> Tensor | None:
        """Add the parts of a step; f(θ_{k+1}, b_k) comes back where it was needed."""
        rule, after = self._rule, None
        if rule.finer is None:
            found = self._parts(rule, theta, increments, sources)
        else:
            after = self._queries.outputs(theta, self._buffers)
            rule, found = self._fine_enough(theta, after - self.outputs(), increments, sources)
        self.evaluations += len(rule.nodes)
        for a, value in found.items():  # after all nodes: the size of a contribution is that of the whole step
            self.windows.add(a, value)
        return after

    def _at_nodes(self, rule: Rule, theta: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Quadrature weights, and the weights of the network at their nodes ``[P]``."""
        for node, weight in zip(rule.nodes, rule.weights, strict=True):
            yield weight, torch.lerp(self._theta, theta, node) if node else self._theta

    def _parts(
        self, rule: Rule, theta: Tensor, increments: Increments, sources: int, step: Tensor | None = None
    ) -> dict[int, Tensor]:
        """J̄ Δθ^(a) by source a ``[layers, m, *out]``; that of the whole step has the number after the last."""
        found: dict[int, Tensor] = {}
        for weight, at in self._at_nodes(rule, theta):
            moves = ((a, d) for a in range(sources) if (d := increments(a)) is not None)
            whole = [] if step is None else [(sources, step)]
            count = sources + len(whole)
            for a, value in self._queries.derivatives(at, self._buffers, chain(moves, whole), count):
                found[a] = found[a] + weight * value if a in found else weight * value
        return found

    def _fine_enough(
        self, theta: Tensor, moved: Tensor, increments: Increments, sources: int
    ) -> tuple[Rule, dict[int, Tensor]]:
        """The coarsest rule by which the whole step does to the outputs what it did ``[m, *out]``, at every query.

        Returns:
            The rule, and what :meth:`_parts` gives by it.
        """
        rule, step = self._rule, theta - self._theta
        # what outputs of a finite precision cannot show, no rule can mend
        floor = 16 * torch.finfo(self._queries.coordinates.coarsest).eps * _largest(self.outputs())
        allowed = max(MISSED * _largest(moved), floor)
        if self._queries.rows_pay(sources + 1):  # with the rows at hand the whole step is one more direction
            while rule.finer is not None:
                found = self._parts(rule, theta, increments, sources, step)
                if _largest(moved - found.pop(sources).sum(0)) <= allowed:
                    return rule, found
                rule = rule.finer
        while rule.finer is not None:
            whole = sum(
                weight * self._queries.derivative(at, self._buffers, step) for weight, at in self._at_nodes(rule, theta)
            )
            if _largest(moved - whole) <= allowed:
                break
            rule = rule.finer
        return rule, self._parts(rule, theta, increments, sources)

    def _trapezoid(self, increments: Increments, sources: int) -> None:
        waiting, halves = self._waiting, {}

        def together() -> Iterator[tuple[int, Tensor]]:
            for a in range(sources):
                d, before = increments(a), waiting.pop(a, None)
                if d is not None:
                    halves[a] = d.mul_(0.5)
                    before = halves[a] if before is None else before.add_(halves[a])
                if before is not None:
                    yield a, before

        self._evaluate(self._theta, self._buffers, together(), sources)
        self._waiting, self._waiting_buffers = halves, self._buffers

    def _flush(self) -> None:
        """Evaluate what is waiting for the present weights, under the buffers of its own step."""
        waiting, self._waiting = self._waiting, {}
        self._evaluate(self._theta, self._waiting_buffers, iter(waiting.items()), len(waiting))

    def _evaluate(self, theta: Tensor, buffers: Buffers, directions: Iterator[tuple[int, Tensor]], count: int) -> None:
        for a, value in self._queries.derivatives(theta, buffers, directions, count):
            self.windows.add(a, value)


def _largest(change: Tensor) -> float:
    """Norm of the largest change ``[m, *out]`` among the queries."""
    return float(change.reshape(len(change), -1).norm(dim=1).max())

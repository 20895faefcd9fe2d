"""Forward and backward passes of one proved model, handing out per-sample gradients.

One forward per batch on frozen aliases of the parameters, one backward per cotangent that
propagates output-gradients only. As soon as the last use of a parameter has its output-gradient,
its per-sample gradient goes to a :class:`Sink` as a factor, and what it was made of is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from genkernel.errors import GenkernelError, NonFiniteError, OutputError
from genkernel.tangent import batches, memory_format, workspace
from genkernel.tangent.assembly import Assembly, NotCapturedError, UnprovedError
from genkernel.tangent.capture import Tape
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Dense, Factor, is_channels_last
from genkernel.tangent.judgement import Doubt, Tolerance, coupled, in_some_precision, tolerance
from genkernel.tangent.model import TangentModel
from genkernel.tangent.precision import full_precision
from genkernel.tangent.probe import PROBE, examine, tape_for
from genkernel.tangent.restore import random_state_kept
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.stopwatch import Stopwatch


class Sink(Protocol):
    """What receives the per-sample gradients of a batch."""

    def begin(self) -> None:
        """A batch starts, or starts again: forget what it gave so far."""

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        """The gradients of one parameter under one cotangent, complete.

        With a ``view`` the coordinates of the factor are those of that view of the parameter, no
        entry twice. Parameters that are not handed out have zero gradients.
        """

    def finite(self) -> bool:
        """False when some sample's gradient turned out NaN or infinite."""


class GradientPass:
    """One model, proved on a few samples, ready to run batches.

    Args:
        model: the model.
        sample: a batch to prove the model on; a few of its samples are used.
        dtype: dtype of activations and gradients (None: the model's own).
        coverage: a proof made before for the unchanged model; None to make one.
        channels_last: batches may run so (:mod:`genkernel.tangent.memory_format`) where that is proved and suits.

    Attributes:
        channels_last: they do.
        look: at a few samples like those to come; None where the proof took none.

    Raises:
        BatchCouplingError, RandomOutputError, CaptureError, NonFiniteError: see :func:`examine`.
    """

    def __init__(
        self,
        model: TangentModel,
        sample: Any,
        dtype: torch.dtype | None = None,
        coverage: Coverage | None = None,
        channels_last: bool = True,
    ):
        self.model, self.dtype = model, dtype
        self.watch = Stopwatch(model.device)
        model.check_finite()
        with self.watch("proof"):
            if coverage is not None:
                model.find_caches(sample, dtype)  # the proof may be older than what the module keeps now
            coverage = replace(coverage) if coverage is not None else examine(model, sample, dtype, channels_last)
        self.coverages = [coverage]
        one = batches.move(batches.take(sample, [0]), model.device, dtype)
        self.look = coverage.look
        if self.look is None or not (
            batches.alike(one, self.look.samples) and self.look.out.dtype == (dtype or model.dtype)
        ):
            self.look, coverage.largest = None, 0
        with model.evaluating():
            self.tensors = model.tensors(dtype)
        self.channels_last = (
            channels_last and coverage.channels_last and memory_format.suits(model, dtype or model.dtype)
        )
        self._copies: dict[int, Tensor] = {}

    @property
    def coverage(self) -> Coverage:
        """The proof, with what later batches added to it."""
        return self.coverages[0].merge(self.coverages[1:])

    def outputs(self, batch: Any) -> Tensor:
        """Outputs ``[n, *out]`` in the dtype of the pass."""
        batch = batches.move(batch, self.model.device, self.dtype)
        with self.model.evaluating():
            try:
                with torch.no_grad():
                    return self.model.run(self.tensors, batch).detach()
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
            with torch.enable_grad():  # a forward pass that differentiates something itself
                return self.model.run(self.tensors, batch).detach()

    def run(
        self,
        batch: Any,
        cotangents: Cotangents,
        sink: Sink,
        *,
        which: Collection[int] | None = None,
        parameters: Collection[str] | None = None,
        where: Callable[[int], str] = lambda i: f"sample {i}",
        done: Callable[[], object] = lambda: None,
    ) -> None:
        """One forward, one backward per cotangent.

        Args:
            batch: n samples.
            cotangents: which scalars of the output are differentiated.
            sink: takes the gradients; its ``which`` counts the cotangents.
            which: the cotangents to run; None for all.
            parameters: hand out these only; None for all.
            where: how an error names sample ``i`` of the batch.
            done: called after each backward.

        Raises:
            NonFiniteError: NaN or infinity in outputs or gradients, with where.
        """
        batch = batches.move(batch, self.model.device, self.dtype)
        wanted = None if parameters is None else set(parameters)
        unproved: set[str] = set()
        # the format follows from the batch alone, whatever ran before: a run can be repeated bit by bit. Not for single
        # images, in which torch mistakes one order for another.
        ordinary = not self.channels_last or batches.size(batch) == 1
        with self.model.evaluating():
            while True:
                sink.begin()
                tape = None
                try:
                    with self.watch("forward"):
                        tape, out, coverage = self._forward(batch, unproved, ordinary)
                    self._check_coupling(batch, out.detach(), final=not tape.stand_ins)
                    self._contract(tape, out, coverage, batch, cotangents, sink, which, wanted, where, done)
                    break
                except UnprovedError as found:
                    unproved |= found.parameters
                except NotCapturedError as outside:
                    # a call that fitted its rule in the proof does not in this batch
                    plan = coverage.plans[outside.use]
                    assert plan is not None
                    unproved |= {name for slot in plan.slots for name in slot.parameters}
                except Exception as error:
                    if ordinary or out_of_memory(error) or isinstance(error, OutputError):
                        raise
                    ordinary = True  # what is not due to the memory format comes again
                finally:
                    if tape is not None:
                        tape.close()
            if not sink.finite():
                self._blame(batch, cotangents, which, where)

    def _contract(
        self,
        tape: Tape,
        out: Tensor,
        coverage: Coverage,
        batch: Any,
        cotangents: Cotangents,
        sink: Sink,
        which: Collection[int] | None,
        wanted: set[str] | None,
        where: Callable[[int], str],
        done: Callable[[], object],
    ) -> None:
        check_finite(out.detach(), "output", where)
        current = 0

        def emit(parameter: str, factor: Factor, view: Geometry | None) -> None:
            if wanted is None or parameter in wanted:
                with self.watch("contraction"):
                    sink.add(current, parameter, factor, view)

        assembly = Assembly(tape, coverage.plans, batches.size(batch), emit, wanted)
        tape.deliver = assembly.receive
        last = max(which) if which is not None else cotangents.count(tuple(out.shape[1:])) - 1
        generic = [name for name in coverage.generic if wanted is None or name in wanted]
        # without a choice of parameters the graph is followed to where it begins
        ends = tape.leaves if wanted is None else tape.ends(assembly.awaited)
        seen = out.detach().clone(memory_format=torch.contiguous_format)
        for k, v in enumerate(cotangents.vectors(seen, batches.copy(batch))):
            if k > last:
                break
            if which is not None and k not in which:
                continue
            current = k
            assembly.keep_inputs = k < last
            assembly.begin()
            if is_channels_last(out):
                v = torch.empty_like(out).copy_(v)  # as in the proof
            with self.watch("backward"):
                if ends and out.requires_grad:
                    torch.autograd.grad(out, ends, v, retain_graph=k < last, allow_unused=True)
                assembly.flush()
                for parameter, rows in self._through_forward(batch, v, generic):
                    emit(parameter, Dense(rows), None)
            done()

    def _check_coupling(self, batch: Any, out: Tensor, final: bool) -> None:
        """Compare outputs with those of a few samples by themselves; Doubt where they differ and this is not ``final``.

        The proof sees three samples at a time; a model may take another way with many.
        """
        n = len(out)
        if n <= max(PROBE, self.coverages[0].largest):
            return
        samples, alone, few, many = self._look_in(batch)
        strict = out.dtype == torch.float32  # the precision whose doubts another one can settle
        if _moved(out[many], alone[few], tolerance(out.dtype, strict)) > 0:
            if not final:
                raise Doubt
            compare = partial(self._compare, batches.take(samples, few), batch, many)
            in_some_precision(self.model, self.dtype or self.model.dtype, compare)
        self.coverages[0].largest = n

    def _look_in(self, batch: Any) -> tuple[Any, Tensor, list[int], list[int]]:
        """Samples and their outputs; which of them are in ``batch``, and where."""
        if self.look is not None:
            found = [(k, batches.place(self.look.samples, k, batch)) for k in range(len(self.look.out))]
            where = {k: i for k, i in found if i is not None}
            if where:
                return self.look.samples, self.look.out, list(where), list(where.values())
        few = list(range(PROBE))
        samples = batches.take(batch, few)
        return samples, self.outputs(samples), few, few

    def _compare(self, samples: Any, batch: Any, places: list[int], precision: torch.dtype, strict: bool) -> None:
        """The outputs of a few samples, alone and in the whole batch."""
        tensors = self.model.tensors(precision)
        with torch.no_grad():
            alone, whole = (
                self.model.run(tensors, batches.move(some, self.model.device, precision)) for some in (samples, batch)
            )
        moved = _moved(whole[places], alone, tolerance(alone.dtype, strict))
        if moved > 0:
            if strict:
                raise Doubt
            raise coupled(self.model, moved, f"in a batch of {len(whole)} samples")

    def _forward(self, batch: Any, unproved: set[str], ordinary: bool) -> tuple[Tape, Tensor, Coverage]:
        """One captured forward, with a coverage that holds for what was captured.

        Args:
            unproved: parameters whose uses turned out to matter only in this batch.
            ordinary: in the memory format that the model is in.
        """
        if not unproved:
            for coverage in self.coverages:
                tape, out = self._record(batch, coverage, ordinary)
                if coverage.matches(tape, out, batches.size(batch)):
                    return tape, out, coverage
                tape.close()
        # this batch takes another branch of the model: prove that one, too
        coverage = examine(self.model, batch, self.dtype, self.channels_last)
        coverage.give_up(unproved)
        tape, out = self._record(batch, coverage, ordinary)
        if not coverage.matches(tape, out, batches.size(batch)):
            coverage = replace(
                coverage, plans=[None] * len(tape.uses), calls=[], generic=list(self.model.parameter_names)
            )
        self.coverages.append(coverage)
        return tape, out, coverage

    def _record(self, batch: Any, coverage: Coverage, ordinary: bool) -> tuple[Tape, Tensor]:
        """One captured forward; Doubt where it may depend on a memory format that the model is not in."""
        stand_ins: dict[int, Tensor] = {}
        if coverage.channels_last and not ordinary:
            stand_ins = self._copies = self._copies or memory_format.channels_last(self.model, self.tensors)
        with torch.enable_grad():
            tape = tape_for(self.model, self.tensors, keep_all=coverage.keep_all, stand_ins=stand_ins)
            with tape:
                out = self.model.run(self.tensors, batch)
        if tape.depends_on_order(out):
            raise Doubt
        return tape, out

    def _through_forward(self, batch: Any, v: Tensor, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Gradients of uncaptured parameters, one sample at a time through the user's forward."""
        if not names:
            return
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        wanted = set(names)
        frozen = {name: t if name in wanted else t.detach() for name, t in self.tensors.items()}
        for i in range(batches.size(batch)):
            with torch.enable_grad():
                out = self.model.run(frozen, batches.take(batch, [i]))
                grads = (
                    torch.autograd.grad(out, [self.tensors[name] for name in names], v[i : i + 1], allow_unused=True)
                    if out.requires_grad
                    else [None] * len(names)
                )
            for name, g in zip(names, grads, strict=True):
                g = torch.zeros_like(self.tensors[name]) if g is None else g
                rows[name].append((g.to_dense() if g.is_sparse else g).detach())
        for name in names:
            yield name, torch.stack(rows.pop(name))

    def _blame(
        self, batch: Any, cotangents: Cotangents, which: Collection[int] | None, where: Callable[[int], str]
    ) -> None:
        """Run the batch again to find out where the NaN or infinity comes from, and raise."""
        seen: list[str] = []

        class Inspector:
            def begin(self) -> None:
                seen.clear()

            def add(self, _: int, parameter: str, factor: Factor, __: Geometry | None) -> None:
                check_finite(factor.dense(), f"gradient of {parameter!r}", where)
                seen.append(parameter)

            def finite(self) -> bool:
                return True

        self.run(batch, cotangents, Inspector(), which=which, where=where)
        raise NonFiniteError(
            f"the kernel overflows: the gradients are finite, but too large to be multiplied (parameters from "
            f"{seen[0]!r} to {seen[-1]!r}); scale the outputs or the cotangents down"
        )


def _moved(out: Tensor, alone: Tensor, allowed: Tolerance) -> float:
    """How far outputs moved with the batch, where that is further than by rounding; else 0."""
    moved = float((out - alone).abs().max())
    # a NaN is not further: it is reported with its sample
    return moved if moved > allowed.coupling * float(alone.abs().max()) else 0.0


def check_finite(values: Tensor, what: str, where: Callable[[int], str]) -> None:
    """Raise NonFiniteError naming the first sample of ``values [n, ...]`` that is NaN or infinite."""
    if torch.isfinite(values.sum()):
        return  # NaN and infinity would have reached it
    bad = (~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero().flatten()
    if len(bad):
        raise NonFiniteError(
            f"the {what} is NaN or infinite for {where(int(bad[0]))}: check that input, or the weights"
        )


@contextmanager
def guarded(model: TangentModel) -> Iterator[None]:
    """Deterministic precision, and the user's random state kept as it was."""
    devices = [model.device] if model.device.type == "cuda" else []
    if torch.is_autocast_enabled(model.device.type):
        raise GenkernelError("kernels are not computed under autocast: leave the autocast region, or pass dtype=")
    with ExitStack() as stack:
        for scope in (torch.inference_mode(False), torch.random.fork_rng(devices=devices), random_state_kept()):
            stack.enter_context(scope)
        stack.enter_context(full_precision())
        stack.enter_context(workspace.kept())
        yield

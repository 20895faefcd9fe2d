"""The proof, before each run, that every use of every parameter is captured.

On four distinct samples (see docs/engine.md):

1. outputs must not depend on the rest of the batch, nor on chance;
2. the sample axis of every use is found from how shapes grow with the number of samples and
   from where the output-gradient lives under a cotangent on one sample alone;
3. outputs are differentiated with another weight for each sample. Output-gradients are freed of the
   weights, per-sample gradients assembled from them and summed with the weights again: that has to be
   autograd's gradient, parameter by parameter. Equal weights would not notice samples mixed up.

The comparison runs at the real parameters, and at randomly perturbed ones as well where some
gradient vanishes (zero-initialised layers would make it 0 = 0). It runs in the precision of the
run; what is in doubt there is judged in float64. What does not agree is differentiated call by
call; what still does not agree goes through the user's own forward, one sample at a time, and is
named.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import CaptureError, GenkernelError, RandomOutputError
from genkernel.tangent import batches, memory_format
from genkernel.tangent.assembly import Assembly, NotCapturedError, Signs, UsePlan, describe_slots, use_parameters
from genkernel.tangent.capture import Tape
from genkernel.tangent.comparison import WEIGHTS, Comparison, Gap, Record, Truth, received_alone
from genkernel.tangent.coverage import Coverage, Look, uncaptured
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.distinct import distinct
from genkernel.tangent.factors import Factor
from genkernel.tangent.judgement import LARGE, Doubt, Tolerance, coupled, in_some_precision, tolerance
from genkernel.tangent.layout import Layout, from_support, growing_axis
from genkernel.tangent.model import TangentModel
from genkernel.tangent.rules.own import tell_once
from genkernel.tangent.shortage import out_of_memory, refuses_hooks

log = logging.getLogger("genkernel")

#: activations per output of a use, where autograd does not tell what it saves
UNSEEN = 4
PROBE = 3  # samples whose gradients are compared; another one stands in for the first the second time


def examine(model: TangentModel, batch: Any, dtype: torch.dtype | None = None, channels_last: bool = True) -> Coverage:
    """Probe a model on a few samples of a batch.

    Args:
        model: the model; it is left as it was.
        batch: at least one sample; four distinct ones spread over it are used, and noisy copies
            where there are fewer.
        dtype: dtype of the later run (None: the model's own).
        channels_last: see whether the model may run with its channels last, where that suits.

    Raises:
        BatchCouplingError: outputs depend on the rest of the batch.
        RandomOutputError: outputs differ between two runs.
        CaptureError: a parameter from outside the module is used.
    """
    # picked before they are moved: the batch may not fit on the device
    picked, genuine = distinct(batch, PROBE + 1)
    samples = batches.move(picked, model.device)
    run = dtype or model.dtype
    model.find_caches(samples, dtype)
    with model.evaluating():
        worth_trying = channels_last and memory_format.suits(model, run)

        def attempt(precision: torch.dtype, strict: bool) -> Coverage:
            if worth_trying and strict:
                try:
                    return _Proof(model, samples, precision, strict, channels_last=True).found()
                except Exception as error:  # what is not due to that comes again
                    if out_of_memory(error):
                        raise
            return _Proof(model, samples, precision, strict).found()

        coverage = in_some_precision(model, run, attempt)
        numels = {name: p.numel() for name, p in model.parameters.items()}
        coverage.bytes_per_sample = coverage.bytes_per_sample * run.itemsize // coverage.dtype.itemsize
        coverage.bytes_per_sample += coverage.dense_entries(numels) * run.itemsize
        look = coverage.look
        as_run = look is not None and look.out.dtype == run and batches.alike(samples, look.samples)
        if not (as_run and genuine.issuperset(range(PROBE))):
            coverage.look = None
        for failure in coverage.failures:
            if tell_once(failure):
                log.warning(f"{failure}: its calls are differentiated without it")
        return coverage


def tape_for(model: TangentModel, tensors: dict[str, Tensor], **options: Any) -> Tape:
    """A tape for a run of ``model`` on stand-in ``tensors``."""
    aliases = {name: t for name, t in tensors.items() if t.requires_grad}
    constants = [t for t in tensors.values() if not t.requires_grad]
    for module in model.module.modules():
        constants += [v for v in vars(module).values() if isinstance(v, Tensor)]
    return Tape(aliases, constants, **options)


class _Proof:
    """One proof in one precision.

    Args:
        strict: raise :class:`Doubt` where something disagrees by more than rounding usually does.
        channels_last: run the first two samples so, to be compared with the ordinary run of three.
    """

    def __init__(
        self, model: TangentModel, samples: Any, precision: torch.dtype, strict: bool, channels_last: bool = False
    ):
        self.model, self.precision, self.strict = model, precision, strict
        self.samples = batches.move(samples, model.device, precision)
        self.tensors = model.tensors(precision)
        self.coarsest = precision
        self.channels_last = channels_last
        self.detached: dict[int, Tensor] = {}  # output-gradients of one sample, parameters cut off

    def found(self) -> Coverage:
        pair = batches.take(self.samples, [1, 0])
        small, held = self._measured(pair)
        if small.out.dtype != self.precision:
            self.coarsest = small.out.dtype
        trio = batches.take(self.samples, list(range(PROBE)))
        record = self._attached(self.tensors, trio, frozenset())
        self._check_independence(small.out, record.out, self.tensors, trio)
        look = Look(trio, record.out.detach().clone(), record.seconds)
        coverage, sure = self._plan(small, record)
        if self.channels_last:
            self._check_inputs(small, record, coverage)
        small.tape.close()
        del small  # and with its output the graph
        if not sure:  # zero-initialised gates hide in which order samples are merged
            detached, shaken = self.detached, self._recorded(_perturbed(self.tensors), pair)
            coverage = self._plan(shaken, record)[0] if shaken is not None else coverage
            self.detached = detached
        coverage.bytes_per_sample = held // 2
        truth = Truth.of(record, self.tensors)
        self._check_detached(truth, coverage)
        found = self._settle(self.tensors, trio, coverage, record, truth)
        coverage.silent = found.silent
        uses = {u for u, plan in enumerate(coverage.plans) if plan is not None}
        coverage.weak = _unsure(coverage, found.weak)
        if found.silent or coverage.weak or uses - found.signs.full:
            # zero-initialised parameters, or behind gates that are almost shut: the same at parameters moved off
            # zero, with other samples
            others, moved = batches.take(self.samples, [PROBE, 0, 2]), _perturbed(self.tensors)
            try:
                second = self._attached(moved, others, coverage.keep_all)
                with torch.no_grad():
                    reverse = self.model.run(moved, batches.take(self.samples, [0, PROBE]))
                self._check_independence(reverse, second.out, moved, others)
                again = self._settle(moved, others, coverage, second, Truth.of(second, moved))
            except GenkernelError:
                raise
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                again = None  # illegal parameters, such as a scale that turned negative
            if again is not None:
                found.worst = max(found.worst, again.worst)
                found.signs.reached |= again.signs.reached
                coverage.silent = [name for name in found.silent if name in again.silent]
                coverage.weak = [name for name in coverage.weak if name in _unsure(coverage, again.weak)]
        for u, plan in enumerate(coverage.plans):
            if plan is not None:
                plan.proved = u in found.signs.reached
        coverage.channels_last = self.channels_last
        coverage.error = found.worst
        coverage.dtype = self.coarsest
        coverage.by_call = sorted(
            {
                name
                for plan in coverage.plans
                if plan is not None
                for slot in plan.slots
                if not slot.by_rule
                for name in slot.parameters
            }
            - set(coverage.generic)
        )
        coverage.look = look
        return coverage

    # ---------------------------------------------------------------- independence

    @property
    def _tolerance(self) -> Tolerance:
        return tolerance(self.coarsest, self.strict)

    def _check_independence(self, two: Tensor, three: Tensor, tensors: dict[str, Tensor], trio: Any) -> None:
        """Refuse outputs that depend on the rest of the batch, or on chance."""
        two, three = two.detach(), three.detach()
        if not (torch.isfinite(two).all() and torch.isfinite(three).all()):
            return  # the run itself reports which sample it is
        limit = self._tolerance.coupling * three.abs().max().clamp_min(torch.finfo(three.dtype).tiny)
        moved = float((three[:2] - two.flip(0)).abs().max())
        if moved <= limit:
            return
        if self.strict:
            raise Doubt
        with torch.no_grad():
            again = self.model.run(tensors, trio)
        if float((three - again).abs().max()) > limit:
            raise RandomOutputError(
                "the model returns different outputs for the same input even in evaluation mode: "
                "switch off what draws random numbers in its forward pass, or fix the draw inside call="
            )
        raise coupled(self.model, moved, "with the rest of its batch")

    # -------------------------------------------------------------------- recording

    def _measured(self, batch: Any) -> tuple[Record, int]:
        """A recorded forward as in the run, and the bytes it holds for the backward pass."""
        tensors = self._expendable()
        stand_ins = memory_format.channels_last(self.model, tensors) if self.channels_last else {}
        own = {t.untyped_storage()._cdata for t in tensors.values()}
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if not tensor.is_sparse:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    seen[storage._cdata] = storage.nbytes()
            return tensor.detach()  # an output that saved itself would never be freed

        own |= {t.untyped_storage()._cdata for t in stand_ins.values()}
        hooks: AbstractContextManager[Any] = torch.autograd.graph.saved_tensors_hooks(note, lambda t: t)
        try:
            tape, out = self._run(tensors, stand_ins, batch, hooks)
        except RuntimeError as error:
            if not refuses_hooks(error):
                raise
            tape, out = self._run(tensors, stand_ins, batch, nullcontext())
            seen |= {-u: UNSEEN * use.out_shape.numel() * out.element_size() for u, use in enumerate(tape.uses, 1)}
        if tape.depends_on_order(out):
            raise Doubt
        for name, parameter in self.model.module.named_parameters():
            lent = self.tensors[name].untyped_storage()._cdata == parameter.untyped_storage()._cdata
            if lent and not torch.equal(tensors[name], parameter):
                raise CaptureError(
                    f"the forward pass writes to its own parameter {name!r} in place: it cannot be analysed"
                )
        for use in tape.uses:
            for leaf in use.leaves:
                if isinstance(leaf, Tensor):
                    note(leaf)
        largest = max([out.numel(), *(use.out_shape.numel() for use in tape.uses)]) * out.element_size()
        # three more for an output-gradient, its successor, and one temporary
        return Record(tape, out), sum(seen.values()) + 3 * largest

    def _run(
        self, tensors: dict[str, Tensor], stand_ins: dict[int, Tensor], batch: Any, hooks: AbstractContextManager[Any]
    ) -> tuple[Tape, Tensor]:
        with torch.enable_grad(), hooks:
            tape = tape_for(self.model, tensors, stand_ins=stand_ins)
            with tape:
                return tape, self.model.run(tensors, batch)

    def _expendable(self) -> dict[str, Tensor]:
        """Copies for the first forward pass: one that writes through ``.data`` would change the user's weights."""
        if sum(t.numel() for t in self.tensors.values()) > LARGE:
            return self.tensors
        return {name: t.detach().clone().requires_grad_(t.requires_grad) for name, t in self.tensors.items()}

    def _recorded(self, tensors: dict[str, Tensor], batch: Any) -> Record | None:
        """A recorded forward as in the run; None where the model does not run on these parameters."""
        try:
            with torch.enable_grad():
                tape = tape_for(self.model, tensors)
                with tape:
                    return Record(tape, self.model.run(tensors, batch))
        except GenkernelError:
            raise
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None

    def _attached(self, tensors: dict[str, Tensor], batch: Any, keep_all: frozenset[int]) -> Record:
        """A recorded forward whose graph still reaches the parameters, for autograd's own gradient."""
        started = self._now()
        with torch.enable_grad():
            tape = tape_for(self.model, tensors, keep_all=keep_all, attached=True)
            with tape:
                out = self.model.run(tensors, batch)
        return Record(tape, out, self._now() - started)

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    # --------------------------------------------------------------------- planning

    def _plan(self, two: Record, three: Record) -> tuple[Coverage, bool]:
        """Find the sample axes, choose how each argument is taken; False when some order had to be guessed."""
        small, large = two.tape, three.tape
        received = [received_alone(two, 0, three.out)]
        plans: list[UsePlan | None] = []
        lost = uncaptured(small, two.out)
        same = len(small.uses) == len(large.uses) and all(
            a.func is b.func and list(a.slots) == list(b.slots) for a, b in zip(small.uses, large.uses, strict=True)
        )
        axes = [growing_axis(a.out_shape, 2, b.out_shape, PROBE) for a, b in zip(small.uses, large.uses, strict=same)]
        if any(axis is not None and axis.inner > 1 for axis in axes):
            received.append(received_alone(two, 1, three.out))  # merged axes: one sample may fit several orders
        sure = True
        for u, use in enumerate(small.uses):
            slots = describe_slots(use, small)
            names = {name for slot in slots for name in slot.parameters}
            other = large.uses[u] if same else None
            layout = axes[u] if same else None
            if layout is not None:
                supports = [got[u] for got in received if u in got]
                sure = sure and (layout.inner == 1 or (len(supports) == 2 and all(bool(B.any()) for B in supports)))
                layout = from_support(layout, supports, 2)
            if layout is None or other is None:
                lost |= names
                plans.append(None)
                continue
            inputs = {
                i: _like(growing_axis(shape, 2, other.leaf_shapes[i], PROBE), layout)
                for i, shape in use.leaf_shapes.items()
            }
            for slot in slots:
                slot.own = inputs.get(slot.position)
            rest = tuple(s for d, s in enumerate(use.out_shape) if d != layout.axis)
            plans.append(UsePlan(use.name, layout, inputs, slots, rest))
        calls = [(use.name, use_parameters(use, small)) for use in small.uses]
        coverage = Coverage(plans, calls)
        self.detached = received[0]
        coverage.give_up(lost)
        return coverage, sure

    def _check_inputs(self, small: Record, large: Record, coverage: Coverage) -> None:
        """Doubt a memory format in which inputs of uses are others: where a gate is shut, outputs do not tell."""
        for two, three, plan in zip(small.tape.uses, large.tape.uses, coverage.plans, strict=False):
            for i, layout in plan.inputs.items() if plan is not None else ():
                mine, ordinary = two.leaves[i], three.leaves[i]
                if layout is None or not (isinstance(mine, Tensor) and isinstance(ordinary, Tensor)):
                    continue  # the same for all samples, or not kept
                mine, ordinary = layout.sample(mine, 0, 2).double(), layout.sample(ordinary, 1, PROBE).double()
                if float((mine - ordinary).norm()) > 10 * self._tolerance.gradient * float(ordinary.norm()):
                    raise Doubt

    def _check_detached(self, truth: Truth, coverage: Coverage) -> None:
        """Give up uses whose output-gradients differ when the parameters are cut off, as they are in the run.

        A forward pass that differentiates something itself is such a case.
        """
        wrong: set[str] = set()
        for u, plan in enumerate(coverage.plans):
            if plan is None:
                continue
            whole, cut = truth.received.get(u), self.detached.get(u)
            attached = None if whole is None else plan.layout.sample(whole, 1, PROBE) / WEIGHTS[1]
            alone = None if cut is None else plan.layout.sample(cut, 0, 2)
            one = attached if attached is not None else torch.zeros(())
            two = alone if alone is not None else torch.zeros(())
            size = max(float(one.norm()), float(two.norm()))
            if float((one.to(two) - two).norm()) > 10 * self._tolerance.gradient * size:
                wrong |= {name for slot in plan.slots for name in slot.parameters}
        if wrong and self.strict:
            raise Doubt
        coverage.give_up(wrong)

    # ------------------------------------------------------------------- comparison

    def _settle(
        self, tensors: dict[str, Tensor], three: Any, coverage: Coverage, record: Record, truth: Truth
    ) -> Comparison:
        """Compare; take call by call what failed, compare again, give up what failed again."""
        found = self._compare(tensors, three, coverage, record, truth)
        if found.failed:
            if self.strict:
                raise Doubt
            coverage.demote(found.failed)
            found = self._compare(tensors, three, coverage)
            coverage.give_up(found.failed)
        return found

    def _compare(
        self,
        tensors: dict[str, Tensor],
        three: Any,
        coverage: Coverage,
        record: Record | None = None,
        truth: Truth | None = None,
    ) -> Comparison:
        """Weighted sums of assembled per-sample gradients against autograd.

        Args:
            record: an attached record of the same samples, with its truth.
        """
        names = [name for name, t in tensors.items() if t.requires_grad]
        if record is not None and not coverage.keep_all <= record.tape.keep_all:
            record = None  # it did not keep what is needed
        while True:
            if record is None or truth is None:
                record = self._attached(tensors, three, coverage.keep_all)
                truth = None
            tape = record.tape
            found = Comparison()
            try:
                if not coverage.matches_calls(tape, PROBE):
                    return Comparison(failed=set(names) - set(coverage.generic))
                for use in tape.uses:
                    if torch.finfo(use.dtype).eps > torch.finfo(self.coarsest).eps:
                        self.coarsest = use.dtype
                if self.strict and self.coarsest != self.precision:
                    raise Doubt  # part of the model computes in a coarser dtype
                gaps = self._gaps(tape, truth or Truth.of(record, tensors), tensors, coverage, found.signs)
            except NotCapturedError as outside:
                plan = coverage.plans[outside.use]
                assert plan is not None
                slot = next(s for s in plan.slots if s.position == outside.position)
                if outside.failure is not None and outside.failure not in coverage.failures:
                    coverage.failures.append(outside.failure)
                if slot.by_rule and tape.uses[outside.use].rule is not None:
                    slot.by_rule = False
                else:
                    coverage.give_up(set(slot.parameters))
                record = truth = None  # they lack what the other method needs
                continue
            except (RuntimeError, CaptureError) as error:
                if isinstance(error, CaptureError) and "in place" not in str(error):
                    raise
                return Comparison(failed=set(names) - set(coverage.generic))
            finally:
                tape.close()
            self._judge(names, gaps, coverage, found)
            return found

    def _gaps(
        self, tape: Tape, truth: Truth, tensors: dict[str, Tensor], coverage: Coverage, signs: Signs
    ) -> dict[str, Gap]:
        """Parameters with a gradient, assembled or true; the truth is used up."""
        gaps: dict[str, Gap] = {}
        w = torch.tensor(WEIGHTS, dtype=self.precision, device=self.model.device)

        def collect(name: str, factor: Factor, view: Geometry | None) -> None:
            parts = {key: torch.empty_like(part[:1], device="meta") for key, part in factor.parts().items()}
            coverage.footprints[name] = factor.like(parts)
            floating = next(part for part in factor.parts().values() if part.is_floating_point())
            total = factor.combination(w.to(floating.dtype))
            whole = total if view is None else view.scatter(total[None], tensors[name].numel())
            gaps[name] = Gap.between(truth.gradients.pop(name, None), whole.reshape(-1))

        assembly = Assembly(tape, coverage.plans, PROBE, collect, signs=signs)
        for u in list(truth.received):
            plan, B = coverage.plans[u], truth.received.pop(u)
            if plan is not None:  # samples weighted alike again: the weights come back with the combination
                assembly.receive(tape.uses[u], B / plan.layout.spread(w.to(B), B.dim()))
        assembly.flush()
        gaps.update((name, Gap.between(true, None)) for name, true in truth.gradients.items())
        return gaps

    def _judge(self, names: list[str], gaps: dict[str, Gap], coverage: Coverage, found: Comparison) -> None:
        allowed = self._tolerance.gradient
        overall = sum(gap.size**2 for gap in gaps.values()) ** 0.5
        for name in names:
            gap = gaps.get(name)
            if gap is None or not gap.any:
                found.silent.append(name)
            if name in coverage.generic or gap is None:
                continue
            # gradients that cancel exactly (a bias in front of a normalisation) are rounding noise
            if not gap.gap <= allowed * gap.size + 1e-3 * allowed * overall:
                found.failed.add(name)
            elif gap.gap > allowed * gap.size:
                found.weak.append(name)
            elif gap.size > 0:
                found.worst = max(found.worst, gap.gap / gap.size)


def _unsure(coverage: Coverage, weak: list[str]) -> list[str]:
    """The weak ones that no other parameter vouches for.

    A parameter of the same call, taken by rule as well, received the same output-gradient: a bias that a
    normalisation or a softmax cancels stands beside the weight of its layer.
    """
    lost, vouched = set(weak), set()
    for plan in coverage.plans:
        names = {name for slot in plan.slots for name in slot.parameters if slot.by_rule} if plan is not None else set()
        if names - lost:
            vouched |= names
    return [name for name in weak if name not in vouched]


def _perturbed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with every selected parameter moved off zeros and ties."""
    draw = torch.Generator().manual_seed(1)
    moved = {}
    for name, tensor in tensors.items():
        if not tensor.requires_grad:
            moved[name] = tensor
            continue
        plain = tensor.detach()
        size = plain.square().mean().sqrt() if plain.numel() else plain.new_zeros(())
        noise = torch.randn(plain.shape, generator=draw, dtype=torch.float64).to(plain)
        moved[name] = (plain + 0.1 * noise * (size + 0.1)).requires_grad_(True)
    return moved


def _like(found: Layout | None, out: Layout) -> Layout | None:
    """Inputs merge the samples in the same order as the output does."""
    return None if found is None else out.like(found)

"""The proof, before each run, that every use of every parameter is captured.

On four distinct samples (see docs/engine.md):

1. outputs must not depend on the rest of the batch, nor on chance;
2. the sample axis of every use is found from how shapes grow with the number of samples and
   from where the output-gradient lives under a cotangent on one sample alone;
3. per-sample gradients assembled from the uses are summed over samples with random weights and
   compared, parameter by parameter, with autograd's gradient of the equally weighted outputs.
   An unweighted sum would not notice samples mixed up.

The comparison runs at randomly perturbed parameters (zero-initialised layers would make it
0 = 0) and again at the real ones. What does not agree is differentiated call by call; what
still does not agree goes through the user's own forward, one sample at a time, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from genkernel.errors import BatchCouplingError, CaptureError, GenkernelError, RandomOutputError
from genkernel.tangent import batches
from genkernel.tangent.assembly import Assembly, NotCapturedError, UsePlan, describe_slots, use_parameters
from genkernel.tangent.capture import Tape
from genkernel.tangent.coverage import Coverage, uncaptured
from genkernel.tangent.layout import Layout, from_support, growing_axis
from genkernel.tangent.model import TangentModel

CANDIDATES = 32  # samples looked at to find distinct ones
PROBE = 3  # samples whose gradients are compared; one more tells which axes grow
# Relative disagreement allowed by the coarsest precision in the graph (per-sample gradients of
# one parameter against autograd's).
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3}
_COUPLING = {torch.float64: 1e-7, torch.float32: 1e-3}


def examine(model: TangentModel, batch: Any, dtype: torch.dtype | None = None) -> Coverage:
    """Probe a model on a few samples of a batch.

    Args:
        model: the model; it is left as it was.
        batch: at least one sample; four distinct ones spread over it are used, and noisy copies
            where there are fewer.
        dtype: dtype of the later run, for the memory estimate.

    Raises:
        BatchCouplingError: outputs depend on the rest of the batch.
        RandomOutputError: outputs differ between two runs.
        CaptureError: a parameter from outside the module is used.
    """
    samples = batches.move(_probe_samples(batch), model.device)  # pick first: the batch may not fit on the device
    with model.evaluating():
        perturbed, probe, record = _first_record(model, samples)
        precision = record.out.dtype
        _check_independence(model, perturbed, probe, record.out)
        if not torch.isfinite(record.out).all():  # the perturbation overflowed: judge the real weights
            _check_independence(model, model.tensors(precision), probe, None)
        coverage, small, received = _plan(model, perturbed, probe, record)
        record.tape.close()
        coverage.dtype = precision
        quiet: list[str] | None = None
        # the second time other samples in another order: a permutation inside the model that left
        # the first ones in place will not leave these
        for tensors, order in ((perturbed, [0, 1, 2]), (model.tensors(precision), [3, 0, 2])):
            chosen = batches.take(probe, order)
            recorded = (small, received) if tensors is perturbed and not coverage.keep_all else None
            failed, error, silent = _compare(model, tensors, chosen, coverage, recorded)
            if failed:
                coverage.demote(failed)
                failed, error, silent = _compare(model, tensors, chosen, coverage)
                coverage.give_up(failed)
            coverage.error = max(coverage.error, error)
            quiet = silent if quiet is None else [name for name in quiet if name in silent]
        small.tape.close()
        coverage.silent = quiet or []
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
        itemsize = (dtype or model.dtype).itemsize
        numels = {name: p.numel() for name, p in model.parameters.items()}
        coverage.bytes_per_sample = coverage.bytes_per_sample * itemsize // precision.itemsize
        coverage.bytes_per_sample += coverage.dense_entries(numels) * itemsize
    return coverage


# ------------------------------------------------------------------------- samples


def _probe_samples(batch: Any) -> Any:
    """Four samples spread over the batch, as distinct as they come; noisy copies where there are fewer."""
    n = batches.size(batch)
    leaves = batches.tensors(batch)
    spread = [round(i * (n - 1) / (CANDIDATES - 1)) for i in range(CANDIDATES)] if n > CANDIDATES else range(n)
    left = list(dict.fromkeys(spread))
    chosen = [left.pop(len(left) // 3)]
    while left and len(chosen) < PROBE + 1:
        # in how many leaves a candidate differs from every sample chosen so far; then far from them in place
        best = max(
            left,
            key=lambda c: (
                sum(all(not torch.equal(leaf[c], leaf[d]) for d in chosen) for leaf in leaves),
                min(abs(c - d) for d in chosen),
            ),
        )
        left.remove(best)
        chosen.append(best)
    picked = batches.take(batch, chosen)
    draw = torch.Generator().manual_seed(0)
    distinct = {0}
    for i in range(1, PROBE + 1):
        if i < len(chosen) and not any(_same(picked, i, j) for j in distinct):
            distinct.add(i)
            continue
        extra = batches.take(batch, [chosen[i % len(chosen)]])
        flat, spec = tree_flatten(extra)
        for k, leaf in enumerate(flat):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                noise = torch.randn(leaf.shape, generator=draw, dtype=torch.float64).to(leaf)
                flat[k] = leaf + 0.1 * noise * leaf.abs().mean().clamp_min(1e-3)
        extra = tree_unflatten(flat, spec)
        picked = batches.concatenate(
            batches.take(picked, slice(0, i)),
            batches.concatenate(extra, batches.take(picked, slice(i + 1, None)))
            if i + 1 < batches.size(picked)
            else extra,
        )
        distinct.add(i)
    return picked


def _same(batch: Any, i: int, j: int) -> bool:
    return all(torch.equal(leaf[i], leaf[j]) for leaf in batches.tensors(batch))


@dataclass
class Record:
    """A recorded forward pass."""

    tape: Tape
    out: Tensor
    bytes: int = 0


def _first_record(model: TangentModel, samples: Any) -> tuple[dict[str, Tensor], Any, Record]:
    """Perturbed parameters, samples and a forward pass in float64, or else in the model's dtype.

    Where a model does not run on perturbed parameters (a scale that turned negative), the real ones
    stand in; where it does not run on those either, its own error is the user's.
    """
    found: tuple[dict[str, Tensor], Any, Record] | None = None
    failure: Exception | None = None
    for dtype in dict.fromkeys((torch.float64, model.dtype)):
        if dtype != model.dtype and sum(p.numel() for p in model.parameters.values()) > 200_000_000:
            continue  # a float64 copy of such a model would be the largest thing in memory
        probe, real = batches.move(samples, model.device, dtype), model.tensors(dtype)
        for tensors in (_perturbed(real), real):
            try:
                found = tensors, probe, _measured(model, tensors, probe)
            except GenkernelError:
                raise
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                failure = error
                continue
            if found[2].out.dtype == dtype:
                return found
            break
    if found is None:
        assert failure is not None
        raise failure
    return found  # a model with a dtype of its own for outputs


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


def _check_independence(model: TangentModel, tensors: dict[str, Tensor], probe: Any, whole: Tensor | None) -> None:
    """Refuse outputs that depend on the rest of the batch, or on chance."""
    with torch.no_grad():
        whole = model.run(tensors, probe) if whole is None else whole.detach()
        if not torch.isfinite(whole).all():
            return  # the run itself reports which sample it is
        pair = model.run(tensors, batches.take(probe, [1, 0]))
        tolerance = _COUPLING.get(whole.dtype, 5e-2) * whole.abs().max().clamp_min(torch.finfo(whole.dtype).tiny)
        moved = float((whole[:2] - pair.flip(0)).abs().max())
        if moved <= tolerance:
            return
        if float((whole - model.run(tensors, probe)).abs().max()) > tolerance:
            raise RandomOutputError(
                "the model returns different outputs for the same input even in evaluation mode: "
                "switch off what draws random numbers in its forward pass, or fix the draw inside call="
            )
        how = (
            "batch_norm='train' normalises with the batch's own statistics; use batch_norm='eval', or "
            "batch_norm='frozen' with a reference batch"
            if model.batch_norm == "train"
            else "per-sample gradients do not exist for it; remove the coupling (batch statistics, attention "
            "or sums over the batch axis), or fold the coupled samples into one"
        )
        raise BatchCouplingError(f"the output for one sample changes by {moved:.2g} with the rest of its batch: {how}")


# ------------------------------------------------------------------------ planning


def tape_for(model: TangentModel, tensors: dict[str, Tensor], **options: Any) -> Tape:
    """A tape for a run of ``model`` on stand-in ``tensors``."""
    aliases = {name: t for name, t in tensors.items() if t.requires_grad}
    constants = [t for t in tensors.values() if not t.requires_grad]
    for module in model.module.modules():
        constants += [v for v in vars(module).values() if isinstance(v, Tensor)]
    return Tape(aliases, constants, **options)


def _cotangent(out: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out)


def _masked(v: Tensor, i: int) -> Tensor:
    only = torch.zeros_like(v)
    only[i] = v[i]
    return only


def _plan(
    model: TangentModel, tensors: dict[str, Tensor], probe: Any, first: Record
) -> tuple[Coverage, Record, list[dict[int, Tensor]]]:
    """Record a second batch size, find the sample axes, choose how each argument is taken.

    Returns:
        The coverage, the record of the ``PROBE`` samples, and the output-gradients of its uses under
        a cotangent on each sample alone.
    """
    large = first.tape
    with torch.enable_grad():
        received: list[dict[int, Tensor]] = []
        small = tape_for(model, tensors)
        with small:
            out = model.run(tensors, batches.take(probe, list(range(PROBE))))
        small.deliver = lambda use, B: received[-1].__setitem__(use.index, B)
        v = _cotangent(out)
        for i in range(PROBE):
            received.append({})
            if small.leaves and out.requires_grad:
                torch.autograd.grad(out, small.leaves, _masked(v, i), retain_graph=True, allow_unused=True)

    plans: list[UsePlan | None] = []
    lost: set[str] = set()
    lost |= uncaptured(small, out) | uncaptured(large, first.out)
    same = len(small.uses) == len(large.uses) and all(
        a.func is b.func and list(a.slots) == list(b.slots) for a, b in zip(small.uses, large.uses, strict=True)
    )
    for u, use in enumerate(small.uses):
        slots = describe_slots(use, small)
        names = {name for slot in slots for name in slot.parameters}
        if not same:
            lost |= names
            plans.append(None)
            continue
        other = large.uses[u]
        layout = growing_axis(use.out_shape, PROBE, other.out_shape, PROBE + 1)
        supports = [got[u] for got in received if u in got]
        if layout is not None and supports:
            layout = from_support(layout, supports, PROBE) if len(supports) == PROBE else layout
        if layout is None:
            lost |= names
            plans.append(None)
            continue
        inputs = {
            i: _like(growing_axis(shape, PROBE, other.leaf_shapes[i], PROBE + 1), layout)
            for i, shape in use.leaf_shapes.items()
        }
        for slot in slots:
            slot.own = inputs.get(slot.position)
        rest = tuple(s for d, s in enumerate(use.out_shape) if d != layout.axis)
        proved = any(bool(B.any()) for B in supports)
        plans.append(UsePlan(use.name, layout, inputs, slots, rest, proved))
    calls = [(use.name, use_parameters(use, small)) for use in small.uses]
    coverage = Coverage(plans, calls, bytes_per_sample=first.bytes // (PROBE + 1))
    coverage.give_up(lost)
    return coverage, Record(small, out), received


def _like(found: Layout | None, out: Layout) -> Layout | None:
    """Inputs merge the samples in the same order as the output does."""
    return None if found is None else out.like(found)


# --------------------------------------------------------------------- comparison


def _compare(
    model: TangentModel,
    tensors: dict[str, Tensor],
    three: Any,
    coverage: Coverage,
    recorded: tuple[Record, list[dict[int, Tensor]]] | None = None,
) -> tuple[set[str], float, list[str]]:
    """Weighted sums of assembled per-sample gradients against autograd.

    Args:
        recorded: a record of the same samples with the output-gradients of each sample alone.

    Returns:
        (parameters that disagree, largest error among the others, parameters without influence)
    """
    names = [name for name, t in tensors.items() if t.requires_grad]
    assembled: dict[str, Tensor] = {}
    with torch.enable_grad():
        out = model.run(tensors, three)
        v = _cotangent(out)
        w = torch.tensor([1.0, -0.7, 0.4], dtype=v.dtype, device=v.device)
        truth: dict[str, Tensor] = {}
        if out.requires_grad:
            weighted = v * w.view(-1, *[1] * (v.dim() - 1))
            grads = torch.autograd.grad(out, [tensors[name] for name in names], weighted, allow_unused=True)
            truth = {
                name: (g.to_dense() if g.is_sparse else g).detach().reshape(-1)
                for name, g in zip(names, grads, strict=True)
                if g is not None
            }

        def collect(name: str, factor: Any, view: Any) -> None:
            parts = {key: torch.empty_like(part[:1], device="meta") for key, part in factor.parts().items()}
            coverage.footprints[name] = factor.like(parts)
            rows = factor.dense()
            rows = rows.reshape(PROBE, -1) if view is None else view.scatter(rows, tensors[name].numel())
            assembled[name] = (w.to(rows.dtype)[:, None] * rows).sum(0)

        coarsest: list[torch.dtype] = [out.dtype]
        while True:
            assembled.clear()
            if recorded is None:
                tape = tape_for(model, tensors, keep_all=coverage.keep_all)
                with tape:
                    out = model.run(tensors, three)
                if not coverage.matches(tape, out, PROBE):
                    tape.close()
                    return set(names) - set(coverage.generic), 0.0, []
            else:
                tape = recorded[0].tape
            assembly = Assembly(tape, coverage.plans, PROBE, collect)
            coarsest += [use.dtype for use in tape.uses]
            try:
                if recorded is None:
                    _backward(tape, out, v, assembly)
                else:
                    _replay(tape, recorded[1], assembly)
            except NotCapturedError as outside:
                plan = coverage.plans[outside.use]
                assert plan is not None
                slot = next(s for s in plan.slots if s.position == outside.position)
                if slot.by_rule and tape.uses[outside.use].rule is not None:
                    slot.by_rule = False
                else:
                    coverage.give_up(set(slot.parameters))
                recorded = None  # that record did not keep what the other method needs
                continue
            except (RuntimeError, CaptureError) as error:
                if isinstance(error, CaptureError) and "in place" not in str(error):
                    raise
                return set(names) - set(coverage.generic), 0.0, []
            break

    tolerance = max(_TOLERANCE.get(dtype, 5e-2) for dtype in coarsest)
    overall = sum(float(g.square().sum()) for g in truth.values()) ** 0.5
    failed, worst, silent = set(), 0.0, []
    for name in names:
        true = truth.get(name)
        if true is None or not bool(true.any()):
            silent.append(name)
        if name in coverage.generic:
            continue
        mine = assembled.get(name)
        if true is None:
            true = torch.zeros_like(mine) if mine is not None else None
        if true is None:
            continue
        mine = torch.zeros_like(true) if mine is None else mine
        size = float(true.norm())
        gap = float((mine.to(true) - true).norm())
        # gradients that cancel exactly (a bias in front of a normalisation) are rounding noise
        if not gap <= tolerance * size + 1e-3 * tolerance * overall:
            failed.add(name)
        elif size > 0:
            worst = max(worst, gap / max(size, 1e-3 * overall))
    return failed, worst, silent


def _backward(tape: Tape, out: Tensor, v: Tensor, assembly: Assembly) -> None:
    if tape.leaves and out.requires_grad:
        tape.deliver = assembly.receive
        torch.autograd.grad(out, tape.leaves, v, retain_graph=True, allow_unused=True)
    assembly.flush()


def _replay(tape: Tape, received: list[dict[int, Tensor]], assembly: Assembly) -> None:
    """Output-gradients are linear in the cotangent: those of all samples are the sum of each one's."""
    for use in tape.uses:
        parts = [got[use.index] for got in received if use.index in got]
        if parts:
            assembly.receive(use, torch.stack(parts).sum(0))
    assembly.flush()


def _measured(model: TangentModel, tensors: dict[str, Tensor], batch: Any) -> Record:
    """A recorded forward, and the bytes it holds for the backward pass."""
    own = {t.untyped_storage()._cdata for t in tensors.values()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not tensor.is_sparse:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                seen[storage._cdata] = storage.nbytes()
        return tensor.detach()  # an output that saved itself would never be freed; this record is not differentiated

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        tape = tape_for(model, tensors)
        with tape:
            out = model.run(tensors, batch)
    for use in tape.uses:
        for leaf in use.leaves:
            if isinstance(leaf, Tensor):
                note(leaf)
    largest = max([out.numel(), *(use.out_shape.numel() for use in tape.uses)]) * out.element_size()
    # three more for an output-gradient, its successor, and one temporary
    return Record(tape, out, sum(seen.values()) + 3 * largest)

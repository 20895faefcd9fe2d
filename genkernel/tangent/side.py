"""One side of an operator: J(x)·u and J(x)ᵀ·w over all samples of a batch, a few samples at a time.

A side has *rows*. Without cotangents they are the outputs of its samples, n·O of them, and J is the
Jacobian. With cotangents v_ik there is one row per sample and one matrix G_k per cotangent, whose row
i is J(x_i)ᵀ v_ik; a vector z over samples enters the network as z_i v_ik, and leaves it as ⟨v_ik, (J u)_i⟩.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import CaptureError, GenkernelError, InputError, NonFiniteError, RandomOutputError
from genkernel.tangent import batches, jvp
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.distinct import distinct_samples
from genkernel.tangent.heap import GAPS, LIBRARIES, give_back
from genkernel.tangent.judgement import Doubt, coupled, in_some_precision, tolerance
from genkernel.tangent.jvp import Route, Vector
from genkernel.tangent.model import TangentModel
from genkernel.tangent.passes import guarded
from genkernel.tangent.shortage import out_of_memory, refuses_hooks

log = logging.getLogger("genkernel")

Pair = tuple[int, int]  # (which cotangent, which column)

_WORTH_TRIMMING = 2**24  # bytes of activations from which a product takes longer than giving memory back
_FEW = 3  # samples that a model and its route to J·u are verified on


@dataclass(frozen=True)
class Proof:
    """What was measured about a model on a few samples.

    Attributes:
        shape: of one sample's output.
        route, error: the route to J·u, and by how much it misses the adjoint identity.
        bytes_per_sample: activations held for a backward pass.
        weights: place and version of every parameter and buffer.
    """

    shape: tuple[int, ...]
    route: Route
    error: float
    bytes_per_sample: int
    weights: dict[str, tuple[int, int]]

    def renewed(self, model: TangentModel) -> Proof:
        """The same for the weights as they are now; only for a model of which nothing else has changed."""
        return replace(self, weights=_weights(model))


def prove(model: TangentModel, batch: Any, dtype: torch.dtype, method: str, cotangents: Cotangents | None) -> Proof:
    """Check a model on samples of a batch, and choose and verify its route to J·u.

    Raises:
        BatchCouplingError, RandomOutputError, CaptureError, NonFiniteError, InputError: as documented
            by :func:`genkernel.tangent.operators.operator`.
    """
    model.check_finite()
    distinct = batches.move(distinct_samples(batch, _FEW), model.device)
    few = batches.move(batches.spread(batch, _FEW), model.device, dtype)
    with guarded(model):
        model.find_caches(few, dtype)
    with guarded(model), model.evaluating():
        tensors = model.tensors(dtype)
        try:
            out, held, precision = _look(model, tensors, few, dtype)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as failure:
            if out_of_memory(failure) or isinstance(failure, GenkernelError):
                raise
            raise batches.does_not_run(batch, failure) from failure
        _check_independence(model, distinct, dtype)
        if cotangents is not None:
            cotangents.check(out, few)
        try:
            route, error = jvp.choose(model, tensors, few, precision, method)
        except CaptureError:
            _refuse_random(model, tensors, few, tolerance(precision).coupling)
            raise
    level = logging.WARNING if route.name == jvp.FiniteDifferences.name else logging.INFO
    log.log(level, f"J·u by {route.describe()}; it misses the adjoint identity by {error:.1e}")
    return Proof(tuple(out.shape[1:]), route, error, held, _weights(model))


def _look(
    model: TangentModel, tensors: dict[str, Tensor], few: Any, dtype: torch.dtype
) -> tuple[Tensor, int, torch.dtype]:
    """Run a few samples forwards and backwards, as the run will.

    Returns:
        Their outputs, the bytes that a backward pass holds per sample, and the coarsest precision that the
        network computes in (some parts of some networks are float32 whatever the rest is).
    """
    try:
        with torch.enable_grad(), _activations(tensors) as held:
            out = model.run(tensors, few)
    except RuntimeError as error:
        if not refuses_hooks(error):
            raise
        with torch.enable_grad():
            out = model.run(tensors, few)
        held = {out.dtype: sum(t.nbytes for t in tensors.values()) + len(out) * out[0].nbytes}  # a guess
    precision = max({dtype, out.dtype, *held}, key=lambda kind: torch.finfo(kind).eps)
    _refuse_foreign(out, tensors)
    jvp.require_finite(out)
    jvp.require_finite_gradient(jvp.backward(model, tensors, out, _noise_on_first(out)))
    return out.detach(), sum(held.values()) // len(out), precision


def _check_independence(model: TangentModel, samples: Any, dtype: torch.dtype) -> None:
    """Refuse a model whose output or gradient for one sample depends on its neighbours, or on chance.

    As strictly as :func:`genkernel.tangent.probe.examine`: in the precision of the run (float32 for a coarser one);
    what is in doubt there is judged in float64, where the model runs in it.
    """
    in_some_precision(
        model,
        dtype,
        lambda precision, strict: _compare_batches(
            model, batches.move(samples, model.device, precision), precision, strict
        ),
    )


def _compare_batches(model: TangentModel, samples: Any, precision: torch.dtype, strict: bool) -> None:
    """The first sample runs twice: first among three, and second among two.

    Its Jacobian is compared along one random cotangent.

    Raises:
        Doubt: ``strict``, and something differs by more than rounding usually does.
    """
    tensors = model.tensors(precision)
    with torch.enable_grad():
        out, other = model.run(tensors, samples), model.run(tensors, batches.take(samples, [1, 0]))
    w = _noise_on_first(out)
    first, second = jvp.backward(model, tensors, out, w), jvp.backward(model, tensors, other, w[:2].flip(0))
    out, other = out.detach(), other.detach()
    if not (torch.isfinite(out).all() and torch.isfinite(other).all()):
        return  # a noisy copy, or this precision: the run itself reports which sample it is
    coarsest = max(precision, out.dtype, key=lambda kind: torch.finfo(kind).eps)
    allowed = tolerance(coarsest, strict).coupling
    moved, size = float((out[:2] - other.flip(0)).abs().max()), float(out.abs().max())
    turned, length = jvp.norm({name: first[name] - second[name] for name in first}), jvp.norm(first)
    if moved <= allowed * size and not turned > allowed * length:
        return
    if strict:
        raise Doubt
    _refuse_random(model, tensors, samples, allowed)
    if moved <= allowed * size:
        raise coupled(model, turned, "in its gradient with the rest of its batch")
    raise coupled(model, moved, "with the rest of its batch")


def _noise_on_first(out: Tensor) -> Tensor:
    """A cotangent that is random on the first sample, and zero on the others."""
    draw = torch.Generator().manual_seed(1)
    w = torch.zeros_like(out.detach())
    w[0] = torch.randn(out.shape[1:], generator=draw, dtype=torch.float64).to(out)
    return w


def _refuse_random(model: TangentModel, tensors: dict[str, Tensor], batch: Any, tolerance: float) -> None:
    with torch.no_grad():
        first, *others = (model.run(tensors, batch) for _ in range(4))
    limit = tolerance * float(first.abs().max())
    if any(float((other - first).abs().max()) > limit for other in others):
        raise RandomOutputError(
            "the model returns different outputs for the same input even in evaluation mode: "
            "switch off what draws random numbers in its forward pass, or fix the draw inside call="
        )


def _refuse_foreign(out: Tensor, tensors: dict[str, Tensor]) -> None:
    """A parameter from outside of the module would be left out in silence."""
    ours = {id(t) for t in tensors.values()}
    stack, seen = [out.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.nn.Parameter) and id(leaf) not in ours:
            raise CaptureError(
                f"a parameter of shape {tuple(leaf.shape)} is used that does not belong to model.parameters(): "
                "register it in the module, or pass the module that owns it"
            )
        stack.extend(parent for parent, _ in node.next_functions)


@contextmanager
def _activations(tensors: dict[str, Tensor]) -> Iterator[dict[torch.dtype, int]]:
    """Count the bytes that autograd saves meanwhile by floating dtype, without parameters and buffers."""
    seen = {t.untyped_storage().data_ptr() for t in tensors.values()}
    total: dict[torch.dtype, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if t.is_floating_point() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[t.dtype] = total.get(t.dtype, 0) + storage.nbytes()
        return t.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield total


class Side:
    """A model on the samples of one batch.

    Args:
        model, batch: what is differentiated, and where.
        cotangents: which scalars of the outputs; None for all outputs.
        dtype: of activations and gradients. Gradients are summed over samples in float32 at least.
        proof: what :func:`prove` found.
        batch_size: samples that run together; None to follow from ``budget``.
        budget: bytes for activations and vectors in parameter space.
        progress: show a bar; None leaves it to the terminal.
    """

    def __init__(
        self,
        model: TangentModel,
        batch: Any,
        cotangents: Cotangents | None,
        dtype: torch.dtype,
        proof: Proof,
        batch_size: int | None,
        budget: int,
        progress: bool | None,
    ):
        self.model, self.batch, self.cotangents = model, batch, cotangents
        self.dtype, self.proof, self.budget, self.progress = dtype, proof, budget, progress
        self.summed = torch.promote_types(dtype, torch.float32)  # 16 bits lose what many small batches add
        self.n = batches.size(batch)
        self.outputs = int(torch.Size(proof.shape).numel())
        self.numel = sum(p.numel() for p in model.parameters.values())
        self._fixed = batch_size
        self._most = self.n  # samples that are known to fit together

    @property
    def rows(self) -> int:
        return self.n * self.outputs if self.cotangents is None else self.n

    @property
    def count(self) -> int:
        """Matrices that the operator is a sum over: 1, or one per cotangent."""
        return 1 if self.cotangents is None else self.cotangents.count(self.proof.shape)

    @property
    def together(self) -> int:
        """How many vectors in parameter space are held at once: twice as many take a quarter of the budget."""
        return max(1, self.budget // 8 // (self.numel * self.summed.itemsize))

    # ------------------------------------------------------------------------------- products

    def adjoint(self, pairs: list[Pair], Z: Tensor) -> list[Vector]:
        """Σ_i J(x_i)ᵀ (z_i's vector) for each (cotangent, column of Z ``[rows, c]``), in the dtype of sums."""

        def vectors(out: Tensor, batch: Any, rows: slice) -> Iterator[Tensor]:
            for k, v in self._cotangents(out, batch, pairs):
                for which, column in pairs:
                    if which == k:
                        yield self._enter(Z[:, column], v, out, rows)

        return self._sum(vectors, len(pairs), [p for k in range(self.count) for p in _places(pairs, k)], Z)

    def forward(self, pairs: list[Pair], directions: list[Vector]) -> Tensor:
        """Rows of G_k u for each pair and its direction u: ``[rows, len(pairs)]``, float64 on the CPU."""
        found = torch.zeros(self.rows, len(pairs), dtype=torch.float64)
        width = self.rows // self.n
        sizes = [1.0] * len(directions)
        if self.dtype.itemsize < 4:  # sums over samples, and what P makes of them, may lie outside of its range
            sizes = [float(max(t.abs().max() for t in u.values())) or 1.0 for u in directions]
            directions = [{name: t / s for name, t in u.items()} for u, s in zip(directions, sizes, strict=True)]

        def each(tensors: dict[str, Tensor], batch: Any, rows: slice) -> None:
            out, products = self.proof.route.products(self.model, tensors, batch, directions)
            jvp.require_finite(out, rows.start)
            for k, v in self._cotangents(out, batch, pairs):
                for place in _places(pairs, k):
                    values = products[place].to(torch.float64) * sizes[place]
                    values = values if v is None else values * v
                    flat = values.reshape(len(out), width, -1).sum(2)
                    found[rows.start * width : rows.stop * width, place] = flat.flatten().cpu()

        self._stream(each, "J·u", len(directions), self.proof.route.activations, lambda: found.zero_())
        if not torch.isfinite(found).all():
            raise NonFiniteError("J·u is NaN or infinite: the gradients of this network overflow, or u is not finite")
        return found

    def jvp(self, u: Vector) -> Tensor:
        """J(x) u, ``[n, *out]``, in the dtype of the run on the model's device."""
        parts: list[Tensor] = []

        def each(tensors: dict[str, Tensor], batch: Any, rows: slice) -> None:
            out, (product,) = self.proof.route.products(self.model, tensors, batch, [u])
            jvp.require_finite(out, rows.start)
            parts.append(product.to(self.dtype))

        self._stream(each, "J·u", 1, self.proof.route.activations, parts.clear)
        return torch.cat(parts)

    def vjp(self, w: Tensor) -> Vector:
        """J(x)ᵀ w for ``w [n, *out]``, in the dtype of the run."""

        def vectors(out: Tensor, batch: Any, rows: slice) -> Iterator[Tensor]:
            yield w[rows].reshape(out.shape).to(out)

        (total,) = self._sum(vectors, 1, [0], w.reshape(self.n, -1))
        found = {name: value.to(self.dtype) for name, value in total.items()}
        jvp.require_finite_gradient(found)
        return found

    # ------------------------------------------------------------------------------- streaming

    def _sum(
        self,
        vectors: Callable[[Tensor, Any, slice], Iterator[Tensor]],
        count: int,
        order: list[int],
        Z: Tensor,
    ) -> list[Vector]:
        """Sums of Jᵀw over the samples, for ``count`` vectors that come in ``order``."""
        parameters = self.model.parameters
        totals: list[Vector] = [
            {name: torch.zeros(p.shape, dtype=self.summed, device=p.device) for name, p in parameters.items()}
            for _ in range(count)
        ]
        touched = Z.reshape(self.n, -1).ne(0).any(1)

        def clear() -> None:
            for total in totals:
                for value in total.values():
                    value.zero_()

        def each(tensors: dict[str, Tensor], batch: Any, rows: slice) -> None:
            if not bool(touched[rows].any()):  # unit vectors touch one sample
                return
            found = jvp.pull_back(self.model, tensors, batch, lambda out: vectors(out, batch, rows), rows.start)
            for place, gradient in zip(order, found, strict=True):
                for name, value in gradient.items():
                    totals[place][name] += value

        self._stream(each, "Jᵀ·w", count, 1.0, clear)
        for total in totals:
            jvp.require_finite_gradient(total)
        return totals

    def _stream(
        self,
        each: Callable[[dict[str, Tensor], Any, slice], None],
        label: str,
        vectors: int,
        activations: float,
        restart: Callable[[], Any],
    ) -> None:
        """Run ``each`` on consecutive samples; with half as many at a time when memory runs out."""
        from tqdm import tqdm

        if _weights(self.model) != self.proof.weights:
            raise InputError("the model's weights changed since the operator was built: build it again")
        hidden = None if self.progress is None else not self.progress  # None: tqdm hides it outside a terminal
        if self.model.device.type == "cpu" and self.n * self.proof.bytes_per_sample > _WORTH_TRIMMING:
            give_back()  # what earlier products freed, in other sizes than are asked for now
        while True:
            size = self._size(vectors, activations)
            try:
                with (
                    guarded(self.model),
                    self.model.evaluating(),
                    tqdm(total=self.n, desc=label, unit="sample", disable=hidden, delay=1.0, leave=False) as bar,
                ):
                    tensors = self.model.tensors(self.dtype)
                    for start in range(0, self.n, size):
                        rows = slice(start, min(self.n, start + size))
                        each(tensors, batches.move(batches.take(self.batch, rows), self.model.device, self.dtype), rows)
                        bar.update(rows.stop - rows.start)
                return
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or size == 1 or self._fixed is not None:
                    raise
            # the exception being over, what its frames held is free
            self._most = size // 2
            log.warning(f"out of memory with {size} samples at a time; going on with {self._most}")
            restart()
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()

    def _size(self, vectors: int, activations: float) -> int:
        if self._fixed is not None:
            return min(self._fixed, self.n)
        copies = 1 + (self.dtype != self.model.dtype)
        # sums of what samples add to them, and what one batch adds
        held = (2 * vectors * self.summed.itemsize + copies * self.dtype.itemsize) * self.numel
        # besides activations: a batch is cut out of all samples, and the network gets a copy that it may write to
        inputs = 2 * sum(t[0].nbytes for t in batches.tensors(self.batch))
        per_sample = max(1, int(activations * self.proof.bytes_per_sample)) + inputs
        room = self.budget
        if self.model.device.type == "cpu":
            room = int(room / GAPS) - LIBRARIES
        return max(1, min(self._most, (room - held) // per_sample))

    # ------------------------------------------------------------------------------- cotangents

    def _cotangents(self, out: Tensor, batch: Any, pairs: list[Pair]) -> Iterator[tuple[int, Tensor | None]]:
        """(k, v_k) for the cotangents that occur in ``pairs``; v is None without cotangents."""
        if self.cotangents is None:
            yield 0, None
            return
        wanted = {k for k, _ in pairs}
        for k, v in enumerate(self.cotangents.vectors(out.detach().clone(), batches.copy(batch))):
            if k in wanted:
                yield k, v.to(out)
            if k == max(wanted):
                return

    def _enter(self, z: Tensor, v: Tensor | None, out: Tensor, rows: slice) -> Tensor:
        """What a vector over rows is at the network's outputs."""
        width = self.rows // self.n
        part = z[rows.start * width : rows.stop * width].to(out.device)
        if v is None:
            return part.reshape(out.shape)
        return part.reshape(-1, *[1] * (out.dim() - 1)) * v  # float64 until it is rounded once


def _places(pairs: list[Pair], k: int) -> list[int]:
    return [place for place, (which, _) in enumerate(pairs) if which == k]


def _weights(model: TangentModel) -> dict[str, tuple[int, int]]:
    """Place and version of every parameter and buffer, to notice that the weights changed."""
    return {name: (t.data_ptr(), -1 if t.is_inference() else t._version) for name, t in model.state().items()}

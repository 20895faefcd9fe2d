"""The Jacobian of a model in its *inputs*: J_x u, J_xᵀ w, and the dense matrices of small samples.

A latent Jacobian ∂G/∂z and the gradient ∇_x of a discriminator's loss are of this kind. The input is
treated like one more parameter, so that the routes to J·u of :mod:`genkernel.tangent.jvp` and the adjoint
identity that chooses between them serve here as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent import batches, jvp
from genkernel.tangent.judgement import tolerance
from genkernel.tangent.jvp import METHODS, Forward, Route
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import guarded
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.shortage import out_of_memory, refuses_hooks

_FEW = 3  # samples that the route is verified on
_COLUMNS = 16  # of J in one vectorised forward pass, which shares what does not depend on the direction
_INPUT = ""  # the input's name among the parameters: no parameter has an empty one

Pulled = Callable[[Tensor, Any], Tensor]


class InputJacobian:
    """∂f(x_i)/∂x_i for every sample of a batch, by its products.

    The output for a sample has to depend on that sample alone. Where it does not (minibatch statistics),
    :meth:`vjp` still gives the gradient of Σ ⟨w_i, f_i⟩ over the samples that run together: all of them with
    ``batch_size=n``.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        batch: n samples.
        leaf: which entry of a dict is differentiated; None for a batch that is one tensor.
        dtype: of the run (the model's own by default).
        batch_size: samples that run together; follows from ``memory`` by default.
        memory: bound on activations and on what :meth:`dense` makes at a time (``"2GiB"``, bytes).
        method: the route to J·u, as for :func:`genkernel.operator`.

    Attributes:
        n, input_shape: number of samples, and the shape of one input.

    Raises:
        InputError: no such leaf, or it is no real floating point tensor; an unknown option.
    """

    def __init__(
        self,
        model: TangentModel | nn.Module | Any,
        batch: Any,
        leaf: str | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        memory: str | int = "2GiB",
        method: str = "auto",
    ):
        if method not in METHODS:
            raise InputError(f"method is one of {', '.join(METHODS)}, not {method!r}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size has to be at least 1, not {batch_size}")
        self.model = as_tangent_model(model)
        self.batch, self.leaf = batch, leaf
        self.n = batches.size(batch)
        self.dtype = parse_dtype(dtype) or self.model.dtype
        self.input_shape = tuple(_leaf(batch, leaf).shape[1:])
        self._asked, self._fixed, self._budget = method, batch_size, parse_memory(memory)
        self._most = self.n  # samples that may fit together
        self._measure: tuple[int, int, torch.dtype] | None = None
        self._route: tuple[Route, float] | None = None
        self._vectorised: bool | None = None
        if self.model.weights:  # values that an earlier call has kept are those of other weights
            with guarded(self.model):
                self.model.find_caches(batch, self.dtype)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one output."""
        return tuple(self.take(slice(0, 1)).outputs().shape[1:])

    @property
    def method(self) -> str:
        """The verified route to J·u."""
        return self._chosen()[0].describe()

    @property
    def adjoint_error(self) -> float:
        """By how much that route misses ⟨w, J u⟩ = ⟨Jᵀw, u⟩, relative."""
        return self._chosen()[1]

    # ------------------------------------------------------------------------------- products

    def outputs(self, *, require_finite: bool = True) -> Tensor:
        """f(x), ``[n, *out]``.

        Raises:
            NonFiniteError: an output is NaN or infinite, and that is not allowed.
        """

        def each(at: _AtInput, tensors: dict[str, Tensor], rows: slice) -> Tensor:
            with torch.no_grad():
                out = at.run(tensors, None).detach()
            if require_finite:
                jvp.require_finite(out, rows.start)
            return out

        return self._whole(each)

    def vjp(self, w: Tensor | Pulled) -> Tensor:
        """J_xᵀ w for every sample, ``[n, *in]``.

        Args:
            w: ``[n, *out]``, or ``w(outputs, batch)`` that gives it for some of the samples.

        Raises:
            InputError: w does not have the outputs' shape.
            NonFiniteError: an output or a gradient is NaN or infinite.
        """
        return self.vjps([w])[:, 0]

    def vjps(self, ws: Sequence[Tensor | Pulled]) -> Tensor:
        """J_xᵀ w for k of them with one forward pass, ``[n, k, *in]``."""
        for w in ws:
            if isinstance(w, Tensor) and (w.dim() == 0 or len(w) != self.n):
                raise InputError(f"w has shape {tuple(w.shape)} for {self.n} samples")

        def each(at: _AtInput, tensors: dict[str, Tensor], rows: slice) -> Tensor:
            def vectors(out: Tensor) -> Iterator[Tensor]:
                for w in ws:
                    # copies: a function may write to what it is given
                    v = w[rows] if isinstance(w, Tensor) else w(out.clone(), batches.copy(at.batch))
                    if v.shape != out.shape:
                        raise InputError(f"w has shape {tuple(v.shape)} for outputs {tuple(out.shape)}")
                    yield v.detach()

            return at.pulled(tensors, vectors, rows.start)

        return self._whole(each)

    def jvp(self, u: Tensor) -> Tensor:
        """J_x u for every sample, ``[n, *out]``.

        Args:
            u: ``[n, *in]``.

        Raises:
            InputError: u does not have the inputs' shape.
            CaptureError: no route gives J·u of this network.
            NonFiniteError: an output or a derivative is NaN or infinite.
        """
        return self.jvps([u])[:, 0]

    def jvps(self, us: Sequence[Tensor]) -> Tensor:
        """J_x u for k of them, ``[n, k, *out]``."""
        for u in us:
            if tuple(u.shape) != (self.n, *self.input_shape):
                raise InputError(f"u has shape {tuple(u.shape)}, the inputs have {(self.n, *self.input_shape)}")
        route, columns = self._chosen()[0], self._columns(len(us))

        def each(at: _AtInput, tensors: dict[str, Tensor], rows: slice) -> Tensor:
            return at.pushed(route, tensors, [u[rows] for u in us], rows.start, columns)

        return self._whole(each, route, columns)

    def dense(self) -> Iterator[tuple[slice, Tensor]]:
        """The Jacobians ``[c, O, d]`` of c samples at a time, with the samples they belong to.

        By rows (backward passes) where there are fewer outputs than inputs, else by columns, several in one forward
        pass where that is possible; c follows from ``memory``.
        """
        shape = self.output_shape
        outputs, inputs = math.prod(shape), math.prod(self.input_shape)
        route = self._chosen()[0] if outputs >= inputs else None
        columns = 1 if route is None else self._columns(inputs)

        def each(at: _AtInput, tensors: dict[str, Tensor], rows: slice) -> Tensor:
            count = rows.stop - rows.start
            if route is None:
                found = at.pulled(tensors, lambda out: iter(_units(count, shape, out.dtype)), rows.start)
                return found.reshape(count, outputs, inputs)
            found = at.pushed(route, tensors, _units(count, self.input_shape, self.dtype), rows.start, columns)
            return found.reshape(count, inputs, outputs).transpose(1, 2)

        kept = 2 * outputs * inputs * self.dtype.itemsize  # the products, and stacked
        return self._stream(each, route, columns, kept)

    def take(self, rows: slice) -> InputJacobian:
        """The same for some of the samples, with what was found out about the model."""
        part = InputJacobian(
            self.model, batches.take(self.batch, rows), self.leaf, dtype=self.dtype, batch_size=self._fixed,
            memory=self._budget, method=self._asked,
        )  # fmt: skip
        part._measure, part._route, part._vectorised = self._measure, self._route, self._vectorised
        return part

    # -------------------------------------------------------------------------------- inside

    def _chosen(self) -> tuple[Route, float]:
        if self._route is None:
            precision = self._measured()[2]
            try:
                with guarded(self.model), self.model.evaluating():
                    at = _AtInput(self, batches.spread(self.batch, _FEW), self.model.tensors(self.dtype))
                    self._route = jvp.choose(at, at.tensors(), None, precision, self._asked)  # type: ignore[arg-type]
            except NonFiniteError:
                self.vjp(lambda out, _: torch.ones_like(out))  # raises, too, and names the sample
                raise
        return self._route

    def _columns(self, count: int) -> int:
        """How many of ``count`` J·u come out of one forward pass: several if that gives what they are one by one."""
        if count < 2 or not isinstance(self._chosen()[0], Forward):
            return 1
        if self._vectorised is None:
            route, precision = self._chosen()[0], self._measured()[2]
            with guarded(self.model), self.model.evaluating():
                at = _AtInput(self, batches.spread(self.batch, _FEW), self.model.tensors(self.dtype))
                tensors, draw = at.tensors(), torch.Generator().manual_seed(0)
                us = [torch.randn(tensors[_INPUT].shape, generator=draw).to(tensors[_INPUT]) for _ in range(2)]
                true = at.pushed(route, tensors, us, 0)
                try:
                    found = at.pushed(route, tensors, us, 0, 2)
                except Exception as error:  # of any kind: not everything can be vectorised
                    if out_of_memory(error):
                        raise
                    found = torch.full_like(true, math.inf)
            near = tolerance(precision, strict=precision == torch.float32).gradient
            self._vectorised = bool((found - true).norm() <= near * true.norm())
        return min(count, _COLUMNS) if self._vectorised else 1

    def _measured(self) -> tuple[int, int, torch.dtype]:
        """Bytes that a backward pass holds whatever the number of samples, and per sample; the coarsest precision."""
        if self._measure is None:
            with guarded(self.model), self.model.evaluating():
                tensors = self.model.tensors(self.dtype)
                one, kinds = _held(_AtInput(self, batches.take(self.batch, slice(0, 1)), tensors))
                two = (
                    _held(_AtInput(self, batches.take(self.batch, slice(0, 2)), tensors))[0] if self.n > 1 else 2 * one
                )
            each = max(1, two - one)
            coarsest = max(kinds | {self.dtype}, key=lambda kind: torch.finfo(kind).eps)
            self._measure = max(0, one - each), each, coarsest
        return self._measure

    def _size(self, activations: float, kept: int) -> int:
        """Samples that run together."""
        if self._fixed is not None or self.n == 1:
            return min(self._fixed or 1, self.n)
        held, each, _ = self._measured()
        return max(1, min(self._most, (self._budget - held) // (int(activations * each) + kept)))

    def _whole(
        self, each: Callable[[_AtInput, dict[str, Tensor], slice], Tensor], route: Route | None = None, columns: int = 1
    ) -> Tensor:
        return torch.cat([found for _, found in self._stream(each, route, columns)])

    def _stream(
        self,
        each: Callable[[_AtInput, dict[str, Tensor], slice], Tensor],
        route: Route | None = None,
        columns: int = 1,
        kept: int = 0,
    ) -> Iterator[tuple[slice, Tensor]]:
        """``each`` on consecutive samples; on half as many at a time when memory runs out.

        Args:
            columns: directions in one forward pass.
            kept: bytes per sample that are held beside activations.
        """
        held: dict[str, Tensor] | None = None
        start = 0
        while start < self.n:
            size = self._size(columns * (1.0 if route is None else route.activations), kept)
            rows = slice(start, min(self.n, start + size))
            found = None
            try:
                with guarded(self.model), self.model.evaluating():
                    held = self.model.tensors(self.dtype) if held is None else held
                    at = _AtInput(self, batches.take(self.batch, rows), held)
                    found = each(at, at.tensors(), rows)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or size == 1 or self._fixed is not None:
                    raise
            if found is None:  # the exception being over, what its frames held is free
                self._most = size // 2
                continue
            yield rows, found
            start = rows.stop


class _AtInput:
    """Some samples of a model as a function of one leaf, in the form that the routes to J·u take a model in."""

    parameter_names = (_INPUT,)

    def __init__(self, of: InputJacobian, samples: Any, held: Mapping[str, Tensor]):
        self.model, self.leaf, self.dtype, self.device = of.model, of.leaf, of.dtype, of.model.device
        self.batch = batches.move(samples, self.device, self.dtype)
        self._held = held

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Weights that are constants, and the leaf, which is not."""
        held = self._held if dtype in (None, self.dtype) else self.model.tensors(dtype)
        x = _leaf(self.batch, self.leaf).to(dtype or self.dtype).clone()
        return {**{name: t.detach() for name, t in held.items()}, _INPUT: x.requires_grad_(True)}

    def run(self, tensors: Mapping[str, Tensor], batch: Any) -> Tensor:
        x = tensors[_INPUT]
        given = x if self.leaf is None else {**batches.move(self.batch, self.device, x.dtype), self.leaf: x}
        return self.model.run({name: t for name, t in tensors.items() if name != _INPUT}, given, through=True)

    def pulled(self, tensors: dict[str, Tensor], vectors: Callable[[Tensor], Iterator[Tensor]], first: int) -> Tensor:
        """Jᵀw for every vector, ``[n, k, *in]``; ``first`` is the number of the first sample."""
        found = jvp.pull_back(self, tensors, None, vectors, first)  # type: ignore[arg-type]
        return _finite(torch.stack([gradient[_INPUT] for gradient in found], 1), first)

    def pushed(
        self, route: Route, tensors: dict[str, Tensor], directions: Sequence[Tensor], first: int, columns: int = 1
    ) -> Tensor:
        """J·u for every direction, ``[n, k, *out]``.

        Args:
            first: number of the first sample, for messages.
            columns: directions that share a forward pass, vectorised.
        """
        if columns == 1:
            out, found = route.products(self, tensors, None, [{_INPUT: u} for u in directions])  # type: ignore[arg-type]
            jvp.require_finite(out, first)
            return _finite(torch.stack(found, 1), first)
        x = tensors[_INPUT].detach()

        def at(x: Tensor) -> Tensor:
            return self.run({**tensors, _INPUT: x}, None)

        def along(u: Tensor) -> Tensor:
            return torch.func.jvp(at, (x,), (u,))[1]

        # fused attention has no forward mode; what has no batching rule only runs more slowly
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            products = torch.func.vmap(along, out_dims=1, chunk_size=columns)(torch.stack(list(directions)).to(x))
        return _finite(products, first)


def _held(at: _AtInput) -> tuple[int, set[torch.dtype]]:
    """Bytes that autograd saves in one forward pass, apart from the weights, and the precisions among them."""
    tensors = at.tensors()
    own = {t.untyped_storage().data_ptr() for t in tensors.values()}
    seen: dict[int, int] = {}
    kinds: set[torch.dtype] = set()

    def note(t: Tensor) -> Tensor:
        if t.is_floating_point() and t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            kinds.add(t.dtype)
        return t.detach()  # an output that saved itself would never be freed

    for hooks in (torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), nullcontext()):
        try:
            with torch.enable_grad(), hooks:
                out = at.run(tensors, None)
            break
        except RuntimeError as error:
            if not refuses_hooks(error):
                raise
    return sum(seen.values()) + 3 * out.nbytes, kinds | {out.dtype}  # a gradient, its successor, and a temporary


def _leaf(batch: Any, leaf: str | None) -> Tensor:
    found = batch if leaf is None else batch.get(leaf) if isinstance(batch, Mapping) else None
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = "the batch" if leaf is None else f"the entry {leaf!r} of the batch"
        raise InputError(f"{what} is no real floating point tensor, so there is nothing to differentiate in")
    return found.detach()


def _units(n: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Every unit vector of a sample, the same for n samples, ``[n, *shape]`` each."""
    every = torch.eye(math.prod(shape), dtype=dtype).reshape(-1, 1, *shape)
    return [unit.expand(n, *shape) for unit in every]


def _finite(found: Tensor, first: int) -> Tensor:
    bad = (~torch.isfinite(found)).flatten(1).any(1).nonzero().flatten()
    if len(bad):
        raise NonFiniteError(f"the derivative in the input is NaN or infinite for sample {first + int(bad[0])}")
    return found.detach()

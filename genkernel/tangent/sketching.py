"""``sketch()``: the rows of a :class:`Sketch` in one walk over the samples, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent import batches, engine
from genkernel.tangent.assembly import Assembly, UnprovedError
from genkernel.tangent.capture import Tape
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.engine import _dtype, _guarded
from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.fingerprint import fingerprint_batch, fingerprint_code, fingerprint_model
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.preconditioner import as_preconditioner
from genkernel.tangent.probe import examine
from genkernel.tangent.projection import Projection
from genkernel.tangent.sketch_accumulator import SLICE, SketchAccumulator
from genkernel.tangent.sketch_store import RowStore, Sizes
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.tiles import parse_memory

log = logging.getLogger("genkernel")

LARGEST_BATCH = 128  # more samples at once save nothing, and a killed run loses what is in flight


def sketch(
    model: TangentModel | nn.Module,
    x: Any,
    *,
    dim: int = 4096,
    seed: int = 0,
    kind: str = "sjlt",
    nonzeros: int = 1,
    cotangents: Cotangents | None = None,
    precondition: Any = None,
    by: str | None = None,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    store: str | Path | None = None,
    progress: bool | None = None,
) -> Sketch:
    """Random projections of every sample's gradient, for kernels of more samples than gradients fit.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        dim: length of a sketch. The error of a cosine is about (1 − c²)/√dim, divided by √probes with
            several random probes.
        seed: of the projection; the same seed for everything that is to be compared or merged.
        kind: ``"sjlt"`` (sparse), or ``"rademacher"`` (dense: dim times the work, lighter tails).
        nonzeros: of the sparse projection per coordinate: the same variance, lighter tails, that many
            times the work. dim/nonzeros has to be a power of two.
        cotangents: as for :func:`genkernel.kernel`; 8 random probes by default. Random probes get a sketch
            each; other cotangents share one, the sketch of their concatenated gradients.
        precondition: a diagonal P, as for :func:`genkernel.kernel`.
        by: ``"layer"`` or ``"parameter"``: a sketch for each. None: one of all parameters.
        dtype: dtype of activations and gradients (the model's own by default). Sketches are summed in float64 and
            kept in float64 where gradients are, in float32 otherwise.
        memory: bound on memory for activations, scratch and sums of one batch; not for the rows themselves.
        store: a folder that keeps finished rows; a killed run goes on from there, with the same bits.
            The result is then memory-mapped from it.
        progress: show a progress bar (by default when the work takes a while in a terminal).

    Returns:
        Sketch: ``rows`` ``[probes, n, dim]``; its ``kernel()`` estimates what :func:`genkernel.kernel` computes.

    Raises:
        InputError: unknown options, sizes that do not fit, a P that is not diagonal, or a store of something else.
        BatchCouplingError, RandomOutputError, CaptureError: as for :func:`genkernel.kernel`.
        NonFiniteError: NaN or infinity in weights, outputs or gradients.
        OutputError: the store cannot be written; what is finished is kept.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> s = gk.sketch(net, torch.randn(5, 4), dim=256, cotangents=gk.probes(2))
        >>> s.rows.shape, s.kernel().values.shape
        (torch.Size([2, 5, 256]), torch.Size([5, 5]))
    """
    model = as_tangent_model(model)
    if by not in ("layer", "parameter", None):
        raise InputError(f"by is 'layer', 'parameter' or None, not {by!r}")
    job = _Job(
        model,
        x,
        Projection(dim, seed, kind, nonzeros),
        cotangents or probes(),
        precondition,
        by,
        _dtype(dtype),
        parse_memory(memory),
    )
    with _guarded(model):
        return job.run(store, progress)


class _Job:
    """Arguments checked once, then shared by all batches."""

    def __init__(
        self,
        model: TangentModel,
        x: Any,
        projection: Projection,
        cotangents: Cotangents,
        precondition: Any,
        by: str | None,
        dtype: torch.dtype | None,
        budget: int,
    ):
        if not isinstance(cotangents, Cotangents):
            raise InputError("cotangents is one of total(), output(i), exact_trace(), probes(k), cotangent(fn)")
        self.model, self.x, self.n = model, x, batches.size(x)
        self.projection, self.cotangents, self.by = projection, cotangents, by
        self.dtype, self.budget = dtype, budget
        if cotangents.blocks:
            raise InputError("sketches estimate one number for each pair of samples: use exact_trace() or output(i)")
        self.P = as_preconditioner(precondition, model)
        if self.P.blocks:
            raise InputError(
                f"sketches take a diagonal preconditioner, not {self.P.describe()}: they need the square root of P"
            )
        self.P = self.P.to(model.device)
        self.layer_of = None
        if by is not None:
            self.layer_of = {p: p if by == "parameter" else model.layer_of(p) for p in model.parameter_names}

    def run(self, store: str | Path | None, progress: bool | None) -> Sketch:
        model = self.model
        model.check_finite()
        gradients = _Gradients(model, self.x, self.cotangents, self.dtype)
        few = batches.move(batches.take(self.x, _spread(self.n, 4)), model.device, self.dtype)
        with model.evaluating(), torch.no_grad():
            out = model.run(gradients.tensors, few)
        self.cotangents.check(out, few)
        shape = tuple(out.shape[1:])
        probes = self.cotangents.count(shape) if self.cotangents.random else 1
        layers = list(dict.fromkeys(self.layer_of.values())) if self.layer_of is not None else None
        batch = self._batch(gradients.bytes_per_sample, probes, len(layers or [None]))
        kept = torch.float64 if (self.dtype or model.dtype) == torch.float64 else torch.float32
        sizes = Sizes.of(self.n, len(layers or [None]), probes, self.projection.dim, kept)
        plan = {"batch": batch, "threads": torch.get_num_threads()}
        settings = self._settings(layers, self.cotangents.scale(shape) if self.cotangents.random else 1.0)

        rows = RowStore.open(store, settings, sizes, plan) if store is not None else None
        if rows is not None:
            plan = rows.plan
        values = torch.empty(0 if rows else self.n, sizes.layers, sizes.probes, sizes.dim, dtype=kept)
        norms = torch.empty(0 if rows else self.n, sizes.layers, sizes.probes, dtype=torch.float64)
        batch, done = int(plan["batch"]), self._done(rows)
        log.info(f"{self.projection.describe()}: {self.n} samples in batches of {batch}, {len(done)} done before")
        starts = [start for start in range(0, self.n, batch) if (start, min(self.n, start + batch)) not in done]
        with _threads(int(plan["threads"])), _bar(len(starts), progress) as bar:
            for start in starts:
                part = slice(start, min(self.n, start + batch))
                found = self._project(gradients, part, probes)
                if rows is not None:
                    rows.put(start, found.rows.to("cpu", kept), found.norms.cpu())
                else:
                    values[part], norms[part] = found.rows.to("cpu", kept), found.norms.cpu()
                bar.update(1)
        if rows is not None:
            return Sketch.read(rows)
        return Sketch.made(values, norms, settings)

    def _project(self, gradients: _Gradients, part: slice, probes: int) -> SketchAccumulator:
        """The sketches of a few samples."""
        batch = batches.move(batches.take(self.x, part), self.model.device, self.dtype)
        n = part.stop - part.start

        def empty() -> SketchAccumulator:
            return SketchAccumulator(
                self.projection, n, probes=probes, layer_of=self.layer_of, root=self.P.diagonal_root,
                device=self.model.device,
            )  # fmt: skip

        into = gradients.run(batch, empty, part.start)
        if not into.finite():
            name = into.broken()
            _check_finite(into.norms, f"gradient of {name!r}", part.start)
            raise NonFiniteError(f"the sketch of {name!r} overflows: its gradients are too large for float32")
        return into

    def _done(self, rows: RowStore | None) -> set[tuple[int, int]]:
        if rows is None:
            return set()
        good, bad = rows.done()
        for start, stop in bad:
            log.warning(
                f"samples {start} to {stop - 1} in {rows.path} do not match their checksum: they are made again"
            )
        return set(good)

    def _batch(self, bytes_per_sample: int, probes: int, layers: int) -> int:
        """Samples that run together."""
        itemsize = (self.dtype or self.model.dtype).itemsize
        sums = layers * probes * (self.projection.dim + 1) * 8 * 2  # float64, and the copy that is kept
        scratch = SLICE * (3 * itemsize + 16)
        copies = sum(p.numel() for p in self.model.parameters.values()) * itemsize * (self.dtype is not None)
        most = (self.budget - scratch - copies) // max(1, bytes_per_sample + sums)
        if most < 1:
            log.warning(f"one sample takes more than memory={self.budget} bytes: they run one at a time")
        return max(1, min(self.n, LARGEST_BATCH, most))

    def _settings(self, layers: list[str] | None, scale: float) -> dict[str, Any]:
        """Everything that decides the numbers, for the manifest and for refusing to mix sketches."""
        model = self.model
        return {
            "projection": self.projection.settings,
            "cotangents": self.cotangents.describe(),
            "layers": layers,
            "parameters": {name: list(p.shape) for name, p in model.parameters.items()},
            "random": self.cotangents.random,
            "scale": scale,
            "cotangents_digest": self.cotangents.fingerprint(),
            "precondition": self.P.describe(),
            "precondition_digest": self.P.fingerprint(),
            "dtype": str(self.dtype or model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "model": fingerprint_model(model),
            "inputs": fingerprint_batch(self.x),
            "code": fingerprint_code(),
        }


class _Gradients:
    """Forwards and backwards that hand out per-sample gradients parameter by parameter."""

    def __init__(self, model: TangentModel, x: Any, cotangents: Cotangents, dtype: torch.dtype | None):
        self.model, self.cotangents = model, cotangents
        self._engine = engine._Job(model, x, None, cotangents, None, None, dtype, "float64", 1)
        coverage = examine(model, batches.take(x, _spread(batches.size(x), 16)), dtype)
        self._engine._coverages = [coverage]
        self.bytes_per_sample = coverage.bytes_per_sample
        with model.evaluating():
            self.tensors = model.tensors(dtype)

    def run(self, batch: Any, sink: Callable[[], SketchAccumulator], first: int) -> SketchAccumulator:
        unproved: set[str] = set()
        with self.model.evaluating():
            while True:
                tape, out, coverage = self._engine._forward(self.tensors, batch, unproved)
                try:
                    return self._backward(tape, out, coverage, batch, sink(), first)
                except UnprovedError as found:
                    unproved |= found.parameters
                finally:
                    tape.close()

    def _backward(
        self, tape: Tape, out: Tensor, coverage: Coverage, batch: Any, into: SketchAccumulator, first: int
    ) -> SketchAccumulator:
        _check_finite(out.detach(), "output", first)
        n, which = batches.size(batch), 0

        def emit(parameter: str, factor: Factor, view: Geometry | None) -> None:
            into.add(which, parameter, factor, view, slice(0, n))

        assembly = Assembly(tape, coverage.plans, n, emit)
        tape.deliver = assembly.receive
        total = self.cotangents.count(tuple(out.shape[1:]))
        for k, v in enumerate(self.cotangents.vectors(out.detach().clone(), batches.copy(batch))):
            which = k
            assembly.keep_inputs = k + 1 < total
            assembly.begin()
            if tape.leaves and out.requires_grad:
                torch.autograd.grad(out, tape.leaves, v, retain_graph=k + 1 < total, allow_unused=True)
            assembly.flush()
            for parameter, rows in self._engine._through_forward(self.tensors, batch, v, coverage.generic):
                emit(parameter, Dense(rows), None)
        return into


def _spread(n: int, most: int) -> list[int]:
    """At most ``most`` samples, evenly over the batch."""
    return sorted({round(i * (n - 1) / max(1, most - 1)) for i in range(most)})


def _check_finite(values: Tensor, what: str, first: int) -> None:
    bad = (~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero().flatten()
    if len(bad):
        raise NonFiniteError(
            f"the {what} is NaN or infinite for sample {first + int(bad[0])}: check that input, or the weights"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The thread count that the first rows were made with: it decides their last bits."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _bar(total: int, progress: bool | None) -> Any:
    from tqdm.auto import tqdm

    hidden = None if progress is None else not progress  # None: tqdm hides it outside a terminal
    return tqdm(total=total, desc="sketch", unit="batch", disable=hidden, delay=1.0, leave=False)

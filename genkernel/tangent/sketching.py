"""``sketch()``: the rows of a :class:`Sketch` in one walk over the samples, resumable."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import batches
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.factors import MANY_SLICES, SLICE, Convolution
from genkernel.tangent.fingerprint import fingerprint, fingerprint_batch, fingerprint_code, fingerprint_model
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import GradientPass, guarded
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.preconditioner import Preconditioner, as_preconditioner
from genkernel.tangent.projection import Projection
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.sketch_accumulator import SketchAccumulator, slice_of
from genkernel.tangent.sketch_store import RowStore, Sizes
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.speed import first_look
from genkernel.tangent.threads import threads

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

    The work is not shared among the ranks of torchrun: there, each rank can sketch a shard of the samples, into a
    folder of its own, and :meth:`Sketch.merge` puts the shards together.

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
            The result is then memory-mapped from it. One process writes to a folder.
        progress: show a progress bar (by default when the work takes a while in a terminal).

    Returns:
        Sketch: ``rows`` ``[probes, n, dim]``; its ``kernel()`` estimates what :func:`genkernel.kernel` computes.

    Raises:
        InputError: unknown options, sizes that do not fit, a P that is not diagonal, or a store of something else.
        BatchCouplingError, RandomOutputError, CaptureError: as for :func:`genkernel.kernel`.
        NonFiniteError: NaN or infinity in weights, outputs or gradients.
        OutputError: the store cannot be written, or another run is writing to it; what is finished is kept.

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
    call = SketchCall(
        model,
        x,
        Projection(dim, seed, kind, nonzeros),
        probes() if cotangents is None else cotangents,
        precondition,
        by,
        parse_dtype(dtype),
        parse_memory(memory),
    )
    with guarded(model):
        return call.run(store, progress)


class SketchCall:
    """Arguments of :func:`sketch`, checked once, then shared by all batches.

    Attributes:
        n: samples.
        gradients, few, out_shape: after :meth:`prove`, the proved model, a few samples and the shape of an output.
        count: cotangents. ``probes``: sketches that are kept apart. ``layers``: names of those of parts; None for one.
        kept: dtype of the rows.
        look_seconds: of a forward of the few samples.
    """

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

    def prove(self, coverage: Coverage | None = None) -> None:
        """Prove the model (``coverage``: as it was proved before), and look at a few outputs."""
        model = self.model
        self.gradients = GradientPass(
            model,
            batches.spread(self.x),
            self.dtype,
            coverage,
            channels_last=False,  # coordinates in order are faster
        )
        if self.gradients.look is None:
            few = batches.move(batches.take(self.x, slice(0, 4)), model.device, self.dtype)
            self.gradients.look = first_look(self.gradients, few)
        look = self.gradients.look
        self.few, self.look_seconds, out = look.samples, look.seconds, look.out
        self.cotangents.check(out, self.few)
        self.out_shape = tuple(out.shape[1:])
        self.count = self.cotangents.count(self.out_shape)
        self.probes = self.count if self.cotangents.random else 1
        self.layers = list(dict.fromkeys(self.layer_of.values())) if self.layer_of is not None else None
        self.kept = torch.float64 if (self.dtype or model.dtype) == torch.float64 else torch.float32

    @property
    def sizes(self) -> Sizes:
        """Of the rows."""
        return Sizes.of(self.n, len(self.layers or [None]), self.probes, self.projection.dim, self.kept)

    def run(self, store: str | Path | None, progress: bool | None) -> Sketch:
        self.prove()
        model, layers = self.model, self.layers
        plan = {"batch": self.batch(), "threads": torch.get_num_threads()}
        what = settings(model, self.x, self.projection, self.cotangents, self.P, layers, self.out_shape, self.dtype)
        with RowStore.open(store, what, self.sizes, plan) if store is not None else nullcontext() as rows:
            return self._fill(rows, what, plan if rows is None else rows.plan, progress)

    def _fill(self, rows: RowStore | None, what: dict[str, Any], plan: dict[str, Any], progress: bool | None) -> Sketch:
        """Make the rows that are not there yet."""
        sizes = self.sizes
        values = torch.empty(0 if rows else self.n, sizes.layers, sizes.probes, sizes.dim, dtype=self.kept)
        norms = torch.empty(0 if rows else self.n, sizes.layers, sizes.probes, dtype=torch.float64)
        batch, done = int(plan["batch"]), self._done(rows)
        log.info(f"{self.projection.describe()}: {self.n} samples in batches of {batch}, {len(done)} done before")
        starts = [start for start in range(0, self.n, batch) if (start, min(self.n, start + batch)) not in done]
        with threads(int(plan["threads"])), _bar(len(starts), progress) as bar:
            for start in starts:
                part = slice(start, min(self.n, start + batch))
                found = self._project(part)
                if rows is not None:
                    rows.put(start, found[0].to(self.kept), found[1])
                else:
                    values[part], norms[part] = found
                del found  # the next batch needs its memory
                bar.update(1)
        if rows is not None:
            return Sketch.read(rows)
        return Sketch.made(values, norms, what)

    def _project(self, part: slice) -> tuple[Tensor, Tensor]:
        """Rows and norms of a few samples, float64 on the CPU; in halves where memory turns out short."""
        into = SketchAccumulator(
            self.projection,
            part.stop - part.start,
            probes=self.probes,
            layer_of=self.layer_of,
            root=self.P.diagonal_root,
            device=self.model.device,
        )
        batch = batches.take(self.x, part)
        try:
            self.gradients.run(batch, self.cotangents, into, where=lambda i: f"sample {part.start + i}")
            return into.rows.cpu(), into.norms.cpu()
        except (MemoryError, RuntimeError) as error:
            if into.n == 1 or not out_of_memory(error):
                raise
        del into  # and, the exception being over, all that its frames held
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = (part.start + part.stop) // 2
        log.warning(f"out of memory with {part.stop - part.start} samples at once: going on with half as many")
        halves = [self._project(half) for half in (slice(part.start, middle), slice(middle, part.stop))]
        return torch.cat([rows for rows, _ in halves]), torch.cat([norms for _, norms in halves])

    def _done(self, rows: RowStore | None) -> set[tuple[int, int]]:
        if rows is None:
            return set()
        good, bad = rows.done()
        for start, stop in bad:
            log.warning(
                f"samples {start} to {stop - 1} in {rows.path} do not match their checksum: they are made again"
            )
        return set(good)

    def batch(self) -> int:
        """Samples that run together."""
        most = (self.budget - self.held(0)) // max(1, self.held(1) - self.held(0))
        if most < 1:
            log.warning(f"one sample takes more than memory={self.budget} bytes: they run one at a time")
        return max(1, min(self.n, LARGEST_BATCH, most))

    def _made_by_samples(self, n: int) -> int:
        """Entries of the largest gradient that is made sample by sample, many slices at a time."""
        found = [f for f in self.gradients.coverage.footprints.values() if isinstance(f, Convolution)]
        return max((math.prod(f.shape) for f in found if f.by_samples(n, SLICE)), default=0)

    def held(self, samples: int) -> int:
        """Bytes of a batch of so many samples, apart from rows that are finished."""
        itemsize = (self.dtype or self.model.dtype).itemsize
        # float64, and the copy that is kept
        sums = len(self.layers or [None]) * self.probes * (self.projection.dim + 1) * 8 * 2
        scratch = slice_of(self.model.device) * (3 * itemsize + 16)
        scratch += min(MANY_SLICES * SLICE, samples * self._made_by_samples(max(1, samples))) * itemsize
        copies = sum(p.numel() for p in self.model.parameters.values()) * itemsize * (self.dtype is not None)
        activations = self.gradients.coverage.bytes_per_sample * 5 // 4  # allocators leave gaps
        return scratch + copies + samples * (activations + sums)


def settings(
    model: TangentModel,
    x: Any,
    projection: Projection,
    cotangents: Cotangents,
    P: Preconditioner,
    layers: list[str] | None,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Everything that decides the rows, for manifests and for :meth:`Sketch.made`; JSON-ready.

    Args:
        layers: names along the axis of layers of the rows; None for one sketch of all parameters.
        shape: of one sample's output.
        dtype: of activations and gradients; None for the model's own.
    """
    roots = {name: P.diagonal_root(name) for name in model.parameter_names}
    return {
        "projection": projection.settings,
        "cotangents": cotangents.describe(),
        "layers": layers,
        "parameters": {name: list(p.shape) for name, p in model.parameters.items()},
        "random": cotangents.random,
        "scale": cotangents.scale(shape) if cotangents.random else 1.0,
        "cotangents_digest": _digest(cotangents),
        "precondition": P.describe(),
        "precondition_digest": {name: fingerprint(root) for name, root in roots.items() if root is not None},
        "dtype": str(dtype or model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "model": fingerprint_model(model),
        "inputs": fingerprint_batch(x),
        "code": fingerprint_code(),
    }


def _digest(cotangents: Cotangents) -> str | None:
    """Of cotangents that their description does not tell from others: functions, and classes of the user's."""
    ours = type(cotangents).__module__ == Cotangents.__module__
    if ours and not any(callable(value) for value in vars(cotangents).values()):
        return None  # which stays the same from one version of genkernel to the next
    return cotangents.fingerprint()


def _bar(total: int, progress: bool | None) -> Any:
    from tqdm import tqdm

    hidden = None if progress is None else not progress  # None: tqdm hides it outside a terminal
    return tqdm(total=total, desc="sketch", unit="batch", disable=hidden, delay=1.0, leave=False)

"""A call of ``kernel()``: its arguments, checked once, and what a plan for it is made from.

Carried out by :mod:`genkernel.tangent.engine`, looked ahead to by :mod:`genkernel.tangent.forecast`.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from genkernel.errors import GenkernelError, InputError
from genkernel.tangent import batches, memory_format
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.coverage import Coverage, Look
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Factor
from genkernel.tangent.fingerprint import fingerprint_structure
from genkernel.tangent.heap import available, available_on, give_back, resident
from genkernel.tangent.model import TangentModel, check_pair
from genkernel.tangent.passes import GradientPass
from genkernel.tangent.plan import Plan, Sizes, make_plan, parse_memory
from genkernel.tangent.preconditioner import as_preconditioner
from genkernel.tangent.projection import Projection
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.speed import Speed, first_look, speed

log = logging.getLogger("genkernel")

#: the part of a budget that copies of weights in another memory format may take: half, so that the format, and with it
#: the rounding, is the same for all budgets but the least
COPIES = 2

Grouping = str | Callable[[str], str] | Mapping[str, str] | None


class Call:
    """Arguments of :func:`genkernel.kernel`, checked; after :meth:`prove` a plan can be made.

    Attributes:
        n, m: samples on the two sides; ``m = 0`` for x with itself.
        left, right: the model of each side, proved; one object where it is the same.
        out_shape: of one sample's output.
        count: cotangents. ``outputs``: rows of each sample. ``kept``: totals that are kept apart.
        group_of: parameter → the name its partial kernel is kept under; None for none.
        metric: P; None for the identity.
        budget: bytes that ``memory=`` allows. ``store``: the folder that may hold gradients, too; or None.
        workers: that share the work.
        proof_bytes: most bytes that the proof was seen to hold.
    """

    def __init__(
        self,
        model: TangentModel,
        model_y: TangentModel | None,
        x: Any,
        y: Any,
        cotangents: Cotangents,
        precondition: Any,
        by: Grouping,
        dtype: torch.dtype | None,
        accumulate: str,
        memory: str | int,
        sketch: Projection | None,
        store: str | Path | None = None,
    ):
        if accumulate not in ("float64", "float32"):
            raise InputError(f"accumulate is 'float64' or 'float32', not {accumulate!r}")
        if not isinstance(cotangents, Cotangents):
            raise InputError(
                "cotangents is one of total(), output(i), exact_trace(), blocks(), probes(k), loss(fn), residual(fn), "
                f"cotangent(fn), not {cotangents if isinstance(cotangents, str) else type(cotangents).__name__!r}"
            )
        self.model, self.model_y, self.cotangents, self.dtype = model, model_y, cotangents, dtype
        sums = torch.float64 if accumulate == "float64" else torch.float32
        self.accumulate = torch.promote_types(sums, dtype or model.dtype)  # never coarser than the gradients
        if store is not None and not (isinstance(store, (str, PathLike)) and str(store)):
            raise InputError(f"store is a folder to keep finished parts in, not {store!r}")
        self.budget, self.store, self.workers = parse_memory(memory), store, 1
        if model_y is not None:
            check_pair(model, model_y)
            y = x if y is None else y
        self.x, self.y = x, y
        self.n, self.m = batches.size(x), batches.size(y) if y is not None else 0
        if y is not None:
            batches.concatenate(batches.take(x, [0]), batches.take(y, [0]))  # structures agree
        self.by = by
        self.group_of = _groups(model, by)
        self.metric = None if precondition is None else as_preconditioner(precondition, model)
        self.shapes = {name: tuple(p.shape) for name, p in model.parameters.items()}
        if sketch is not None and not isinstance(sketch, Projection):
            raise InputError(f"sketch is a Projection, such as Projection(4096), not {type(sketch).__name__}")
        self.sketch = sketch
        if sketch is not None and (cotangents.blocks or (self.metric is not None and self.metric.blocks)):
            raise InputError("a sketch goes with one number per pair of samples and a diagonal P: leave sketch= out")

    @property
    def symmetric(self) -> bool:
        return self.m == 0

    @property
    def sketch_shape(self) -> tuple[int, int, int] | None:
        """(layers, probes, dim) of a sample's row in a sketch made alongside."""
        if self.sketch is None:
            return None
        layers = 1 if self.group_of is None else len(set(self.group_of.values()))
        return layers, self.kept, self.sketch.dim

    @property
    def terms(self) -> dict[str, Any]:
        """What a plan depends on, but for speeds and the machine."""
        return {
            "x": self.n,
            "y": self.m,
            "shapes of parameters": list(self.shapes.items()),
            "model": fingerprint_structure(self.model),
            "model_y": None if self.model_y is None else fingerprint_structure(self.model_y),
            "outputs": self.out_shape,
            "cotangents": self.cotangents.describe(),
            "precondition": None if self.metric is None else self.metric.describe(),
            "by": self.group_of,
            "dtype": self.dtype or self.model.dtype,
            "accumulate": self.accumulate,
            "memory": self.budget,
            "sketch": None if self.sketch is None else self.sketch.settings,
            "device": self.model.device.type,
        }

    # -------------------------------------------------------------------- proof and plan

    def prove(self, coverage: Coverage | None = None) -> None:
        """Prove the model, and look at a few outputs.

        Args:
            coverage: a proof made before for the unchanged model.

        Raises:
            BatchCouplingError, RandomOutputError, CaptureError, NonFiniteError: see :func:`examine`.
        """
        both = self.x if self.y is None else batches.concatenate(batches.spread(self.x), batches.spread(self.y))
        self.left = self._proved(self.model, both, coverage)
        if len(self.left.coverage.silent) == len(self.shapes):
            log.warning(
                "no parameter has an influence on the outputs, so the kernel is zero: was the output detached, or made "
                "under no_grad?"
            )
        self.right = self.left if self.model_y is None else self._proved(self.model_y, both)
        self.left.look = self.left.look or self._first_look(both)
        self._few, self._look, out = self.left.look.samples, self.left.look.seconds, self.left.look.out
        self.cotangents.check(out, self._few)
        self.out_shape = tuple(out.shape[1:])
        self.count = self.cotangents.count(self.out_shape)
        self.outputs = self.count if self.cotangents.blocks else 1
        self.kept = self.count if self.cotangents.random else 1
        self._example_bytes = sum(leaf.nbytes for leaf in (*batches.tensors(self._few), out)) // len(out)
        self.proof_bytes = self.left.watch.forget_peak()

    def _proved(self, model: TangentModel, samples: Any, coverage: Coverage | None = None) -> GradientPass:
        try:
            # sketches take coordinates in the order of memory, and a tight budget has better uses than copies
            affordable = memory_format.copied_bytes(model) <= self.budget // COPIES and self.sketch is None
            return GradientPass(model, samples, self.dtype, coverage, channels_last=affordable)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            if out_of_memory(error) or isinstance(error, GenkernelError):
                raise
            raise batches.does_not_run(self.x, error) from error

    def _first_look(self, both: Any) -> Look:
        # of both sides where there are too few to see whether a cotangent mixes samples
        few = batches.take(self.x if self.n > 1 else both, slice(0, 4))
        try:
            return first_look(self.left, batches.move(few, self.model.device, self.dtype))
        except RuntimeError as error:
            expected = self.dtype or self.model.dtype
            given = {leaf.dtype for leaf in batches.tensors(few) if leaf.is_floating_point()} - {expected}
            if self.dtype is None and given:
                names = [str(dtype).removeprefix("torch.") for dtype in (*given, expected)]
                raise InputError(
                    f"the model does not run on {names[0]} samples, its weights are {names[-1]}: convert one of "
                    f"them, or say dtype={names[-1]!r}"
                ) from error
            raise

    def plan(self, sizes: Sizes | None = None) -> Plan:
        """The plan for this machine as it is now.

        Where it leaves little of the budget, one batch runs first: what libraries take besides the activations
        (weights in another order, gaps between blocks) is known from there alone.
        """
        sizes = sizes or self.sizes()
        found = make_plan(sizes, self._allowed())
        if found.close and self.model.device.type == "cpu":
            seen = self._resident_in(found.batch) - sizes.running(found.batch)
            if seen > 0:
                found = make_plan(replace(sizes, unforeseen=seen), self._allowed())
        return found

    def _resident_in(self, batch: int) -> int:
        """Bytes by which the process grows while a batch runs and its gradients are dropped; 0 where none fits."""
        give_back()
        before = resident()
        try:
            self.left.run(batches.take(self.x, slice(0, batch)), self.cotangents, _Nowhere(), which=[0])
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return 0
        return resident() - before

    def measured_speed(self) -> Speed:
        """Of a forward and a backward, from a few samples."""
        return speed(self.left, self._few, self._look, runs=(self.n + self.m) * self.count)

    def sizes(self) -> Sizes:
        """What the plan is made from."""
        coverage, measured = self.left.coverages[0], self.measured_speed()
        itemsize = (self.dtype or self.model.dtype).itemsize
        parameters = self.model.parameters
        numel = sum(p.numel() for p in parameters.values())
        copied = self.dtype not in (None, self.model.dtype) or bool(self.model.weights)
        runs = [self.left] if self.right is self.left else [self.left, self.right]
        reordered = [run.model for run in runs if run.channels_last]
        entries = {}
        for name, parameter in parameters.items():
            factor = coverage.footprints.get(name)
            parts = sum(p[0].numel() for p in factor.parts().values()) if factor is not None else parameter.numel()
            entries[name] = (parts, parameter.numel())
        on_gpu = self.model.device.type == "cuda"
        sketch = self.sketch_shape
        return Sizes(
            n=self.n,
            m=self.m,
            count=self.count,
            outputs=self.outputs,
            totals=self.kept,
            layers=len(set(self.group_of.values())) if self.group_of is not None else 0,
            bytes_per_sample=coverage.bytes_per_sample,
            example_bytes=self._example_bytes,
            weight_bytes=(numel * itemsize if copied else 0) * len(runs)
            + sum(map(memory_format.copied_bytes, reordered)),
            itemsize=itemsize,
            entries=entries,
            factors=coverage.footprints,
            coupled=self.metric.blocks if self.metric is not None else [],
            seconds_per_sample=measured.per_sample,
            seconds_per_run=measured.per_run,
            apart=self.model_y is not None,
            channels_last=bool(reordered),
            accumulate=self.accumulate,
            device=self.model.device.type,
            # pinned blocks are rounded up to powers of two
            host_bytes=(available() or 0) // 4 if on_gpu else 0,
            disk_bytes=self._disk(),
            workers=self.workers,
            sketch_bytes=8 * (self.n + self.m) * math.prod(sketch) if sketch is not None else 0,
        )

    def _disk(self) -> int:
        """Bytes of gradients that may lie in the store: half of what is free there."""
        if self.store is None:
            return 0
        there = Path(self.store).expanduser().absolute()
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free // 2

    def _allowed(self) -> int:
        """What memory= allows, or what is there where that is less."""
        there = available_on(self.model.device)
        if there is None or self.budget <= there:
            return self.budget
        log.warning(
            f"memory= allows {self.budget / 2**20:.0f} MiB, but {there / 2**20:.0f} MiB are free: planning for those"
        )
        return there


class _Nowhere:
    """A sink that keeps nothing."""

    def begin(self) -> None:
        pass

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        pass

    def finite(self) -> bool:
        return True  # the run itself finds out, and says where


def _groups(model: TangentModel, by: Grouping) -> dict[str, str] | None:
    """Parameter → the name its partial kernel is kept under."""
    if by is None:
        return None
    if by == "layer":
        return {name: model.layer_of(name) for name in model.parameter_names}
    if by == "parameter":
        return {name: name for name in model.parameter_names}
    if isinstance(by, Mapping):
        missing = [name for name in model.parameter_names if name not in by]
        if missing:
            raise InputError(f"by names no group for parameter {missing[0]!r}: a mapping has to name one for each")
        return _named({name: by[name] for name in model.parameter_names})
    if callable(by):
        return _named({name: by(name) for name in model.parameter_names})
    raise InputError(f"by is 'layer', 'parameter', None, or a function or mapping of parameter names, not {by!r}")


def _named(groups: dict[str, Any]) -> dict[str, str]:
    for parameter, group in groups.items():
        if not isinstance(group, str):
            raise InputError(f"by names groups with text, for parameter {parameter!r} it gave {group!r}")
    return groups

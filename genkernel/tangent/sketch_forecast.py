"""``plan_sketch()``: what a sketch would take, before hours are spent on it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from genkernel.tangent import costs
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.factors import Dense
from genkernel.tangent.forecast import duration, proof_took, size
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import guarded
from genkernel.tangent.plan import gemm_rate, parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.projection import Projection
from genkernel.tangent.sketch_accumulator import SketchAccumulator, slice_of
from genkernel.tangent.sketching import SketchCall
from genkernel.tangent.speed import speed


@dataclass(frozen=True)
class SketchForecast:
    """What :func:`plan_sketch` found out.

    Attributes:
        batch: samples that run together. ``batches``: how many of those there are.
        running_seconds, making_seconds, projecting_seconds: expected for forwards and backwards, for gradients made
            from their parts, and for their projection.
        budget: bytes allowed. ``bytes``: expected at the peak, without finished rows.
        rows_bytes: of the rows and their norms: a file with ``store=``, memory without.
        proof_seconds: what the proof took; ``proof_bytes``: what it was seen to hold at its end.
        threads: CPU threads.
        coverage: the proof.
        terms: what was asked for, in words.
    """

    batch: int
    batches: int
    running_seconds: float
    making_seconds: float
    projecting_seconds: float
    budget: int
    bytes: int
    rows_bytes: int
    proof_seconds: float
    proof_bytes: int
    threads: int
    coverage: Coverage
    terms: str

    @property
    def seconds(self) -> float:
        """Expected in all."""
        return self.running_seconds + self.making_seconds + self.projecting_seconds

    def describe(self) -> str:
        """A table: schedule, time, memory, and the size of the result."""
        return "\n".join(self._lines())

    def __str__(self) -> str:
        return self.describe()

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "batch": self.batch,
            "batches": self.batches,
            "budget_bytes": self.budget,
            "bytes": self.bytes,
            "rows_bytes": self.rows_bytes,
            "seconds": self.seconds,
            "running_seconds": self.running_seconds,
            "making_seconds": self.making_seconds,
            "projecting_seconds": self.projecting_seconds,
            "proof": {"seconds": self.proof_seconds, "bytes": self.proof_bytes, **self.coverage.summary()},
        }

    def _lines(self) -> Iterator[str]:
        over = "" if self.bytes <= self.budget else ": more than allowed, but about the least possible"
        whole = max(self.seconds, 1e-30)
        yield self.terms
        yield f"  schedule  {self.batches} batch(es) of up to {self.batch} samples"
        yield (
            f"  time      {duration(self.seconds)} with {self.threads} thread(s): "
            f"{self.running_seconds / whole:.0%} forwards and backwards, {self.making_seconds / whole:.0%} gradients, "
            f"{self.projecting_seconds / whole:.0%} projections"
        )
        yield f"  memory    {size(self.bytes)} of {size(self.budget)}{over}"
        yield f"  rows      {size(self.rows_bytes)}, on disk with store=, in memory without"
        yield f"  proof     {proof_took(self.proof_seconds)}"


def plan_sketch(
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
    coverage: Coverage | None = None,
) -> SketchForecast:
    """A dry run of :func:`genkernel.sketch`: time, memory, batches and the size of the rows, for this machine.

    The model is proved, a few forwards and one projection are timed; nothing else is computed.

    Args:
        model, x, dim, seed, kind, nonzeros, cotangents, precondition, by, dtype, memory: as for
            :func:`genkernel.sketch`.
        coverage: that of :func:`genkernel.plan` for the unchanged model: spares the proof.

    Raises:
        GenkernelError: as :func:`genkernel.sketch` does.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> ahead = gk.plan_sketch(net, torch.randn(5, 4), dim=256, cotangents=gk.probes(2))
        >>> ahead.batches, ahead.rows_bytes  # 2 probes, 5 samples, 256 entries of 4 bytes and a norm
        (1, 10320)
    """
    model = as_tangent_model(model)
    projection = Projection(dim, seed, kind, nonzeros)
    chosen = probes() if cotangents is None else cotangents
    call = SketchCall(model, x, projection, chosen, precondition, by, parse_dtype(dtype), parse_memory(memory))
    with guarded(model):
        call.prove(coverage)
        proof_bytes = call.gradients.watch.forget_peak()
        batch = call.batch()
        batches = -(-call.n // batch)
        rates = speed(call.gradients, call.few, call.look_seconds, runs=call.n * call.count)
        once = call.n * rates.per_sample + batches * rates.per_run
        entries = call.n * call.count * sum(p.numel() for p in model.parameters.values())
        projecting = entries / _projected_per_second(call, batch)
    return SketchForecast(
        batch=batch,
        batches=batches,
        running_seconds=once * (1 + call.count) / 2,
        making_seconds=call.count * _making(call) / gemm_rate(model.device.type),
        projecting_seconds=projecting,
        budget=call.budget,
        bytes=call.held(batch),
        rows_bytes=call.n * (call.sizes.row_bytes + call.sizes.norm_bytes),
        proof_seconds=call.gradients.watch.seconds.get("proof", 0.0),
        proof_bytes=proof_bytes,
        threads=torch.get_num_threads(),
        coverage=call.gradients.coverages[0],
        terms=(
            f"{projection.describe()}: {call.n} samples, {len(call.layers or [None])} part(s), "
            f"{call.cotangents.describe()}, {str(call.dtype or model.dtype).removeprefix('torch.')} on "
            f"{model.device.type}"
        ),
    )


def _making(call: SketchCall) -> float:
    """Cost of the gradients of all samples under one cotangent, without any products."""
    alone = costs.Rectangle(0, 0, call.n, False, torch.float32)  # no pairs
    footprints = call.gradients.coverages[0].footprints
    return sum(
        costs.materialised(footprints.get(name) or Dense.of(p.numel()), alone)
        for name, p in call.model.parameters.items()
    )


def _projected_per_second(call: SketchCall, batch: int) -> float:
    """Measured gradient entries per second, of a slice of a batch."""
    device = call.model.device
    width = max(1, slice_of(device) // batch)
    block = torch.ones(batch, width, dtype=call.dtype or call.model.dtype, device=device)

    def once() -> float:
        into = SketchAccumulator(call.projection, batch, device=device)
        started = time.perf_counter()
        into.add(0, "", Dense(block), None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    return math.prod(block.shape) / min(once() for _ in range(2))

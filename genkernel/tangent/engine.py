"""``kernel()``: K = J(x) P J(y)ᵀ for chosen cotangents, tile by tile.

One forward per tile on frozen aliases of the parameters, one backward per cotangent that
propagates output-gradients only; each parameter is contracted as soon as its last use has
its output-gradient, and the n × P matrix of gradients never exists.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import GenkernelError, InputError, NonFiniteError
from genkernel.tangent import batches
from genkernel.tangent.assembly import Assembly, UnprovedError
from genkernel.tangent.capture import Tape
from genkernel.tangent.contraction import Block
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.precision import full_precision
from genkernel.tangent.probe import examine, tape_for
from genkernel.tangent.restore import random_state_kept
from genkernel.tangent.result import Kernel
from genkernel.tangent.tiles import Tile, Tiling, parse_memory, plan_tiles

log = logging.getLogger("genkernel")


def kernel(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | None = None,
    by: str | None = "layer",
    dtype: torch.dtype | str | None = None,
    accumulate: str = "float64",
    memory: str | int = "8GiB",
    progress: bool | None = None,
) -> Kernel:
    """The tangent kernel between two batches, or of one batch with itself.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        y: batch of m samples; None for the symmetric kernel of x.
        cotangents: which scalar of the output is differentiated; 8 shared Rademacher probes by
            default, an unbiased estimate of the trace kernel with standard errors.
        precondition: diagonal P as non-negative tensors by parameter name, shaped like the
            parameters (parameters without an entry have P = 1).
        by: keep partial kernels per ``"layer"``, per ``"parameter"``, or none (None).
        dtype: dtype of activations and gradients (the model's own by default).
        accumulate: ``"float64"``, or ``"float32"`` for float32 products summed in float64.
        memory: bound on memory for activations and scratch (``"8GiB"``, bytes). The numbers
            do not depend on it, up to rounding.
        progress: show a progress bar (by default when the work takes a while in a terminal).

    Returns:
        Kernel: values ``[n, m]`` = scale · Σ_k ⟨J(x_i)ᵀ v_ik, P J(y_j)ᵀ v_jk⟩.

    Raises:
        InputError: empty or mismatched batches, unknown options, P of the wrong shape.
        BatchCouplingError, RandomOutputError: the output is no function of one sample.
        NonFiniteError: NaN or infinity in weights, outputs or gradients, with where.
        CaptureError: a parameter from outside the module is used.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> K = gk.kernel(net, torch.randn(5, 4), cotangents=gk.exact_trace())
        >>> K.values.shape, sorted(K.layers)
        (torch.Size([5, 5]), ['0', '2'])
    """
    model = as_tangent_model(model)
    job = _Job(model, x, y, cotangents or probes(), precondition, by, _dtype(dtype), accumulate, memory)
    with _guarded(model):
        return job.run(progress)


class _Job:
    """Arguments checked once, then shared by all tiles."""

    def __init__(
        self,
        model: TangentModel,
        x: Any,
        y: Any,
        cotangents: Cotangents,
        precondition: Mapping[str, Tensor] | None,
        by: str | None,
        dtype: torch.dtype | None,
        accumulate: str,
        memory: str | int,
    ):
        if accumulate not in ("float64", "float32"):
            raise InputError(f"accumulate is 'float64' or 'float32', not {accumulate!r}")
        if by not in ("layer", "parameter", None):
            raise InputError(f"by is 'layer', 'parameter' or None, not {by!r}")
        if not isinstance(cotangents, Cotangents):
            raise InputError("cotangents is one of total(), output(i), exact_trace(), probes(k), cotangent(fn)")
        self.model, self.cotangents, self.dtype = model, cotangents, dtype
        self.accumulate = torch.float64 if accumulate == "float64" else torch.float32
        self.budget = parse_memory(memory)
        self.n, self.m = batches.size(x), batches.size(y) if y is not None else 0
        self.x, self.y = x, y
        if y is not None:
            batches.concatenate(batches.take(x, [0]), batches.take(y, [0]))  # structures agree
        self.by = by
        self.layer_of = None
        if by is not None:
            names = model.parameter_names
            self.layer_of = {name: name if by == "parameter" else model.layer_of(name) for name in names}
        self.roots = _roots(model, precondition, dtype or model.dtype)
        self._coverages: list[Coverage] = []

    def run(self, progress: bool | None) -> Kernel:
        model, device = self.model, self.model.device
        started = time.perf_counter()
        model.check_finite()
        both = self.x if self.y is None else batches.concatenate(_spread(self.x), _spread(self.y))
        coverage = examine(model, both, self.dtype)
        self._coverages = [coverage]
        few = batches.move(batches.take(_spread(self.x), slice(0, 4)), device, self.dtype)
        with model.evaluating():
            tensors = model.tensors(self.dtype)
            with torch.no_grad():
                out = model.run(tensors, few)
        self.cotangents.check(out, few)
        shape = tuple(out.shape[1:])
        count = self.cotangents.count(shape)
        kept = count if self.cotangents.random else 1
        scale = self.cotangents.scale(shape)
        tiling = self._tiling(coverage, kept)
        log.log(logging.WARNING if tiling.expected > tiling.budget else logging.INFO, tiling.describe())

        n, m = self.n, self.m or self.n
        symmetric = self.y is None
        totals = torch.zeros(kept, n, m, dtype=torch.float64)
        layers: dict[str, Tensor] = {}
        squares_x = torch.zeros(kept, n, dtype=torch.float64)
        squares_y = torch.zeros(kept, m, dtype=torch.float64)

        for tile, block in self._tiles(tensors, tiling, count, kept, progress):
            r, c = tile.rows, tile.cols
            totals[:, r, c] = block.totals.cpu()
            if symmetric and not tile.symmetric:
                totals[:, c, r] = block.totals.transpose(1, 2).cpu()
            for name, values in block.layers.items():
                whole = layers.setdefault(name, torch.zeros(n, m, dtype=torch.float64))
                whole[r, c] = values.cpu() * scale
                if symmetric and not tile.symmetric:
                    whole[c, r] = whole[r, c].T
            if not symmetric:
                assert block.squares is not None
                squares_x[:, r] = block.squares[:, block.rows].cpu()
                squares_y[:, c] = block.squares[:, block.cols].cpu()
        if symmetric:
            squares_x = squares_y = totals.diagonal(dim1=1, dim2=2).clone()
        if self.layer_of is not None:
            order = list(dict.fromkeys(self.layer_of.values()))
            zero = torch.zeros(n, m, dtype=torch.float64)
            layers = {name: layers.get(name, zero.clone()) for name in order}
        said = coverage.merge(self._coverages[1:])
        return Kernel(
            values=totals.sum(0) * scale,
            norms_x=squares_x.sum(0) * scale,
            norms_y=squares_y.sum(0) * scale,
            layers=layers,
            per_probe=totals if self.cotangents.random else None,
            per_probe_norms_x=squares_x if self.cotangents.random else None,
            per_probe_norms_y=squares_y if self.cotangents.random else None,
            symmetric=symmetric,
            meta=self._meta(said, tiling, shape, started),
            coverage=said,
        )

    # -------------------------------------------------------------------- planning

    def _tiling(self, coverage: Coverage, kept: int) -> Tiling:
        parameters = self.model.parameters
        numel = sum(p.numel() for p in parameters.values())
        itemsize = (self.dtype or self.model.dtype).itemsize
        copies = numel * itemsize if self.dtype not in (None, self.model.dtype) else 0
        return plan_tiles(
            self.n,
            self.m,
            bytes_per_sample=coverage.bytes_per_sample,
            weight_bytes=copies,
            matrices=kept + (len(set(self.layer_of.values())) if self.layer_of is not None else 0),
            budget=self.budget,
            itemsize=itemsize,
        )

    def _meta(self, coverage: Coverage, tiling: Tiling, shape: tuple[int, ...], started: float) -> dict[str, Any]:
        parameters = self.model.parameters
        return {
            "cotangents": self.cotangents.describe(),
            "dtype": str(self.dtype or self.model.dtype).removeprefix("torch."),
            "accumulate": str(self.accumulate).removeprefix("torch."),
            "device": str(self.model.device),
            "parameters": sum(p.numel() for p in parameters.values()),
            "by": self.by,
            "parameter_order": list(self.model.parameter_names),
            "output_shape": list(shape),
            "batch_norm": self.model.batch_norm,
            "preconditioned": bool(self.roots),
            "tiling": tiling.describe(),
            "tiles": len(tiling),
            "coverage": coverage.summary(),
            "seconds": time.perf_counter() - started,
            "torch": torch.__version__,
        }

    # --------------------------------------------------------------------- running

    def _tiles(
        self, tensors: dict[str, Tensor], tiling: Tiling, count: int, kept: int, progress: bool | None
    ) -> Iterator[tuple[Tile, Block]]:
        from tqdm.auto import tqdm

        hidden = None if progress is None else not progress  # None: tqdm hides it outside a terminal
        with tqdm(total=len(tiling) * count, desc="kernel", unit="pass", disable=hidden, delay=1.0, leave=False) as bar:
            for tile in tiling:
                a = batches.take(self.x, tile.rows)
                r = tile.rows.stop - tile.rows.start
                if tile.symmetric:
                    batch, rows, cols = a, slice(0, r), slice(0, r)
                else:
                    batch = batches.concatenate(a, batches.take(self.x if self.y is None else self.y, tile.cols))
                    rows, cols = slice(0, r), slice(r, r + tile.cols.stop - tile.cols.start)
                block = Block(
                    rows, cols, batches.size(batch), kept, self.layer_of, self.accumulate, self.model.device,
                    norms=self.y is not None,
                )  # fmt: skip
                self._run_tile(tensors, batches.move(batch, self.model.device, self.dtype), block, bar, tile)
                block.mirror()
                yield tile, block

    def _run_tile(self, tensors: dict[str, Tensor], batch: Any, block: Block, bar: Any, tile: Tile) -> None:
        with self.model.evaluating():
            unproved: set[str] = set()
            while True:
                tape, out, coverage = self._forward(tensors, batch, unproved)
                try:
                    self._contract(tape, out, coverage, tensors, batch, block, bar, tile)
                    return
                except UnprovedError as found:
                    unproved |= found.parameters
                    block.clear()
                finally:
                    tape.close()

    def _contract(
        self,
        tape: Tape,
        out: Tensor,
        coverage: Coverage,
        tensors: dict[str, Tensor],
        batch: Any,
        block: Block,
        bar: Any,
        tile: Tile,
    ) -> None:
        """One backward pass per cotangent, every parameter contracted as it completes."""
        _check_finite(out.detach(), "output", tile)
        which = 0

        def emit(parameter: str, factor: Factor, view: Geometry | None) -> None:
            root = self.roots.get(parameter)
            if root is not None and view is not None:
                root = view.of(root)
            try:
                block.add(which, parameter, factor, root)
            except FloatingPointError:
                _check_finite(factor.dense(), f"gradient of {parameter!r}", tile)
                raise NonFiniteError(
                    f"the kernel of {parameter!r} overflows: its gradients are too large for {self.accumulate}"
                ) from None

        assembly = Assembly(tape, coverage.plans, batches.size(batch), emit)
        tape.deliver = assembly.receive
        total = self.cotangents.count(tuple(out.shape[1:]))
        for k, v in enumerate(self.cotangents.vectors(out.detach().clone(), batches.copy(batch))):
            which = k if block.count > 1 else 0
            assembly.keep_inputs = k + 1 < total
            assembly.begin()
            if tape.leaves and out.requires_grad:
                torch.autograd.grad(out, tape.leaves, v, retain_graph=k + 1 < total, allow_unused=True)
            assembly.flush()
            for parameter, rows in self._through_forward(tensors, batch, v, coverage.generic):
                emit(parameter, Dense(rows), None)
            bar.update(1)

    def _forward(self, tensors: dict[str, Tensor], batch: Any, unproved: set[str]) -> tuple[Tape, Tensor, Coverage]:
        """One captured forward, with a coverage that holds for what was captured.

        Args:
            unproved: parameters whose uses turned out to matter only in this batch.
        """
        if not unproved:
            for coverage in self._coverages:
                tape, out = self._record(tensors, batch, coverage)
                if coverage.matches(tape, out, batches.size(batch)):
                    return tape, out, coverage
                tape.close()
        # this batch takes another branch of the model: prove that one, too
        coverage = examine(self.model, batch, self.dtype)
        coverage.give_up(unproved)
        tape, out = self._record(tensors, batch, coverage)
        if not coverage.matches(tape, out, batches.size(batch)):
            coverage = replace(
                coverage, plans=[None] * len(tape.uses), calls=[], generic=list(self.model.parameter_names)
            )
        self._coverages.append(coverage)
        return tape, out, coverage

    def _record(self, tensors: dict[str, Tensor], batch: Any, coverage: Coverage) -> tuple[Tape, Tensor]:
        with torch.enable_grad():
            tape = tape_for(self.model, tensors, keep_all=coverage.keep_all)
            with tape:
                return tape, self.model.run(tensors, batch)

    def _through_forward(
        self, tensors: dict[str, Tensor], batch: Any, v: Tensor, names: list[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """Gradients of uncaptured parameters, one sample at a time through the user's forward."""
        if not names:
            return
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        wanted = set(names)
        frozen = {name: t if name in wanted else t.detach() for name, t in tensors.items()}
        for i in range(batches.size(batch)):
            with torch.enable_grad():
                out = self.model.run(frozen, batches.take(batch, [i]))
                grads = (
                    torch.autograd.grad(out, [tensors[name] for name in names], v[i : i + 1], allow_unused=True)
                    if out.requires_grad
                    else [None] * len(names)
                )
            for name, g in zip(names, grads, strict=True):
                g = torch.zeros_like(tensors[name]) if g is None else g
                rows[name].append((g.to_dense() if g.is_sparse else g).detach())
        for name in names:
            yield name, torch.stack(rows.pop(name))


def _spread(batch: Any, most: int = 16) -> Any:
    """At most ``most`` samples, evenly over the batch."""
    n = batches.size(batch)
    return batches.take(batch, sorted({round(i * (n - 1) / (most - 1)) for i in range(most)}))


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise InputError(f"dtype {dtype!r} is unknown: use 'float32' or 'float64'")
        dtype = found
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype {dtype} is not a floating point type")
    return dtype


def _roots(model: TangentModel, precondition: Mapping[str, Tensor] | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Square roots of the diagonal preconditioner by parameter."""
    roots = {}
    parameters = model.parameters
    for name, diagonal in (precondition or {}).items():
        if name not in parameters:
            raise InputError(f"precondition names {name!r}, which is not among the selected parameters")
        if diagonal.shape != parameters[name].shape:
            raise InputError(
                f"precondition of {name!r} has shape {tuple(diagonal.shape)}, the parameter has "
                f"{tuple(parameters[name].shape)}"
            )
        diagonal = diagonal.detach().to(model.device, torch.float64)
        if not torch.isfinite(diagonal).all() or bool((diagonal < 0).any()):
            raise InputError(f"precondition of {name!r} has to be finite and non-negative")
        roots[name] = diagonal.sqrt().to(dtype).contiguous()
    return roots


def _check_finite(values: Tensor, what: str, tile: Tile) -> None:
    bad = (~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero().flatten()
    if len(bad):
        rows = tile.rows.stop - tile.rows.start
        index = int(bad[0])
        where = (
            f"sample {tile.rows.start + index} of x"
            if index < rows
            else f"sample {tile.cols.start + index - rows} of {'x' if tile.symmetric else 'the second side'}"
        )
        raise NonFiniteError(f"the {what} is NaN or infinite for {where}: check that input, or the weights")


@contextmanager
def _guarded(model: TangentModel) -> Iterator[None]:
    """Deterministic precision, and the user's random state kept as it was."""
    devices = [model.device] if model.device.type == "cuda" else []
    if torch.is_autocast_enabled(model.device.type):
        raise GenkernelError("kernels are not computed under autocast: leave the autocast region, or pass dtype=")
    with torch.inference_mode(False), torch.random.fork_rng(devices=devices), random_state_kept(), full_precision():
        yield

"""``kernel()``: K = J(x) P J(y)ᵀ for chosen cotangents.

The arguments are checked, the model is proved and a plan is made (:mod:`genkernel.tangent.call`); its tasks
are run (or read from a store, or given to other workers), and their results are added in the plan's order.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import batches, workspace
from genkernel.tangent.alongside import Alongside, Part
from genkernel.tangent.call import Call, Grouping
from genkernel.tangent.contraction import Block
from genkernel.tangent.contractor import Contractor
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.distributed import Workers, current_workers, share
from genkernel.tangent.fingerprint import fingerprint_call
from genkernel.tangent.forecast import Forecast
from genkernel.tangent.gradient_files import DamagedError, GradientFiles
from genkernel.tangent.heap import give_back
from genkernel.tangent.matrices import Matrices, pack
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import GradientPass, Sink, guarded
from genkernel.tangent.plan import Plan, Task
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.preconditioner import Preconditioner, as_preconditioner
from genkernel.tangent.projection import Projection
from genkernel.tangent.result import Kernel
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.sketch_accumulator import SketchAccumulator
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.sketching import settings
from genkernel.tangent.spool import Spool
from genkernel.tangent.stash import Collector, Stash
from genkernel.tangent.threads import threads

if TYPE_CHECKING:
    from genkernel.tangent.store import TileStore

log = logging.getLogger("genkernel")

#: share of the memory that finished tasks may take until all ranks have theirs: one in so many
SPOOLED = 8


def kernel(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Preconditioner | Mapping[str, Tensor] | Any = None,
    by: Grouping = "layer",
    dtype: torch.dtype | str | None = None,
    accumulate: str = "float64",
    memory: str | int = "8GiB",
    store: str | Path | None = None,
    distributed: bool | None = None,
    coverage: Coverage | None = None,
    plan: Forecast | None = None,
    sketch: Projection | None = None,
    progress: bool | None = None,
) -> Kernel:
    """The tangent kernel between two batches, or of one batch with itself.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        y: batch of m samples; None for x again.
        model_y: the model on the side of y (the two-time kernel J_s(x) P J_t(y)ᵀ, THEORY §1): the same
            parameters with other values, such as ``model.at(weights)``; None for ``model``.
        cotangents: which scalar of the output is differentiated; 8 shared Rademacher probes by
            default, an unbiased estimate of the trace kernel with standard errors. With
            ``blocks()`` the values are ``[n, m, O, O]``.
        precondition: P: a :class:`Preconditioner`, a torch optimizer or its ``state_dict()``, or
            non-negative diagonals by parameter name (1 for parameters without an entry).
        by: keep partial kernels per ``"layer"``, per ``"parameter"``, per group (a function or mapping
            from parameter names to group names), or none (None).
        dtype: dtype of activations and gradients (the model's own by default).
        accumulate: ``"float64"``, or ``"float32"`` for float32 products summed in float64.
        memory: bound on the memory of the run (``"8GiB"``, bytes). The numbers do not depend on it, up to
            rounding.
        store: a folder that keeps finished parts, so that a run that was killed goes on where it was. A run that has
            to go through the model many times for want of memory may also keep gradients there instead, in half of
            what is free; they are removed at the end.
        distributed: share the work with the other ranks of ``torch.distributed`` or torchrun, which make the
            same call and get the same result: None when there are any, False never.
        coverage: ``K.coverage`` of an earlier call: spares the proof. Only for a model that has not changed since.
        plan: what :func:`genkernel.plan` returned for the same arguments: the run keeps to it, and is spared the
            proof. (A store that was begun keeps to the plan it has.)
        sketch: also project every sample's gradient, in the same pass: ``K.sketch_x`` and ``K.sketch_y``, as
            :func:`genkernel.sketch` makes them. For a diagonal P; not with ``blocks()``.
        progress: show the plan and a progress bar (by default when the work takes a while in a terminal).

    Returns:
        Kernel: values ``[n, m]`` = scale · Σ_k ⟨J(x_i)ᵀ v_ik, P J(y_j)ᵀ v_jk⟩.

    Raises:
        InputError: empty or mismatched batches, unknown options, P of the wrong shape, a store or plan of another call.
        BatchCouplingError, RandomOutputError: the output is no function of one sample.
        NonFiniteError: NaN or infinity in weights, outputs or gradients, with where.
        CaptureError: a parameter from outside the module is used.
        OutputError: the store cannot be written; what is finished is kept.
        DistributedError: another rank failed, or made another call.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> K = gk.kernel(net, torch.randn(5, 4), cotangents=gk.exact_trace())
        >>> K.values.shape, sorted(K.layers)
        (torch.Size([5, 5]), ['0', '2'])
    """
    started = time.perf_counter()
    model = as_tangent_model(model)
    other = None if model_y is None else as_tangent_model(model_y)
    chosen = probes() if cotangents is None else cotangents
    if coverage is not None and not isinstance(coverage, Coverage):
        raise InputError(f"coverage= is K.coverage of an earlier kernel, not {type(coverage).__name__}")
    if plan is not None and not isinstance(plan, Forecast):
        raise InputError(f"plan= is what gk.plan() returned, not {type(plan).__name__}")
    job = _Job(model, other, x, y, chosen, precondition, by, parse_dtype(dtype), accumulate, memory, sketch, store)
    with ExitStack() as stack:
        device = model.device if model.device.type == "cuda" else None
        workers = stack.enter_context(current_workers(distributed, device))
        shelf = None
        if store is not None or workers.world > 1:
            manifest = fingerprint_call(
                model, x, y, model_y=other, cotangents=chosen, precondition=job.metric, by=by, dtype=job.dtype,
                accumulate=accumulate, device=model.device.type,
                **({} if sketch is None else {"sketch": sketch.describe()}),
            )  # fmt: skip
            workers.agree(manifest)
            if store is not None:
                shelf = stack.enter_context(workers.open_store(store, manifest))
        stack.enter_context(guarded(model))
        return job.run(workers, shelf, coverage, plan, progress, started)


class _Job(Call):
    """A call that is carried out."""

    def run(
        self,
        workers: Workers,
        store: TileStore | None,
        coverage: Coverage | None,
        forecast: Forecast | None,
        progress: bool | None,
        started: float,
    ) -> Kernel:
        if forecast is not None and coverage is None:
            coverage = forecast.coverage
        self.prove(coverage)
        self.workers = workers.world
        ahead = None if forecast is None else forecast.plan_for(self)
        # roots of P in half precision would be lost to zero
        roots = torch.promote_types(self.dtype or self.model.dtype, torch.float32)
        self.working = None if self.metric is None else self.metric.to(self.model.device, roots)
        if self.proof_bytes > self.budget:
            log.warning(
                f"the proof held {self.proof_bytes / 2**20:.0f} MiB, more than memory= allows: it takes three samples "
                "and a gradient of the weights whatever the budget"
            )
        stored = workers.lead(lambda: store.plan if store is not None else None)
        if stored:
            plan = Plan.read(stored)
        else:
            plan = workers.lead(lambda: ahead or self.plan())
            plan = plan.shared(workers.world, self.count)
        if store is not None:
            store.keep_plan(plan.record())
            if store.is_finished:  # a task of it may be damaged; others may read it, and nobody would tidy up
                plan = plan.in_memory()
            if plan.home == "disk":
                forms = self.left.coverages[0].footprints
                self.files = GradientFiles(store.gradients, self.shapes, forms, plan.limit)
        elif plan.home == "disk":
            raise InputError("the plan keeps gradients on disk: give the folder that it was made with as store=")
        say(plan.describe(), logging.WARNING if plan.bytes > plan.budget else logging.INFO, progress, plan.seconds)
        self.expected, self.running, self.limit = plan.bytes, plan.running, plan.limit
        for run in (self.left, self.right):
            run.channels_last = run.channels_last and plan.channels_last
        layers = [] if self.group_of is None else list(dict.fromkeys(self.group_of.values()))
        n, m = self.n * self.outputs, (self.m or self.n) * self.outputs
        matrices = Matrices(self.kept, n, m, self.symmetric, layers, self.sketch_shape)
        planned = time.perf_counter()
        with threads(plan.threads):
            for task, result in self._results(plan, workers, store, progress):
                matrices.add(task, result, self.outputs)
        self.spent = time.perf_counter() - planned
        matrices.finish()
        if store is not None and workers.is_leader:
            store.finish()
        return self._kernel(matrices, plan, started)

    # --------------------------------------------------------------------- running

    def _results(
        self, plan: Plan, workers: Workers, store: TileStore | None, progress: bool | None
    ) -> Iterator[tuple[Task, Mapping[str, Tensor]]]:
        """Every task with its result, in the plan's order, on every rank."""
        tasks = {task.name: task for task in plan.tasks}
        done = workers.lead(store.done) if store is not None else set()
        owners = share({name: task.cost for name, task in tasks.items() if name not in done}, workers.world)
        mine = self.pending = [tasks[name] for name, rank in owners.items() if rank == workers.rank]
        self.share = sum(task.cost for task in mine) / max(1e-30, sum(task.cost for task in plan.tasks))
        if workers.world == 1 and store is None:
            with self._bar(mine, plan, progress) as tick:
                for task in mine:
                    yield task, self._compute(task, plan, tick)
            return
        with Spool(self.budget // SPOOLED) as held:
            with self._bar(mine, plan, progress) as tick:
                for task in mine:
                    workers.check()
                    keep = held.put if store is None else store.put
                    keep(task.name, self._compute(task, plan, tick))
            workers.together(lambda: None)
            if store is None:
                for name, result in workers.in_order(owners, held.take):
                    yield tasks[name], result
                return
        for task in plan.tasks:
            result = store.get(task.name) or {}
            if not result:  # damaged since it was written: every rank finds the same, and the leader keeps it
                # other ranks may be done with the files
                result = self._compute(task, plan.in_memory(), lambda: None)
                if workers.is_leader:
                    store.put(task.name, result)
            yield task, result

    @contextmanager
    def _bar(self, tasks: list[Task], plan: Plan, progress: bool | None) -> Iterator[Callable[[], object]]:
        from tqdm import tqdm

        hidden = None if progress is None else not progress  # None: tqdm hides it outside a terminal
        batches_per_task = -(-(self.n + self.m) // plan.batch) if plan.passes else 1
        total = sum((len(t.which) if t.which is not None else self.count) * batches_per_task for t in tasks)
        if plan.home == "disk":  # one run serves them all
            total = self.count * sum(-(-batches.size(samples) // plan.batch) for _, _, samples, _ in self._sides())
        with tqdm(total=total, desc="kernel", unit="pass", disable=hidden, delay=1.0, leave=False) as bar:
            yield lambda: bar.update(1)

    def _make_room(self, need: int) -> None:
        """Give freed memory back if ``need`` more bytes may not fit beside it.

        What comes next might find no room in the gaps. Not needlessly: memory that is new to a process has to be
        filled first, which takes as long as the work in it.
        """
        if self.left.watch.grown + need > self.budget:
            give_back()

    def _compute(self, task: Task, plan: Plan, tick: Callable[[], object]) -> Mapping[str, Tensor]:
        if task.parameters is None:
            return self._tile(task, tick)
        while plan.home == "disk":
            self._write(task, plan.batch, tick)
            try:
                found = self._pass(task, plan, tick)
            except DamagedError:
                continue  # its samples run again
            self.pending = [other for other in self.pending if other is not task]
            return found
        return self._pass(task, plan, tick)

    def _block(self, task: Task, rows: slice, cols: slice, samples: int) -> Block:
        count = self.kept if task.which is None or self.kept == 1 else len(task.which)
        return Block(
            rows, cols, samples, count, self.group_of, self.accumulate, self.model.device,
            norms=not self.symmetric, limit=self.limit,
        )  # fmt: skip

    def _contractor(self, task: Task, block: Block) -> Contractor:
        order = None if task.which is None else {k: i for i, k in enumerate(task.which)}
        return Contractor(
            block, self.working, self.shapes, lambda k: 0 if block.count == 1 else k if order is None else order[k]
        )

    def _tile(self, task: Task, tick: Callable[[], object]) -> dict[str, Tensor]:
        """Rows and columns in one batch, contracted as gradients arrive; in quarters when memory runs out."""
        a = batches.take(self.x, slice(*task.rows))
        r, c = task.rows[1] - task.rows[0], task.cols[1] - task.cols[0]
        if task.same:
            batch, rows, cols = a, slice(0, r), slice(0, r)
        else:
            batch = batches.concatenate(a, batches.take(self.x if self.y is None else self.y, slice(*task.cols)))
            rows, cols = slice(0, r), slice(r, r + c)
        block = self._block(task, rows, cols, batches.size(batch))
        parts = []
        if task.same or (not self.symmetric and task.cols[0] == 0):  # each sample in one of its tiles
            parts.append(Part("x", rows, task.rows[0]))
        if not self.symmetric and task.rows[0] == 0:
            parts.append(Part("y", cols, task.cols[0]))
        sink = self._sketching(self._contractor(task, block), parts)
        self._make_room(self.expected)
        try:
            self.left.run(batch, self.cotangents, sink, which=task.which, where=self._namer(task), done=tick)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or r + c <= 2:
                raise
        else:
            block.mirror()
            squares = None if block.squares is None else (block.squares[:, rows], block.squares[:, cols])
            sketches = {part.side: (found, norms) for part, found, norms in self._sketched(sink)}
            return pack(block.totals, block.layers, squares, sketches)
        del block, batch, a, sink
        say(f"out of memory with {r + (0 if task.same else c)} samples: halving", logging.WARNING, True, 0.0)
        return self._quarters(task, tick)

    def _quarters(self, task: Task, tick: Callable[[], object]) -> dict[str, Tensor]:
        """The same tile from smaller ones."""
        r, c = task.rows[1] - task.rows[0], task.cols[1] - task.cols[0]
        halves_r = [(0, r // 2), (r // 2, r)] if r > 1 else [(0, r)]
        halves_c = [(0, c // 2), (c // 2, c)] if c > 1 else [(0, c)]
        layers = list(dict.fromkeys(self.group_of.values())) if self.group_of is not None else []
        kept = self.kept if task.which is None or self.kept == 1 else len(task.which)
        whole = Matrices(kept, r, c, task.same and self.symmetric, layers, self.sketch_shape)
        for rows in halves_r:
            for cols in halves_c:
                if task.same and cols > rows:
                    continue
                part = Task(
                    task.name,
                    (task.rows[0] + rows[0], task.rows[0] + rows[1]),
                    (task.cols[0] + cols[0], task.cols[0] + cols[1]),
                    task.same and rows == cols,
                    which=task.which,
                )
                whole.add(Task("", rows, cols, part.same), self._tile(part, tick))
        squares = None if self.symmetric else (whole.squares_x, whole.squares_y)
        # a symmetric kernel sketches its samples on the diagonal, and has no other side
        sides = ("x", "y") if not self.symmetric else ("x",) if task.same else ()
        sketches = {side: found for side, found in whole.sketches.items() if side in sides}
        return pack(whole.totals, whole.layers, squares, sketches)

    def _pass(self, task: Task, plan: Plan, tick: Callable[[], object]) -> dict[str, Tensor]:
        """All samples for one group of parameters; for a part of the group at a time when memory runs out."""
        try:
            return self._undivided(task, plan, tick)
        except (MemoryError, RuntimeError) as error:
            halves = self._halves(task)
            if not out_of_memory(error) or not halves:
                raise
        names = task.parameters or ()
        what = f"the gradients of {len(names)} parameters" if len(names) > 1 else f"the gradient of {names[0]!r}"
        say(f"out of memory with {what}: halving", logging.WARNING, True, 0.0)
        found: dict[str, Tensor] = {}
        for half in halves:
            for name, part in self._pass(half, plan, tick).items():
                found[name] = found[name] + part if name in found else part
        return found

    def _halves(self, task: Task) -> list[Task]:
        """The same pass in two: parameters, or coordinates of a single one; none where P couples all of them."""
        names = task.parameters or ()
        coupled = {name: block for block in (self.metric.blocks if self.metric is not None else ()) for name in block}
        groups = list(dict.fromkeys(coupled.get(name, (name,)) for name in names))
        if len(groups) > 1:
            halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
            return [replace(task, parameters=tuple(name for group in half for name in group)) for half in halves]
        start, stop = task.columns or (0, math.prod(self.shapes[names[0]]))
        if len(names) > 1 or names[0] in coupled or stop - start < 2:
            return []
        middle = (start + stop) // 2
        return [replace(task, columns=columns) for columns in ((start, middle), (middle, stop))]

    def _undivided(self, task: Task, plan: Plan, tick: Callable[[], object]) -> dict[str, Tensor]:
        """All samples in batches, their gradients multiplied at the end."""
        total = (self.n + self.m) * self.outputs
        columns = None if task.columns is None else slice(*task.columns)
        home = torch.device("cpu") if plan.home == "host" else None
        sketches: dict[str, tuple[Tensor, Tensor] | None] = {}
        if plan.home == "disk":
            self._make_room(self.expected)  # beside what the runs that wrote them left
            # they are of the task's columns already
            stash = Stash(total, self.shapes, self.model.device, limit=plan.limit)
            for side, _, _, offset in self._sides():
                kept = self.outputs if self.outputs > 1 else None
                for start, which, parameter, factor, view in self.files.read(side, task, self.left.watch):
                    Collector(stash, offset + start, kept).add(which, parameter, factor, view)
        else:
            stash = Stash(total, self.shapes, self.model.device, columns, home, plan.limit)
            sketches["x"] = self._collect(self.left, self.x, 0, stash, task, plan.batch, tick)
            if self.y is not None:
                sketches["y"] = self._collect(self.right, self.y, self.n, stash, task, plan.batch, tick)
        self._make_room(self.expected - stash.nbytes)
        rows = slice(0, self.n * self.outputs)
        cols = rows if self.symmetric else slice(rows.stop, total)
        block = self._block(task, rows, cols, total)
        contractor = self._contractor(task, block)
        with self.left.watch("contraction"):
            contractor.begin()
            for which, parameter, factor, view in stash.release():
                contractor.add(which, parameter, factor, view, columns)
            contractor.finish()
            workspace.forget()  # activations come next
        block.mirror()
        squares = None if block.squares is None else (block.squares[:, rows], block.squares[:, cols])
        return pack(block.totals, block.layers, squares, {k: v for k, v in sketches.items() if v is not None})

    def _collect(
        self,
        run: GradientPass,
        samples: Any,
        offset: int,
        stash: Stash,
        task: Task,
        batch: int,
        tick: Callable[[], object],
    ) -> tuple[Tensor, Tensor] | None:
        """Fill the stash from one side; returns the rows and norms of its sketch, where one is asked for."""
        found: list[tuple[Tensor, Tensor]] = []
        side = "x" if offset == 0 else "y"
        # the slices of one parameter come from the same gradients: sketch them with the first
        first = task.columns is None or task.columns[0] == 0

        @contextmanager
        def collecting(start: int, stop: int, _: list[Task]) -> Iterator[Sink]:
            collector = Collector(stash, offset + start, self.outputs if self.outputs > 1 else None)
            sink = self._sketching(collector, [Part(side, slice(0, stop - start), start)] if first else [])
            yield sink
            found.extend((rows, norms) for _, rows, norms in self._sketched(sink))

        self._through(run, samples, side, batch, lambda _: [task], collecting, tick)
        return (torch.cat([rows for rows, _ in found]), torch.cat([norms for _, norms in found])) if found else None

    def _sides(self) -> list[tuple[str, GradientPass, Any, int]]:
        """Name, model, samples, and which row is their first."""
        sides: list[tuple[str, GradientPass, Any, int]] = [("x", self.left, self.x, 0)]
        if self.y is not None:
            sides.append(("y", self.right, self.y, self.n))
        return sides

    def _write(self, task: Task, batch: int, tick: Callable[[], object]) -> None:
        """See to it that all files for a task are there: they are written for all tasks of this rank that lack them."""
        for side, run, samples, _ in self._sides():
            writing = partial(self.files.writing, side, watch=run.watch)
            self._through(run, samples, side, batch, partial(self._due, side, task.name), writing, tick)

    def _due(self, side: str, task: str, start: int) -> list[Task] | int:
        """Up to where there are files from sample ``start`` on for a task; or all tasks that lack them."""
        stop = self.files.reach(side, start, task)
        return stop or [other for other in self.pending if self.files.reach(side, start, other.name) is None]

    def _through(
        self,
        run: GradientPass,
        samples: Any,
        side: str,
        batch: int,
        due: Callable[[int], list[Task] | int],
        sink: Callable[[int, int, list[Task]], AbstractContextManager[Sink]],
        tick: Callable[[], object],
    ) -> None:
        """Run one side batch by batch for some tasks; in smaller batches when memory runs out.

        Args:
            due: the tasks that need gradients from ``start`` on; or up to which sample none does.
            sink: what takes the gradients of samples start … stop for them.
        """
        n, start, first = batches.size(samples), 0, side == "x"
        while start < n:
            tasks = due(start)
            if isinstance(tasks, int):
                start = tasks
                continue
            which = None if any(t.which is None for t in tasks) else sorted({k for t in tasks for k in t.which or ()})
            parameters = {name for t in tasks for name in t.parameters or ()}
            # the first batch makes the stash
            self._make_room(self.expected if first else self.running)
            stop = min(n, start + batch)
            part = batches.take(samples, slice(start, stop))
            try:
                with sink(start, stop, tasks) as into:
                    run.run(
                        part, self.cotangents, into, which=which, parameters=parameters,
                        where=partial(_name, side, start), done=tick,
                    )  # fmt: skip
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or batch <= 1:
                    raise
                batch = max(1, batch // 2)
                say(f"out of memory: going on with {batch} samples at a time", logging.WARNING, True, 0.0)
                continue
            start, first = stop, False
            workspace.forget()  # activations come next

    # -------------------------------------------------------------------- sketches

    def _sketching(self, sink: Sink, parts: list[Part]) -> Sink:
        """The sink itself, or with a sketch of some samples alongside."""
        projection, metric = self.sketch, self.working
        if projection is None or not parts:
            return sink

        def make(n: int) -> SketchAccumulator:
            root = (lambda _: None) if metric is None else metric.diagonal_root
            return SketchAccumulator(
                projection, n, probes=self.kept, layer_of=self.group_of, root=root, device=self.model.device,
                limit=self.limit if self.model.device.type == "cpu" else None,
            )  # fmt: skip

        return Alongside(sink, parts, make)

    def _sketched(self, sink: Sink) -> list[tuple[Part, Tensor, Tensor]]:
        return sink.results() if isinstance(sink, Alongside) else []

    def _sketch_of(self, matrices: Matrices, side: str) -> Sketch | None:
        if self.sketch is None or (side == "y" and self.symmetric):
            return None
        model = self.model if side == "x" or self.model_y is None else self.model_y
        metric = self.metric if self.metric is not None else as_preconditioner(None, model)
        layers = None if self.group_of is None else list(dict.fromkeys(self.group_of.values()))
        samples = self.x if side == "x" else self.y
        rows, norms = matrices.sketches[side]
        exact = (self.dtype or self.model.dtype) == torch.float64
        told = settings(model, samples, self.sketch, self.cotangents, metric, layers, self.out_shape, self.dtype)
        return Sketch.made(rows if exact else rows.float(), norms, told)

    def _namer(self, task: Task) -> Callable[[int], str]:
        r = task.rows[1] - task.rows[0]
        other = "x" if self.y is None else "y"

        def name(i: int) -> str:
            return f"sample {task.rows[0] + i} of x" if i < r else f"sample {task.cols[0] + i - r} of {other}"

        return name

    # ---------------------------------------------------------------------- result

    def _kernel(self, matrices: Matrices, plan: Plan, started: float) -> Kernel:
        scale = self.cotangents.scale(self.out_shape)
        said = self.left.coverage if self.model_y is None else self.left.coverage.merge(self.right.coverages)
        random, each = self.cotangents.random, self.outputs

        def unfold(values: Tensor) -> Tensor:
            """``[n·O, m·O]`` → ``[n, m, O, O]``."""
            return (
                values
                if not self.cotangents.blocks
                else values.unflatten(0, (-1, each)).unflatten(2, (-1, each)).transpose(1, 2).contiguous()
            )

        def norms(values: Tensor) -> Tensor:
            return values.view(-1, each) if self.cotangents.blocks else values

        totals = matrices.totals
        values = totals.sum(0) if len(totals) > 1 or random else totals[0]
        for layer in matrices.layers.values():
            layer.mul_(scale)
        return Kernel(
            values=unfold(values.mul_(scale)),
            norms_x=norms(matrices.squares_x.sum(0) * scale),
            norms_y=norms(matrices.squares_y.sum(0) * scale),
            layers={name: unfold(matrices.layers.pop(name)) for name in list(matrices.layers)},
            per_probe=totals if random else None,
            per_probe_norms_x=matrices.squares_x if random else None,
            per_probe_norms_y=matrices.squares_y if random else None,
            symmetric=self.symmetric,
            sketch_x=self._sketch_of(matrices, "x"),
            sketch_y=self._sketch_of(matrices, "y"),
            meta=self._meta(said, plan, started),
            coverage=said,
        )

    def _meta(self, coverage: Coverage, plan: Plan, started: float) -> dict[str, Any]:
        watches = {id(w): w for w in (self.left.watch, self.right.watch)}.values()
        timing: dict[str, float] = {}
        for watch in watches:
            for section, seconds in watch.seconds.items():
                timing[section] = timing.get(section, 0.0) + seconds
        seen = max(watch.peak for watch in watches)
        log.info(
            f"took {self.spent:.2g} s ({plan.seconds * self.share:.2g} s expected) and was seen to hold "
            f"{seen / 2**20:.0f} MiB ({plan.bytes / 2**20:.0f} MiB expected)"
        )
        return {
            "cotangents": self.cotangents.describe(),
            "dtype": str(self.dtype or self.model.dtype).removeprefix("torch."),
            "accumulate": str(self.accumulate).removeprefix("torch."),
            "device": str(self.model.device),
            "parameters": sum(p.numel() for p in self.model.parameters.values()),
            "by": self.by if isinstance(self.by, str) or self.by is None else "group",
            "parameter_order": list(self.model.parameter_names),
            "output_shape": list(self.out_shape),
            "batch_norm": self.model.batch_norm,
            "preconditioned": False if self.metric is None else self.metric.describe(),
            "two_models": self.model_y is not None,
            "plan": plan.describe(),
            "tasks": len(plan.tasks),
            "expected": {"seconds": plan.seconds * self.share, "bytes": plan.bytes},
            "found": {"seconds": self.spent, "bytes": seen, "proof_bytes": self.proof_bytes},
            "peak_bytes_seen": max(seen, self.proof_bytes),
            "timing": timing,
            "coverage": coverage.summary(),
            "seconds": time.perf_counter() - started,
            "torch": torch.__version__,
        }


def say(text: str, level: int, progress: bool | None, seconds: float) -> None:
    """Log a sentence, and print it where a progress bar would be shown."""
    log.log(level, text)
    if progress or (progress is None and seconds > 1.0 and sys.stderr.isatty()):
        print(f"genkernel: {text}", file=sys.stderr)


def _name(side: str, start: int, i: int) -> str:
    return f"sample {start + i} of {side}"

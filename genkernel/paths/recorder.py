"""``record()``: what every group of training samples did to chosen outputs, while a training loop runs unchanged.

Hooks around ``optimizer.step()`` read what the optimizer is about to do and what it did. The gradient of each group
(:mod:`genkernel.paths.objective`) goes through a buffer of its own (:mod:`genkernel.paths.grouped_state`), and the
increments it makes are turned into changes of the outputs (:mod:`genkernel.paths.integrator`). Three things are
verified in every step, and the recording stops, never the training, where one fails: the gradient that the optimizer
saw is one number times the sum over the groups; the increments of the sources sum to what the step did to the
weights; nothing else moved them in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, RecordingError, RecordingWarning
from genkernel.paths import agreement
from genkernel.paths.average import Average
from genkernel.paths.beside import Beside
from genkernel.paths.coordinates import Coordinates, optimized
from genkernel.paths.decomposition import PathDecomposition
from genkernel.paths.gathered import Gathered, Pending, gradients_gone
from genkernel.paths.grouped_state import GroupedState
from genkernel.paths.integrator import Integrator
from genkernel.paths.linear_step import Before, Number, Steps, unwrapped
from genkernel.paths.losses import LossFunction
from genkernel.paths.objective import Objective, sample_weights
from genkernel.paths.plain_module import plain_module
from genkernel.paths.quadrature import parse_rule
from genkernel.paths.queries import Queries
from genkernel.paths.recording_state import FILE, FORMAT, VERSION, check_state, copied, read_state, write_state
from genkernel.paths.sources import BEFORE, BUFFERS, DECAY, ROUNDING, Groups, Sources, labels_of
from genkernel.paths.windows import Windows
from genkernel.runs import versions
from genkernel.tangent import batches
from genkernel.tangent.model import Call
from genkernel.tangent.plan import parse_memory

# what a step may differ from the sum of its parts by, relative to its largest entry, beside rounding of the weights
_SHARE = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOOK_AGAIN = 64  # steps after which, at the latest, it is tried again whether samples of a batch see each other
_ROUNDING = 1e-12  # share of a step from which on rounding in its gradient is a source of its own


def record(
    model: Any,
    optimizer: Any,
    loss_fn: LossFunction,
    *,
    queries: Any,
    groups: Groups | None = None,
    query_call: Call | None = None,
    ema: Any = None,
    rule: str = "trapezoid",
    windows: int | Sequence[int] = 32,
    layers: bool = False,
    modules: Sequence[nn.Module] = (),
    store: str | Path | None = None,
    memory: str | int = "8GiB",
    verbose: bool = True,
) -> Recording:
    """Record a training loop that is not changed, apart from naming its batches.

    The outputs of the network at the queries change along training by exactly Σ_a C_a, where C_a sums what the
    gradients of source a did to them through the optimizer's momentum and preconditioner (the discrete, stochastic
    form of Domingos' path kernel formula; Guo, He, Morel, theorems 3.4-3.7). A part is conditional on the path that
    was taken and on the optimizer's second moments, which all samples share: it is **not** what deleting its samples
    would change.

    Args:
        model: the network that trains (or a :class:`TangentModel`, a denoiser, a generator around it).
        optimizer: SGD, RMSprop, Adam, AdamW or Adagrad of ``torch.optim``, with any parameter groups and schedulers.
        loss_fn: ``loss_fn(module, batch) -> Tensor[b]``: the training objective sample by sample, in the mode the
            network is in, deterministic given the batch (draw noise and timesteps outside, and put them into it).
            Its scale does not matter.
        queries: m inputs at which the outputs are followed, in evaluation mode.
        groups: ``groups(ids, batch)`` gives a label per sample ``[b]`` (numbers or strings); one group by default.
        query_call: ``query_call(module, queries) -> Tensor[m, *out]``, where the outputs are not the module's own: a
            logit, a direction, a loss on held-out data. Few scalars per query are cheaper.
        ema: averaged weights that the loop updates (``AveragedModel``, ``EMAModel``, …): then the outputs are those
            of the average.
        rule: ``"trapezoid"`` (second order, at the recorded weights), ``"midpoint"`` (second order, half the error;
            cheaper with batch normalisation), ``"adaptive"`` (the midpoint, with up to 4 nodes in the steps that need
            them; ``"adaptive32"`` with up to 32, for ReLU), ``"left"`` (the sum over kernels as in the literature,
            first order), ``"gauss4"`` and the like (exact to rounding on smooth networks).
        windows: into how many windows of time contributions are resolved at most, or the steps at which they start.
        layers: resolve them by layer.
        modules: other networks that ``loss_fn`` or ``query_call`` run (a discriminator), which are put back as they
            were. Modules that are called are found by themselves; this is for those that are run in other ways.
        store: a folder for :meth:`Recording.save`; a recording that is there is continued.
        memory: bound on what is held per group: two copies of the parameters, three with the trapezoid, three more
            with ``ema``, and beside them at most one per scalar that is followed.
        verbose: say in one line at the end what was recorded, and what it cost.

    Returns:
        A context manager; in it, ``path.batch(batch, ids=ids)`` names what the coming step is made of.

    Raises:
        InputError: an optimizer that is not supported, queries that do not fit, a recording in ``store`` that belongs
            to other weights.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        >>> x, y, label = torch.randn(32, 2), torch.randn(32, 1), torch.arange(32) % 4
        >>> def loss_fn(module, batch):
        ...     return (module(batch[0]) - batch[1]).square().mean(1)
        >>> with gk.record(net, optimizer, loss_fn, groups=lambda ids, batch: label[ids], queries=x[:3],
        ...                verbose=False) as path:
        ...     for step in range(10):
        ...         ids = torch.randperm(32)[:8]
        ...         path.batch((x[ids], y[ids]), ids=ids)
        ...         optimizer.zero_grad()
        ...         loss_fn(net, (x[ids], y[ids])).mean().backward()
        ...         optimizer.step()
        >>> parts = path.contributions()
        >>> parts.sources, parts.values.shape, parts.gap_rel < 0.01
        ([0, 1, 2, 3, 'rounding'], torch.Size([5, 3, 1]), True)
    """
    return Recording(
        model,
        optimizer,
        loss_fn,
        queries=queries,
        groups=groups,
        query_call=query_call,
        ema=ema,
        rule=rule,
        windows=windows,
        layers=layers,
        modules=modules,
        store=store,
        memory=memory,
        verbose=verbose,
    )


class Recording(Beside):
    """A recording in progress. Made by :func:`record`.

    Attributes:
        step: optimizer steps recorded.
        stopped: why the recording ended before the training did; None while it goes on.
        skipped: batches whose step was not taken (a gradient scaler's).
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss_fn: LossFunction,
        *,
        queries: Any,
        groups: Groups | None,
        query_call: Call | None,
        ema: Any,
        rule: str,
        windows: int | Sequence[int],
        layers: bool,
        modules: Sequence[nn.Module],
        store: str | Path | None,
        memory: str | int,
        verbose: bool,
    ):
        module, call = plain_module(model)
        if groups is not None and not callable(groups):
            raise InputError("groups is a function (ids, batch) -> labels [b]")
        self._parameters = optimized(module, unwrapped(optimizer))
        self._coordinates = Coordinates(self._parameters)
        self._steps = Steps(optimizer, self._parameters, self._coordinates)
        super().__init__("recording", self._steps.optimizer, self._coordinates.device)
        self._module, self._groups, self._verbose = module, groups, verbose
        self._rule = parse_rule(rule)
        self._objective = Objective(module, loss_fn, self._coordinates, modules)
        self._queries = Queries(module, self._coordinates, queries, query_call or call, layers, modules)
        self._state = GroupedState(self._coordinates)
        self._sources = Sources()
        self._theta = self._coordinates.flat(self._parameters)
        self._versions = {name: p._version for name, p in module.named_parameters() if name not in self._parameters}
        self._average = Average(module, ema, self._coordinates, self._theta) if ema is not None else None
        self._average_due = False
        self._integrator = Integrator(
            self._queries,
            self._rule,
            Windows(windows, len(self._queries.layers), self._queries.count, self._queries.shape),
            self._average.theta if self._average else self._theta,
            self._buffers(),
        )
        self._pending: Pending | None = None
        self._refused: NonFiniteError | None = None  # of a batch whose step may never come
        self._ended: tuple[Windows, Tensor, int] | None = None  # what the block came to, once it is left
        self._before: tuple[Before, dict[int, Tensor], Tensor] | None = None
        self._counted: dict[int, int] = {}  # samples of every source in the coming step
        self._store = Path(store) if store is not None else None
        self._memory = parse_memory(memory)
        self.skipped = 0
        self._step_error = self._gradient_error = 0.0
        if self._store is not None and (self._store / FILE).is_file():
            self._read_store(self._store / FILE)

    # ------------------------------------------------------------------------ in the loop

    def _at_start(self) -> None:
        """Momentum that is there already belongs to what was before."""
        if self.step:
            return
        held = self._steps.buffers()
        if any(b is not None and bool(b.any()) for b in held.values()):
            source = self._sources.extra(BEFORE)
            self._state.grow(len(self._sources))
            self._state.set_buffer(source, self._coordinates.flat(held))
        if self._average is not None and self._average.apart is not None:
            self._average.start(self._sources.extra(BEFORE))
            self._state.grow(len(self._sources))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._pending = self._before = self._refused = None
        if self._verbose and kind is None:
            print(self.describe())

    def batch(self, batch: Any, ids: Any = None, weight: float | Tensor | None = None) -> None:
        """Name a batch, or a micro-batch, of the coming step, before its forward pass.

        Args:
            batch: what ``loss_fn`` takes: a pytree of tensors with a leading sample axis b.
            ids: of the samples ``[b]``, for ``groups``; None where that does not need them.
            weight: of this micro-batch's mean loss among those of the step (all alike by default), or of every sample
                ``[b]``. Only ratios matter.

        Raises:
            InputError, NonFiniteError: before the first step only: the batch, the labels or the losses are not what
                they have to be. Later on the recording stops instead.
        """
        self._name(self.step == 0 and self._pending is None, lambda: self._add_batch(batch, ids, weight))

    def skip(self) -> None:
        """Forget the batches of a step that will not be taken."""
        self.skipped += self._pending is not None or self._refused is not None
        self._pending = self._refused = None

    def require_going(self) -> None:
        """End a loop that is run for its recording alone.

        Raises:
            RecordingError: the recording stopped.
        """
        if self.stopped is not None:
            raise RecordingError(f"the recording stopped after {self.step} steps: {self.stopped}")

    # ------------------------------------------------------------------------- afterwards

    def contributions(self, *, partial: bool = False) -> PathDecomposition:
        """What every source did to the outputs so far.

        Args:
            partial: of a recording that stopped, the steps until then; where it stopped in the middle of a step, until
                the last window of time that was closed.

        Raises:
            RecordingError: nothing was recorded, or the recording stopped.
        """
        if self.stopped is not None and not partial:
            raise RecordingError(
                f"the recording stopped after {self.step} steps: {self.stopped}. contributions(partial=True) gives "
                "what those steps did"
            )
        if not self.step:
            raise RecordingError("no step was recorded: call path.batch(batch, ids=ids) before each optimizer.step()")
        with self._clock.ours():
            windows, final, end = self._ended or self._so_far(partial)
        if not windows.edges:
            raise RecordingError(
                "no step was followed: it stopped within the first one, or the average has not moved yet"
            )
        net, gross = windows.stacked(len(self._sources))
        # labels of batches that no step was made of have no part
        order = [i for i in self._sources.order() if self._sources.counts[i] or not self._sources.is_data(i)]
        return PathDecomposition(
            sources=[self._sources.names[i] for i in order],
            net=net[:, order],
            gross=gross[:, order],
            layers=list(self._queries.layers),
            edges=[*windows.edges, end],
            outputs=torch.stack([*windows.outputs, final]),
            samples=torch.tensor([self._sources.counts[i] for i in order]),
            data=[self._sources.is_data(i) for i in order],
            meta=self._meta(),
        )

    def describe(self) -> str:
        """One line: steps, sources, cost."""
        groups = sum(self._sources.is_data(i) for i in range(len(self._sources)))
        line = (
            f"recorded {self.step} steps, {groups} groups, {self._queries.count} queries: "
            f"the loop took {1 + self.overhead:.2f}× its own time"
        )
        return line + (f"; stopped: {self.stopped}" if self.stopped else "")

    # ----------------------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Everything that continues the recording, beside the model's and the optimizer's own states."""
        if self._handles:
            self._guarded(self._settle)
        return copied(
            {
                "format": FORMAT,
                "version": VERSION,
                "coordinates": self._coordinates.describe(),
                "kind": self._steps.kind,
                "rule": self._rule.name,
                "windows": self._integrator.windows.setting,
                "queries": [self._queries.count, list(self._queries.shape), list(self._queries.layers)],
                "theta": self._theta,
                "buffers": {str(a): b for a, b in enumerate(self._state.buffers) if b is not None},
                "sources": self._sources.state(),
                "integrator": self._integrator.state(),
                "now": self._integrator.outputs(),
                "average": self._average.state() if self._average else None,
                "step": self.step,
                "skipped": self.skipped,
                "stopped": self.stopped,
                "errors": [self._step_error, self._gradient_error],
                "joint": self._objective.joint,
                "clock": self._clock.state(),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with model, average and optimizer as they were then.

        Raises:
            InputError: they are not, or the recording is of other queries or another rule.
        """
        check_state(state, self.state_dict())
        state = copied(state)
        self._sources.restore(state["sources"])
        self._state.buffers = []
        self._state.grow(len(self._sources))
        for a, buffer in state["buffers"].items():
            self._state.set_buffer(int(a), buffer.to(self._coordinates.device))
        self._check_buffers()
        self._integrator.restore(state["integrator"])
        if self._average is not None:
            self._average.restore(state["average"])
        self.step, self.skipped, self.stopped = int(state["step"]), int(state["skipped"]), state["stopped"]
        self._step_error, self._gradient_error = state["errors"]
        self._objective.joint = state["joint"]
        self._clock.restore(state["clock"])

    def save(self) -> Path:
        """Write the state into ``store``, atomically: beside every checkpoint of the training.

        Raises:
            RecordingError: the recording has no folder, or batches of the coming step are named already.
            OutputError: it cannot be written.
        """
        if self._store is None:
            raise RecordingError("give record(..., store='folder') to save the recording")
        if self._pending is not None:
            raise RecordingError("save() comes between two steps, before the next batch is named")
        return write_state(self._store, self.state_dict())

    def _read_store(self, path: Path) -> None:
        state = read_state(path)
        try:
            self.load_state_dict(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    # -------------------------------------------------------------------- parts of a step

    def _add_batch(self, batch: Any, ids: Any, weight: float | Tensor | None) -> None:
        if self._pending is None:  # before the next forward pass moves statistics
            self._follow_average(whether_or_not=False)
        if self._refused is not None and gradients_gone(self._parameters.values()):
            self._refused, self.skipped = None, self.skipped + 1  # the step of that batch was skipped
        n = batches.size(batch)
        numbers = self._sources.numbers(labels_of(self._groups, ids, batch, n))
        self._state.grow(len(self._sources))
        weights = sample_weights(weight, n)
        present = sorted(set(numbers.tolist()))
        self._check_memory()
        if self._pending is None and (self._integrator.windows.starts_at(self.step) or self.step % _LOOK_AGAIN == 0):
            self._objective.look_again()
        state = self._objective.random_state()

        def make() -> dict[int, Tensor]:
            return self._objective.group_gradients(batch, weights, numbers, present, state)

        try:
            gradients = make()
        except NonFiniteError as error:
            if self.step == 0 and self._pending is None:
                raise
            self._refused = error  # the loop may see it too, and skip the step
            return
        new = Gathered(gradients, {a: int((numbers == a).sum()) for a in present}, (make,))
        if self._pending is None:
            self._pending = Pending(new)
        else:
            self._pending.add(new, gradients_gone(self._parameters.values()))

    def _check_memory(self) -> None:
        """What is held per source at the peak, in copies of the parameters."""
        # gradient and buffer; half increments; displacement, average and increment
        copies = 2 + self._rule.telescopes + 3 * (self._average is not None)
        vectors = copies * len(self._sources) + self._queries.held(len(self._sources))
        needed = vectors * self._coordinates.size * self._coordinates.dtype.itemsize
        if needed > self._memory:
            from genkernel.tangent.forecast import size

            raise InputError(
                f"{len(self._sources)} groups of {self._coordinates.size:,} parameters take {size(needed)}, "
                f"more than memory={size(self._memory)}: form fewer groups, or tape the run (gk.tape) and "
                "replay it, which needs nothing per group"
            )

    def _look(self) -> None:
        """Before ``step()``: the gradient that it will use, against the groups."""
        self._before = None
        self._follow_average(whether_or_not=True)
        self._check_others()
        now = self._coordinates.flat(self._parameters)
        if not torch.equal(now, self._theta):
            raise RecordingError(self._moved_outside(now))
        pending, self._pending = self._pending, None
        refused, self._refused = self._refused, None
        if pending is None and refused is None:
            raise RecordingError(
                "optimizer.step() was called without path.batch(batch, ids=ids) since the step before, so what its "
                "gradient is made of is unknown"
            )
        grad = self._coordinates.flat({name: p.grad for name, p in self._parameters.items()})
        scale = getattr(self._steps.optimizer, "grad_scale", None)
        if scale is not None:  # fused optimizers divide by it inside of the step
            grad = grad / scale.to(grad)
        if not torch.isfinite(grad).all():
            if getattr(self._steps.optimizer, "found_inf", None) is not None:
                self.skipped += 1
                return
            raise refused or RecordingError("the gradient holds NaN or infinite entries")
        if pending is None:
            assert refused is not None
            raise refused
        self._before = self._steps.before(), *self._sourced(grad, pending)

    def _sourced(self, grad: Tensor, pending: Pending) -> tuple[dict[int, Tensor], Tensor]:
        """Source → data gradient ``[P]``, and what rounding leaves between their sum and the optimizer's ``[P]``."""
        coarse = self._objective.others.coarse  # autocast
        allowed = agreement.COARSE if coarse else agreement.tolerance(self._coordinates.coarsest)
        found, chosen, total = self._best(grad, pending.choices(), allowed)
        if found.error > allowed and not self._objective.joint:
            # a network may begin to draw random numbers, or to let samples see each other, at any time
            self._objective.joint = True
            remade = [choice.remade() for choice in pending.choices()]
            again = self._best(grad, remade, allowed)
            self._objective.joint = again[0].error <= allowed
            if self._objective.joint:
                found, chosen, total = again
                pending = Pending(chosen)
        if found.error > allowed:
            raise RecordingError(
                f"the optimizer's gradient is not a multiple of the sum over the groups (off by {found.error:.1%}): "
                "loss_fn and the loss of the training differ by more than a factor; or the batch is not the one that "
                "was trained on, or was named twice; or random numbers (torch's, NumPy's, Python's) were drawn between "
                "path.batch() and the forward pass, or by loss_fn itself; or micro-batches count differently "
                "(weight=); or parts of the network are clipped by themselves; or the loop's autocast is not in loss_fn"
            )
        self.skipped += chosen is not pending.total
        self._gradient_error = max(self._gradient_error, found.error)
        self._counted = chosen.counts
        # in place: nothing else needs them any more
        return {a: g.mul_(found.factor) for a, g in chosen.gradients.items()}, grad - total * found.factor

    def _best(
        self, grad: Tensor, choices: Iterable[Gathered], allowed: float
    ) -> tuple[agreement.Agreement, Gathered, Tensor]:
        """The first of some micro-batches that the gradient follows from, or the nearest."""
        best: tuple[agreement.Agreement, Gathered, Tensor] | None = None
        for choice in choices:
            total = torch.zeros_like(grad)
            for g in choice.gradients.values():
                total.add_(g)
            found = agreement.compare(grad, total, allowed)
            if best is None or found.error < best[0].error:
                best = found, choice, total
            if found.error <= allowed:
                break
        assert best is not None
        return best

    def _take(self) -> None:
        """After ``step()``: split it, and follow the outputs."""
        if self._before is None:
            return
        (before, gradients, rest), self._before = self._before, None
        found_inf = getattr(self._steps.optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf):
            self.skipped += 1
            return
        theta = self._coordinates.flat(self._parameters)
        steps = self._steps.after(before)
        decay = self._sources.extra(DECAY) if any(s.coupled or s.decoupled for s in steps) else None
        # adaptive optimizers enlarge coordinates whose gradient is rounding alone (a bias before a normalisation)
        enlarged = max((float((rest[s.part] * (s.p * s.rho + s.q)).abs().max()) for s in steps), default=0.0)
        smallest = max(_ROUNDING, 10 * torch.finfo(theta.dtype).eps)
        # at a learning rate of 0 it waits in the momentum, and nothing says how large later steps will make it
        resting = any(s.buffered and not _any(s.p) for s in steps)
        if resting or enlarged > smallest * float((theta - self._theta).abs().max()):
            gradients[self._sources.extra(ROUNDING)] = rest
        self._state.grow(len(self._sources))
        self._state.advance(steps, gradients, self._theta, decay)
        del gradients, rest
        self._check_step(theta)
        for a, count in self._counted.items():
            self._sources.counts[a] += count
        if self._average is None:
            self._advance(theta, self._state.increment)
        else:
            for a in range(len(self._sources)):
                increment = self._state.increment(a)
                if increment is not None:
                    self._average.displace(a, increment)
            self._average_due = True
        self._theta, self.step = theta, self.step + 1

    def _advance(self, theta: Tensor, increments: Callable[[int], Tensor | None], further: bool = False) -> None:
        sources = len(self._sources)
        buffers, self._ended = self._buffers(), None
        self._integrator.advance(theta, buffers, increments, sources, lambda: self._sources.extra(BUFFERS), further)

    def _follow_average(self, whether_or_not: bool) -> None:
        """Loops update averages after the step, so it is looked at before the next one.

        Args:
            whether_or_not: it moved; False leaves an update that is still to come for later.
        """
        if self._average is None or not (self._average_due or self._integrator.step):
            return
        if not (self._average_due and whether_or_not) and not self._average.moved():
            return
        # loops also update it where they took no step
        further, self._average_due = not self._average_due, False
        theta = self._average.update(self._theta)
        self._advance(theta, self._average.increment, further)

    def _settle(self) -> None:
        """Take in what happened since the last step, in the middle of the loop."""
        if self._pending is not None:  # their forward pass may have moved statistics, which belongs to the coming step
            return
        self._follow_average(whether_or_not=False)
        if self._integrator.step and not self._average_due:  # statistics go with the average's next step
            self._ended = None
            self._integrator.set_buffers(self._buffers(), lambda: self._sources.extra(BUFFERS))

    def _at_end(self) -> None:
        self._pending = None  # no step will come of it, and statistics stay where its forward pass left them
        self._follow_average(whether_or_not=True)
        self._settle()
        if self.step:
            self._integrator.check()
            self._check_others()
            self._ended = self._integrator.finish()  # later on the network may be anything
        if self._average is not None and self.step and not self._average.followed:
            warnings.warn(
                f"the averaged weights never moved in {self.step} steps: ema= is not what the loop updates, or is "
                "updated after the with-block alone",
                RecordingWarning,
                stacklevel=4,
            )

    def _so_far(self, partial: bool) -> tuple[Windows, Tensor, int]:
        """The windows, f at their end, and the step that this is, in the middle of the loop."""
        live: dict[str, Tensor] | None = None
        if self.stopped is None and self._pending is None:
            self._guarded(lambda: self._follow_average(whether_or_not=False))
            if self._integrator.step and not self._average_due:
                live = self._buffers()
        return self._integrator.finish(partial, live, lambda: self._sources.extra(BUFFERS))

    def _let_go(self) -> None:
        self._pending = self._before = self._refused = None
        if not self.step or self._ended is not None:
            return
        try:
            self._check_others()
        except RecordingError:
            self._integrator.give_up()
        with suppress(Exception):  # where nothing is whole, it is said when it is asked for
            self._ended = self._integrator.finish(partial=True)

    def _buffers(self) -> dict[str, Tensor]:
        if self._average is not None:
            return self._average.buffers()
        return {name: b.detach() for name, b in self._module.named_buffers()}

    # ----------------------------------------------------------------------------- checks

    def _check_step(self, theta: Tensor) -> None:
        moved = theta - self._theta
        total, sizes = self._state.total_increment()
        rest = (moved - total).abs_()
        off, largest = float(rest.max()), float(moved.abs().max())
        coarsest = self._coordinates.coarsest
        # weights are rounded by what is relative to each of them, and groups that cancel by what is to their sizes
        allowed = theta.abs().add_(sizes).mul_(8 * torch.finfo(coarsest).eps)
        allowed.add_(_SHARE.get(coarsest, 0.1) * largest)
        if not bool((rest <= allowed).all()):
            raise RecordingError(
                f"the increments of the sources do not sum to what the step did (off by {off:.1e} of {largest:.1e}): "
                "the optimizer's step is not that of its class, its state was lost or replaced, or something else "
                "moved the weights during it"
            )
        self._step_error = max(self._step_error, off)
        if torch.finfo(coarsest).bits < 32:  # weights are rounded by as much as they move
            self._state.grow(self._sources.extra(ROUNDING) + 1)
            self._state.set_remainder(self._sources.extra(ROUNDING), moved - total)

    def _check_others(self) -> None:
        """Only the recorded parameters move."""
        held = {id(p) for group in self._steps.optimizer.param_groups for p in group["params"]}
        for name, p in self._module.named_parameters():
            if name in self._parameters:
                continue
            if id(p) in held:
                raise RecordingError(f"parameter {name!r} was added to the optimizer after the recording began")
            if p._version != self._versions.get(name):
                raise RecordingError(
                    f"parameter {name!r} is not the recorded optimizer's, and moved: outputs change with it, and no "
                    "source has a part in that"
                )

    def _check_buffers(self) -> None:
        """The optimizer's momentum is the sum of the sources'."""
        held = self._steps.buffers()
        if any(b is None for b in held.values()):
            if (
                any(b is not None and bool(b.any()) for b in self._state.buffers)
                and all(b is None for b in held.values())
                and self._steps.kind == "adam"
            ):
                raise InputError("the optimizer has no state: load its state of the step the recording was saved at")
            return
        own = self._coordinates.flat(held)
        off = float((self._state.total_buffer() - own).norm())
        if off > 1e-2 * float(own.norm()):
            raise InputError("the optimizer's momentum is not that of the recording: load its state of that step")

    def _moved_outside(self, now: Tensor) -> str:
        moved = (name for name, part in self._coordinates.parts() if not torch.equal(now[part], self._theta[part]))
        return (
            f"parameter {next(moved)!r} was changed outside of the optimizer between two steps (clipped, "
            "renormalised, loaded or tied?): the increments no longer add up to the path"
        )

    def _meta(self) -> dict[str, Any]:
        device = self._coordinates.device
        return {
            "optimizer": type(self._steps.optimizer).__name__,
            "rule": self._rule.name,
            "steps": self.step,
            "evaluations": self._integrator.evaluations,
            "skipped": self.skipped,
            "stopped": self.stopped,
            "parameters": self._coordinates.size,
            "dtype": str(self._coordinates.dtype).removeprefix("torch."),
            "device": str(device),
            "average": self._average is not None,
            "joint_batches": self._objective.joint,
            "autocast": self._objective.others.coarse,
            "step_error": self._step_error,
            "gradient_error": self._gradient_error,
            "seconds": self._clock.spent,
            "overhead": self.overhead,
            "versions": versions(),
        }


def _any(number: Number) -> bool:
    """Anything in it is not zero."""
    return bool(number.any()) if isinstance(number, Tensor) else number != 0

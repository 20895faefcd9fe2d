"""``replay()``: a taped training run again, backwards, for what every single sample did to every query.

The optimizer's memory is put on the side of the queries. With the linear form of a step
(:mod:`genkernel.paths.linear_step`) and the rows J̄_k of the queries' mean Jacobian, one row per scalar output,

    Λ_k = α_{k+1} Λ_{k+1} - J̄_k p_k        what the first-moment buffer of step k still does
    A_k = Λ_k ρ_k - J̄_k q_k               what its gradient does
    C_{i,k} = A_k c_k ∇ℓ_i                 sample i of step k, with the factor c_k between loss and gradient

from the last step to the first, so that memory grows with the number of rows and not of samples. The weights are needed
in reverse order: stretches between two copies of the tape are run again one at a time.
"""

from __future__ import annotations

import copy as copying
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from genkernel.errors import InputError, RecordingError
from genkernel.paths.agreement import COARSE, tolerance
from genkernel.paths.coordinates import Coordinates
from genkernel.paths.linear_step import LinearStep, Steps
from genkernel.paths.losses import LossFunction
from genkernel.paths.objective import Objective, sample_weights
from genkernel.paths.plain_module import plain_module
from genkernel.paths.quadrature import Rule, parse_rule
from genkernel.paths.queries import Queries
from genkernel.paths.replayed import Array, Replay
from genkernel.paths.sample_products import sample_products
from genkernel.paths.sources import BEFORE, BUFFERS, DECAY
from genkernel.paths.taped import Taped
from genkernel.paths.taped_gradients import TapedGradients
from genkernel.runs import versions
from genkernel.tangent import batches
from genkernel.tangent.model import Call
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.spool import Spool

_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")  # how a step is computed, not what
_DRIFT = {torch.float64: 1e-8, torch.float32: 5e-3}  # of weights over a stretch, relative to what they moved


def replay(
    folder: str | Path,
    model: Any,
    batch_of: Callable[..., Any],
    loss_fn: LossFunction,
    *,
    queries: Any,
    query_call: Call | None = None,
    rule: str = "trapezoid",
    layers: bool = False,
    memory: str | int = "4GiB",
    progress: bool | None = None,
) -> Replay:
    """Run a tape again and decompose the outputs at the queries into what every visit of a sample did.

    As for :func:`genkernel.record`, a contribution is conditional on the path and on the preconditioner: **not** what
    leaving the sample out would change.

    Args:
        folder: of :func:`genkernel.tape`.
        model: a network of the taped structure, in the mode that it trained in; a copy of it is run.
        batch_of: ``batch_of(ids, **extras)`` makes the batch that the tape names, for ``loss_fn``.
        loss_fn: as for :func:`genkernel.record`.
        queries, query_call, layers: likewise. One row in parameter space is held per query and scalar output: few of
            them are cheap, images are not.
        rule: for the mean Jacobian of a step, likewise.
        memory: for the weights and coefficients of one stretch; beyond it they wait in files.
        progress: show a progress bar (by default in a terminal).

    Raises:
        MissingError, InputError: the tape is not whole, or belongs to another network.
        RecordingError: a replayed gradient or the weights at the next copy are not the tape's: the data behind the ids
            have changed, or the loss is not the one that was trained.
    """
    chosen = parse_rule(rule)
    if chosen.finer is not None:
        raise InputError("a replay runs backwards and cannot see what a step misses: take rule='gauss2' or 'gauss4'")
    return _Replayer(
        Taped(folder), model, batch_of, loss_fn, queries, query_call, chosen, layers, parse_memory(memory)
    ).run(progress)


@dataclass
class _Step:
    """One step of the stretch that is at hand."""

    linear: list[LinearStep]
    batches: list[tuple[dict[str, Any], Tensor]]  # what the tape says, and the weight of every sample
    factor: float
    frozen: list[slice]  # coordinates that no sample has a part in, though a step may move them


class _Replayer:
    def __init__(
        self,
        taped: Taped,
        model: Any,
        batch_of: Callable[..., Any],
        loss_fn: LossFunction,
        queries: Any,
        query_call: Call | None,
        rule: Rule,
        layers: bool,
        memory: int,
    ):
        module, call = plain_module(model)
        self._taped, self._batch_of, self._rule, self._memory = taped, batch_of, rule, memory
        self._module = copying.deepcopy(module)
        named = dict(self._module.named_parameters())
        wanted = taped.head["coordinates"]
        if [[n, list(named[n].shape)] for n, _ in wanted if n in named] != wanted:
            raise InputError(f"{taped.folder} is the tape of another model (names or shapes of its parameters differ)")
        self._parameters = {name: named[name] for name, _ in wanted}
        for name, value in taped.copy(0)["parameter"].items():
            if value.dtype != named[name].dtype:
                raise InputError(
                    f"the tape's weights are {value.dtype} and the model's are {named[name].dtype} ({name!r}): a "
                    "replay runs in the precision of the run"
                )
        self._coordinates = Coordinates(self._parameters)
        self._objective = Objective(self._module, loss_fn, self._coordinates, [])
        self._load(0)
        self._queries = Queries(self._module, self._coordinates, queries, query_call or call, layers)
        self._taped_gradients = TapedGradients(self._coordinates)
        self._rows = self._queries.count * self._queries.scalars
        self._shape = (len(self._queries.layers), self._queries.count, *self._queries.shape)
        self._columns = self._queries.columns
        self._extras: list[str] | None = None

    def run(self, progress: bool | None) -> Replay:
        stretches = list(pairwise(self._taped.copies))
        zeros = torch.zeros(self._rows, self._coordinates.size, dtype=self._coordinates.dtype)
        self._carry = zeros.to(self._coordinates.device)
        self._others: dict[str, Array] = {}
        self._end: Tensor | None = None  # rows at the end of a step, which are those at the start of the next
        visits: list[tuple[int, dict[str, Any], Array]] = []
        outputs = {self._taped.steps: self._outputs_at(self._taped.steps)}
        self._gap_of_weights = 0.0
        with tqdm(
            total=2 * self._taped.steps, disable=None if progress is None else not progress, desc="replay"
        ) as bar:
            if self._rule.telescopes:
                self._end = self._queries.jacobian(*self._state_at(self._taped.steps))
            for first, last in reversed(stretches):
                with Spool(self._memory) as spool:
                    steps = self._forward(first, last, spool, bar)
                    visits += self._backward(first, steps, spool, bar)
                outputs[first] = self._outputs_at(first)
        self._before_the_first()
        visits.reverse()
        return self._gathered(visits, [outputs[step] for step in self._taped.copies])

    # ---------------------------------------------------------------------- forward in time

    def _forward(self, first: int, last: int, spool: Spool, bar: Any) -> list[_Step]:
        """Run a stretch; θ, buffers and coefficients of its steps wait in the spool."""
        arrays, taped = self._taped.stretch(first)
        optimizer = self._load(first)
        steps = Steps(optimizer, self._parameters, self._coordinates)
        by_step: dict[int, list[dict[str, Any]]] = {}
        for row in taped:
            extras = sorted(name for name in row if name.startswith("extra:"))
            self._extras = extras if self._extras is None else self._extras
            if extras != self._extras:
                raise InputError(
                    f"the tape says {_named(extras)} of the batches of step {int(row['step'])}, and "
                    f"{_named(self._extras)} of others: it was continued with other names"
                )
            by_step.setdefault(int(row["step"]), []).append(row)
        found = []
        theta = self._coordinates.flat(self._parameters)
        moved = 0.0
        for number, step in enumerate(range(first, last)):
            held = {"theta": theta.cpu()}
            buffers = {f"buffer:{n}": b.detach().cpu().clone() for n, b in self._module.named_buffers()}
            self._set_options(optimizer, [arrays[f"options/{g}"][number] for g in range(len(optimizer.param_groups))])
            active = dict(zip(self._coordinates.names, arrays["active"][number].tolist(), strict=True))
            trained = arrays["trained"][number].tolist()
            for p, was in zip(self._parameters.values(), trained, strict=True):
                p.requires_grad_(was)
            chosen, gradient, factor = self._gradient(step, by_step.get(step, []), arrays, number)
            for name, view in self._coordinates.views(gradient * factor).items():
                self._parameters[name].grad = view.to(self._parameters[name].dtype).clone() if active[name] else None
            before = steps.before()
            optimizer.step()
            linear = steps.after(before)
            for k, one in enumerate(linear):
                for key in ("rho", "p", "q"):
                    value = getattr(one, key)
                    if isinstance(value, Tensor):
                        held[f"{key}:{k}"] = value.cpu()
                        setattr(one, key, math.nan)
            if isinstance(factor, Tensor):
                held["factor"] = factor.cpu()
                factor = 1.0
            spool.put(str(number), {**held, **buffers})
            frozen = [part for part, was in zip(self._coordinates.slices, trained, strict=True) if not was]
            found.append(_Step(linear, chosen, factor, frozen))
            now = self._coordinates.flat(self._parameters)
            moved += float((now - theta).double().norm())
            theta = now
            bar.update()
        for p in self._parameters.values():
            p.requires_grad_(True)
        after = {f"buffer:{n}": b.detach().cpu().clone() for n, b in self._module.named_buffers()}
        spool.put("end", {"theta": theta.cpu(), **after})
        saved = self._taped.copy(last)
        for name, buffer in self._module.named_buffers():
            # the forward pass of the step that comes next may have moved them already at the end of the tape
            if last != self._taped.steps and not torch.allclose(
                buffer.double(), saved["buffer"][name].to(buffer).double(), rtol=1e-3, atol=1e-6
            ):
                raise RecordingError(
                    f"the replay of steps {first} to {last} ends with another buffer {name!r} than the tape: forward "
                    "passes beside those of the steps moved running statistics (a discriminator's step through a "
                    "generator in training mode). gk.record follows such runs"
                )
        expected = self._coordinates.flat(saved["parameter"])
        off = float((expected - theta).double().norm()) / max(moved, 1e-300)
        self._gap_of_weights = max(self._gap_of_weights, off)
        if off > _DRIFT.get(theta.dtype, 0.1):
            raise RecordingError(
                f"the replay of steps {first} to {last} ends {off:.1%} of its length away from the tape's weights: "
                "something else than the optimizer moved them, or the hyperparameters of the run are not the tape's"
            )
        made, kept = (self._coordinates.flat(one) for one in (steps.buffers(), steps.buffers_in(saved["state"])))
        if float((made - kept).double().norm()) > 0.1 * float(made.double().norm()):
            raise RecordingError(
                f"the optimizer's momentum at step {last} of the tape is not what the steps before made it: its state "
                "was lost or replaced there"
            )
        return found

    def _gradient(
        self, step: int, made_of: list[dict[str, Any]], arrays: Mapping[str, Any], number: int
    ) -> tuple[list[tuple[dict[str, Any], Tensor]], Tensor, float | Tensor]:
        """The gradient of the batches that a step was made of, and the number between it and the optimizer's."""
        parts: list[tuple[dict[str, Any], Tensor, Tensor]] = []
        for row in made_of:
            batch, weights = self._batch(row)
            with self._objective.training(row["random"]):
                tensors = self._objective.model.tensors()
                losses = self._objective.losses(tensors, batch)
                gradient = self._objective.pull(tensors, losses, weights)
                buffers = {name: tensors[name] for name, _ in self._module.named_buffers()}
            with torch.no_grad():  # the forward pass wrote to stand-ins of the running statistics
                for name, buffer in self._module.named_buffers():
                    buffer.copy_(buffers[name])
            parts.append((row, weights, gradient))
        since = max((i for i, row in enumerate(made_of) if bool(row["gone"])), default=0)
        worst = math.inf
        allowed = COARSE if self._objective.others.coarse else 10 * tolerance(self._coordinates.coarsest)
        for begin in dict.fromkeys((0, since, len(parts) - 1)):
            total = sum((g for _, _, g in parts[begin:]), torch.zeros_like(parts[0][2]))
            found = self._taped_gradients.compare(total, arrays, number, allowed)
            if found.error <= allowed:
                return [(row, weights) for row, weights, _ in parts[begin:]], total, found.factor
            worst = min(worst, found.error)
        raise RecordingError(
            f"the gradient of step {step} is not the tape's (off by {100 * worst:.2g} %): the data behind its ids have "
            "changed, batch_of does not make the batch that was trained on, loss_fn is another loss or draws from a "
            "random generator that the network does not hold, the network is not in the mode that it trained in (a "
            "dropout rate that changed on the way), the optimizer's state was replaced before this step, or gradients "
            "were clipped part by part (one factor for all of them, and clipping by value, can be replayed)"
        )

    # --------------------------------------------------------------------- backward in time

    def _backward(
        self, first: int, steps: list[_Step], spool: Spool, bar: Any
    ) -> list[tuple[int, dict[str, Any], Array]]:
        visits = []
        after = spool.take("end")
        for number in reversed(range(len(steps))):
            held, step = spool.take(str(number)), first + number
            theta, buffers = self._unpacked(held)
            theta_after, buffers_after = self._unpacked(after)
            rows = self._mean_rows(theta, buffers, theta_after, buffers_after)
            self._buffers_moved(step, theta_after, buffers, buffers_after)
            drive = self._transposed(steps[number].linear, held, rows, theta, step)
            if "factor" in held:  # clipping by value
                drive *= held["factor"].to(drive)
            for part in steps[number].frozen:
                drive[:, part] = 0.0
            for row, weights in reversed(steps[number].batches):
                values = self._samples(row, weights, drive, theta, buffers, steps[number])
                visits.append((step, row, values))
            after = held
            bar.update()
        return visits

    def _transposed(
        self, linear: list[LinearStep], held: Mapping[str, Tensor], rows: Tensor, theta: Tensor, step: int
    ) -> Tensor:
        """A_k with the sign of the data gradient ``[R, P]``; decay's own part is taken on the way."""
        drive = torch.zeros_like(rows)
        for k, s in enumerate(linear):
            rho, p, q = (
                held[f"{key}:{k}"].to(theta.device) if f"{key}:{k}" in held else getattr(s, key)
                for key in ("rho", "p", "q")
            )
            J, own = rows[:, s.part], torch.zeros_like(rows[:, s.part])
            if s.buffered:
                kept = self._carry[:, s.part] - J * p
                own = kept * rho
                self._carry[:, s.part] = kept * s.alpha
            own = own - J * q
            drive[:, s.part] = own * s.sign
            if s.coupled or s.decoupled:
                pulled = torch.zeros_like(drive[:, s.part])
                if s.coupled:
                    pulled += own * s.coupled
                if s.decoupled:
                    pulled -= J * s.decoupled
                self._add_other(DECAY, step, pulled * theta[s.part], s.part)
        return drive

    def _samples(
        self,
        row: dict[str, Any],
        weights: Tensor,
        drive: Tensor,
        theta: Tensor,
        buffers: Mapping[str, Tensor],
        step: _Step,
    ) -> Array:
        """Contributions ``[b, L, m, *out]`` of the samples of a micro-batch."""
        batch, _ = self._batch(row)
        model = self._objective.model.at({**self._coordinates.views(theta), **buffers}, strict=False)
        random = row["random"] if len(row["random"]) else None
        self._objective.look_again()  # samples may see each other in some batches only
        with self._objective.training():
            products = sample_products(
                self._objective, model, batch, drive, self._columns, len(self._queries.layers), random
            )
        scaled = products * (weights.to(products) * step.factor)[:, None, None]
        return self._by_query(scaled.cpu().numpy())

    # ------------------------------------------------------------------------------- parts

    def _batch(self, row: Mapping[str, Any]) -> tuple[Any, Tensor]:
        extras = {name.removeprefix("extra:"): value for name, value in row.items() if name.startswith("extra:")}
        ids = row["ids"]
        given = torch.from_numpy(ids.copy()) if ids.dtype.kind in "iub" else ids
        tensors = {
            name: torch.from_numpy(np.array(value)) if value.dtype.kind != "U" else value
            for name, value in extras.items()
        }
        weight = torch.from_numpy(row["weight"].copy()) if "weight" in row else None
        try:
            batch = self._batch_of(
                given, **{n: v.item() if getattr(v, "ndim", 1) == 0 else v for n, v in tensors.items()}
            )
        except Exception as error:
            raise InputError(f"batch_of(ids, …) failed for the batch of step {int(row['step'])}: {error}") from error
        if batches.size(batch) != len(ids):
            raise InputError(
                f"batch_of(ids, …) made {batches.size(batch)} samples of {len(ids)} ids, for the batch of step "
                f"{int(row['step'])}"
            )
        return batches.move(batch, self._coordinates.device), sample_weights(weight, len(ids))

    def _mean_rows(
        self, theta: Tensor, buffers: Mapping[str, Tensor], theta_after: Tensor, buffers_after: Mapping[str, Tensor]
    ) -> Tensor:
        """Rows of J̄ ``[R, P]`` by the rule."""
        total, end = torch.zeros_like(self._carry), self._end
        for node, weight in zip(self._rule.nodes, self._rule.weights, strict=True):
            if node == 1.0 and end is not None and all(torch.equal(b, buffers_after[n]) for n, b in buffers.items()):
                total.add_(end, alpha=weight)
                continue
            at = torch.lerp(theta, theta_after, node)
            here = self._queries.jacobian(at, buffers)
            total.add_(here, alpha=weight)
            if node == 0.0 and self._rule.telescopes:
                self._end = here
        return total

    def _buffers_moved(
        self, step: int, theta: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
    ) -> None:
        if all(torch.equal(value, after[name]) for name, value in before.items()):
            return
        change = self._queries.outputs(theta, after) - self._queries.outputs(theta, before)
        value = np.zeros(self._shape)
        value[-1] = change.numpy()
        self._others.setdefault(BUFFERS, np.zeros((self._taped.steps, *self._shape)))[step] += value

    def _before_the_first(self) -> None:
        """Momentum that was there before the tape."""
        optimizer = self._load(0)
        held = Steps(optimizer, self._parameters, self._coordinates).buffers()
        if any(b is not None and bool(b.any()) for b in held.values()):
            self._add_other(BEFORE, 0, self._carry * self._coordinates.flat(held), slice(0, self._coordinates.size))

    def _add_other(self, name: str, step: int, products: Tensor, part: slice) -> None:
        """Add Σ over coordinates of products ``[R, c]``, by layer."""
        by_layer = np.zeros((1, len(self._queries.layers), self._rows))
        for layer, columns in self._columns.items():
            for own in columns:
                begin, end = max(own.start, part.start), min(own.stop, part.stop)
                if begin < end:
                    by_layer[0, layer] += (
                        products[:, begin - part.start : end - part.start].double().sum(1).cpu().numpy()
                    )
        found = self._others.setdefault(name, np.zeros((self._taped.steps, *self._shape)))
        found[step] += self._by_query(by_layer)[0]

    def _by_query(self, values: Array) -> Array:
        """``[b, L, R]`` → ``[b, L, m, *out]``."""
        return values.reshape(len(values), *self._shape)

    def _unpacked(self, held: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        device = self._coordinates.device
        buffers = {n.removeprefix("buffer:"): b.to(device) for n, b in held.items() if n.startswith("buffer:")}
        return held["theta"].to(device), buffers

    def _state_at(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        saved = self._taped.copy(step)
        device = self._coordinates.device
        return (
            self._coordinates.flat({n: t.to(device) for n, t in saved["parameter"].items()}),
            {n: t.to(device) for n, t in saved["buffer"].items()},
        )

    def _outputs_at(self, step: int) -> Array:
        return self._queries.outputs(*self._state_at(step)).numpy()

    def _load(self, step: int) -> torch.optim.Optimizer:
        """The network and an optimizer as they were before a step."""
        saved = self._taped.copy(step)
        with torch.no_grad():
            for name, p in self._module.named_parameters():
                p.copy_(saved["parameter"].get(name, saved["frozen"].get(name, p)))
            for name, b in self._module.named_buffers():
                if name in saved["buffer"]:
                    b.copy_(saved["buffer"][name])
        groups = [
            {**group["options"], "params": [self._parameters[name] for name in group["parameters"]]}
            for group in self._taped.head["groups"]
        ]
        for group in groups:
            for flag in _IMPLEMENTATION:
                group.pop(flag, None)
            if "betas" in group:
                group["betas"] = tuple(group["betas"])
        kind = getattr(torch.optim, self._taped.head["optimizer"])
        optimizer: torch.optim.Optimizer = kind(groups)
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in saved["state"].items():
            entry, _, name = key.partition(":")
            state.setdefault(name, {})[entry] = value
        for name, held in state.items():
            p = self._parameters[name]
            optimizer.state[p] = {k: v.clone() if k == "step" else v.to(p.device) for k, v in held.items()}
        return optimizer

    def _set_options(self, optimizer: torch.optim.Optimizer, rows: Sequence[NDArray[np.float64]]) -> None:
        for group, taped, row in zip(optimizer.param_groups, self._taped.head["groups"], rows, strict=True):
            for name, value in zip(taped["numbers"], row.tolist(), strict=True):
                key, _, index = name.partition(":")
                if key in _IMPLEMENTATION:
                    continue
                if index:
                    pair = list(group[key])
                    pair[int(index)] = value
                    group[key] = tuple(pair)
                else:
                    group[key] = bool(value) if isinstance(group[key], bool) else value

    def _gathered(self, visits: list[tuple[int, dict[str, Any], Array]], outputs: list[Array]) -> Replay:
        extras: dict[str, NDArray[Any]] = {}
        for name in [key for key in visits[0][1] if key.startswith("extra:")]:
            found = [np.broadcast_to(row[name], (len(row["ids"]), *row[name].shape[1:])) for _, row, _ in visits]
            extras[name.removeprefix("extra:")] = np.concatenate(found)
        return Replay(
            ids=np.concatenate([row["ids"] for _, row, _ in visits]),
            steps=np.concatenate([np.full(len(row["ids"]), step) for step, row, _ in visits]),
            extras=extras,
            values=np.concatenate([values for _, _, values in visits]),
            others=self._others,
            layers=list(self._queries.layers),
            copies=list(self._taped.copies),
            outputs=np.stack(outputs),
            meta={
                "optimizer": self._taped.head["optimizer"],
                "rule": self._rule.name,
                "steps": self._taped.steps,
                "parameters": self._coordinates.size,
                "dtype": str(self._coordinates.dtype).removeprefix("torch."),
                "replayed": True,
                "weights_off": self._gap_of_weights,
                "versions": versions(),
            },
        )


def _named(extras: Sequence[str]) -> str:
    return ", ".join(name.removeprefix("extra:") for name in extras) or "nothing"

"""``plan()``: what a kernel would take, before hours are spent on it.

The model is proved and the plan is made as ``kernel()`` does it; nothing is computed. Where the time
would go is read off the same cost model that chooses the contractions (:mod:`genkernel.tangent.costs`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import costs
from genkernel.tangent.call import Call, Grouping
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import guarded
from genkernel.tangent.plan import Plan, gemm_rate
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.preconditioner import Preconditioner
from genkernel.tangent.projection import Projection
from genkernel.tangent.stash import compact

#: layers that a description names
NAMED = 12


@dataclass(frozen=True)
class Contraction:
    """How the gradients of one parameter would be multiplied.

    Attributes:
        parameter: its name. ``layer``: the module that owns it.
        route: "materialised", "ghost", "shifted ghost", "unfolded ghost", or "generic" for gradients that are
            made one sample at a time through the user's forward.
        entries: of the parameter.
        seconds: expected for the products alone, on one worker.
    """

    parameter: str
    layer: str
    route: str
    entries: int
    seconds: float


@dataclass(frozen=True)
class _Row:
    """Layers that are alike: a line of a table."""

    name: str
    kinds: str
    count: int
    entries: int
    share: float


@dataclass(frozen=True)
class Forecast:
    """What :func:`plan` found out: read it, or give it to ``kernel(plan=…)``.

    Attributes:
        plan: tasks, with expected seconds and bytes.
        coverage: the proof.
        contractions: one for each parameter.
        running_seconds: expected for forwards, backwards and transfers, on one worker; ``plan.seconds`` is with
            the contractions.
        proof_seconds: what the proof took; ``proof_bytes``: what it was seen to hold at its end.
        result_bytes: of the result.
        terms: what was asked for.
    """

    plan: Plan
    coverage: Coverage
    contractions: tuple[Contraction, ...]
    running_seconds: float
    proof_seconds: float
    proof_bytes: int
    result_bytes: int
    terms: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Expected for the run, on one worker."""
        return self.plan.seconds

    @property
    def bytes(self) -> int:
        """Expected at the peak of the run."""
        return self.plan.bytes

    @property
    def routes(self) -> dict[str, float]:
        """Route → its share of the expected time, largest first; what forwards and backwards take is the rest."""
        return self._shares((c.route, c.seconds) for c in self.contractions)

    @property
    def layers(self) -> dict[str, float]:
        """Layer → the share of its contractions in the expected time, largest first."""
        return self._shares((c.layer, c.seconds) for c in self.contractions)

    def plan_for(self, call: Call) -> Plan:
        """The plan, for a call that it was made for.

        Raises:
            InputError: it was made for another one.
        """
        terms = call.terms
        differ = [name for name, value in terms.items() if value != self.terms[name]]
        if differ:
            raise InputError(f"plan= was made for another call, which differs in {', '.join(differ)}: make a new one")
        return self.plan

    def describe(self, layers: int = NAMED) -> str:
        """A table: schedule, time, memory, contractions by route, and the ``layers`` most expensive layers."""
        return "\n".join(self._lines(layers))

    def __str__(self) -> str:
        return self.describe()

    def record(self) -> dict[str, Any]:
        """JSON-ready, without the tasks."""
        return {
            "plan": self.plan.describe(),
            "schedule": "passes" if self.plan.passes else "tiles",
            "tasks": len(self.plan.tasks),
            "batch": self.plan.batch,
            "home": self.plan.home,
            "budget_bytes": self.plan.budget,
            "bytes": self.plan.bytes,
            "result_bytes": self.result_bytes,
            "seconds": self.plan.seconds,
            "running_seconds": self.running_seconds,
            "shares": self.routes,
            "routes": dict(Counter(c.route for c in self.contractions)),
            "proof": {"seconds": self.proof_seconds, "bytes": self.proof_bytes, **self.coverage.summary()},
        }

    def _shares(self, seconds: Iterable[tuple[str, float]]) -> dict[str, float]:
        sums: defaultdict[str, float] = defaultdict(float)
        for name, value in seconds:
            sums[name] += value
        whole = max(self.running_seconds + sum(sums.values()), 1e-30)
        return {name: sums[name] / whole for name in sorted(sums, key=lambda name: -sums[name])}

    def _lines(self, layers: int) -> Iterator[str]:
        plan, terms = self.plan, self.terms
        n, m = terms["x"], terms["y"] or terms["x"]
        entries = sum(c.entries for c in self.contractions)
        dtype = str(terms["dtype"]).removeprefix("torch.")
        how = plan.schedule + ("" if plan.passes else ", nothing kept between them")
        over = "" if plan.bytes <= plan.budget else ": more than allowed, but about the least possible"
        shares = self.routes
        yield f"kernel {n}×{m} of {entries:,} parameters, {terms['cotangents']}, {dtype} on {terms['device']}"
        yield f"  schedule  {how}"
        yield (
            f"  time      {duration(plan.seconds)} on one worker with {plan.threads} thread(s): "
            f"{1 - sum(shares.values()):.0%} forwards and backwards, {sum(shares.values()):.0%} contractions"
        )
        yield f"  memory    {size(plan.bytes)} of {size(plan.budget)}{over}; {size(self.result_bytes)} of it the result"
        yield f"  proof     {proof_took(self.proof_seconds)}"
        counts = Counter(c.route for c in self.contractions)
        sizes = {route: sum(c.entries for c in self.contractions if c.route == route) for route in counts}
        yield ""
        yield from _table(
            ("contraction", "parameters", "entries", "time"),
            [(route, f"{counts[route]:,}", f"{sizes[route]:,}", f"{share:.1%}") for route, share in shares.items()],
        )
        if layers <= 0:
            return
        rows = self._alike()
        if len(rows) > layers:
            rest, rows = rows[layers:], rows[:layers]
            count = sum(row.count for row in rest)
            rows.append(_Row(f"({count} more)", "", count, sum(r.entries for r in rest), sum(r.share for r in rest)))
        yield ""
        yield from _table(
            ("layer", "contraction", "entries", "time"),
            [(row.name, row.kinds, f"{row.entries:,}", f"{row.share:.1%}") for row in rows],
            text=2,
        )

    def _alike(self) -> list[_Row]:
        """Layers, those together that differ in the numbers of their names alone; the most expensive first."""
        own: defaultdict[str, list[Contraction]] = defaultdict(list)
        for c in self.contractions:
            own[c.layer].append(c)
        groups: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
        for layer, parts in own.items():
            kinds = ", ".join(dict.fromkeys(c.route for c in sorted(parts, key=lambda c: -c.seconds)))
            groups[re.sub(r"(?<![^.])\d+(?![^.])", "*", layer), kinds, sum(c.entries for c in parts)].append(layer)
        shares = self.layers
        rows = [
            _Row(
                f"{pattern} ({len(names)})" if len(names) > 1 else names[0],
                kinds, len(names), entries * len(names), sum(shares[name] for name in names),
            )
            for (pattern, kinds, entries), names in groups.items()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -row.share)


def plan(
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
    coverage: Coverage | None = None,
    sketch: Projection | None = None,
) -> Forecast:
    """A dry run of :func:`genkernel.kernel`: time, memory, tasks and contractions, for this machine as it is now.

    The model is proved on four samples, which refuses what ``kernel()`` would refuse, and a few forwards
    are timed. That takes about as long as a training step on a dozen samples.

    Args:
        model, x, y, model_y, cotangents, precondition, by, dtype, accumulate, memory, coverage, sketch: as for
            :func:`genkernel.kernel`.
        store: the folder of the later run, which may be planned to keep gradients there. It is not opened yet.

    Returns:
        Forecast: print it. ``kernel(…, plan=forecast)`` with the same arguments keeps to it, and is spared the proof.

    Raises:
        GenkernelError: as :func:`genkernel.kernel` does.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> x = torch.randn(5, 4)
        >>> ahead = gk.plan(net, x)
        >>> print(ahead.describe().splitlines()[1].strip())
        schedule  1 tile(s) of up to 5 samples, nothing kept between them
        >>> gk.kernel(net, x, plan=ahead).meta["plan"] == ahead.plan.describe()
        True
    """
    model = as_tangent_model(model)
    other = None if model_y is None else as_tangent_model(model_y)
    chosen = probes() if cotangents is None else cotangents
    call = Call(model, other, x, y, chosen, precondition, by, parse_dtype(dtype), accumulate, memory, sketch, store)
    with guarded(model):
        call.prove(coverage)
        sizes = call.sizes()
        found = call.plan(sizes)
        contractions, planned = _contractions(call, found)
    return Forecast(
        plan=found,
        coverage=call.left.coverages[0],
        contractions=contractions,
        running_seconds=max(0.0, found.seconds - planned),
        proof_seconds=call.left.watch.seconds.get("proof", 0.0),
        proof_bytes=call.proof_bytes,
        result_bytes=sizes.result,
        terms=call.terms,
    )


def _contractions(call: Call, plan: Plan) -> tuple[tuple[Contraction, ...], float]:
    """How each parameter is multiplied; and the seconds that the plan itself counts for all of them.

    The latter leaves out that a preconditioner asks for materialised gradients.
    """
    coupled = {name for names in (call.metric.blocks if call.metric is not None else ()) for name in names}
    sliced = {task.parameters[0] for task in plan.tasks if task.parameters and task.columns is not None}
    generic = set(call.left.coverages[0].generic)
    times = (1 if call.outputs > 1 else call.count) / gemm_rate(call.model.device.type)
    found, counted = [], 0.0
    for name, shape in call.shapes.items():
        entries = torch.Size(shape).numel()
        factor = call.left.coverages[0].footprints.get(name) or Dense.of(entries)
        kept: Factor = factor
        if plan.passes and (name in sliced or not compact(factor)):
            kept = Dense.of(entries)
        scaled = call.metric is not None and call.metric.diagonal_root(name) is not None
        seconds: defaultdict[str, float] = defaultdict(float)
        for rectangle, number in _rectangles(call, plan):
            counted += times * number * costs.cheapest(factor, rectangle)[1]
            route, cost = costs.cheapest(kept, rectangle, scaled or name in coupled)
            seconds[route] += times * number * cost
        route = "generic" if name in generic else max(seconds, key=lambda route: seconds[route])
        found.append(Contraction(name, call.model.layer_of(name), route, entries, sum(seconds.values())))
    return tuple(found), counted


def _rectangles(call: Call, plan: Plan) -> list[tuple[costs.Rectangle, int]]:
    """The rectangles in which each parameter is multiplied, with their number."""
    if plan.passes:
        rows, cols = call.n * call.outputs, (call.m or call.n) * call.outputs
        n = (call.n + call.m) * call.outputs
        return [(costs.Rectangle(rows, cols, n, call.symmetric, call.accumulate), 1)]
    shapes = Counter((t.rows[1] - t.rows[0], t.cols[1] - t.cols[0], t.same) for t in plan.tasks)
    return [
        (costs.Rectangle(r, c, r if same else r + c, same, call.accumulate), number)
        for (r, c, same), number in shapes.items()
    ]


# ---------------------------------------------------------------------------- text


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, in two or three digits."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def proof_took(seconds: float) -> str:
    """A proof that was there already takes next to nothing."""
    return f"took {duration(seconds)}" if seconds > 1e-3 else "an earlier one"


def size(count: int) -> str:
    """Bytes as KiB, MiB or GiB."""
    if count < 10 * 2**20:
        return f"{count / 2**10:,.0f} KiB"
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:,.0f} MiB"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], text: int = 1) -> Iterator[str]:
    """Columns under a head: the first ``text`` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if i < text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()

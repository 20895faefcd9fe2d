"""What runs together, in which order: from sizes, costs and the memory budget.

Two schedules give the same numbers:

* **tiles**: pairs of blocks of samples. Gradients are contracted as they arrive and nothing is kept,
  but every block of samples runs once per other block: quadratic in the number of samples.
* **passes**: all samples in batches, once per group of parameters. The gradients of the group are
  kept in compact form (:mod:`genkernel.tangent.stash`) and multiplied at the end: linear in the
  number of samples, proportional to the number of groups.

The plan takes the one that its costs favour. It is made of tasks with names, so that finished ones
can be stored, and shared out.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch

from genkernel.errors import InputError
from genkernel.tangent import costs, ghost
from genkernel.tangent.contraction import SLICE
from genkernel.tangent.factors import Convolution, Factor, Outer

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "t": 10**12, "tb": 10**12}  # fmt: skip


def parse_memory(memory: str | int | float) -> int:
    """Bytes from ``"8GiB"``, ``"500MB"`` or a number."""
    if isinstance(memory, (int, float)) and not isinstance(memory, bool):
        size = int(memory)
    else:
        match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(memory))
        if not match or match.group(2).lower() not in _UNITS:
            raise InputError(
                f"memory={memory!r} is not an amount of memory: write '8GiB', '500MB' or a number of bytes"
            )
        try:
            size = int(float(match.group(1)) * _UNITS[match.group(2).lower()])
        except ValueError:
            raise InputError(f"memory={memory!r} is not an amount of memory: write '8GiB', '500MB' or bytes") from None
    if size <= 0:
        raise InputError(f"memory={memory!r} has to be positive")
    return size


#: however small the budget, this much is used rather than passes of a few coordinates each
LEAST = 64 * 2**20


@dataclass(frozen=True)
class Task:
    """A part of the kernel that is computed, stored and given to a worker as one.

    Attributes:
        name: unique in its plan.
        rows, cols: (start, stop) samples of x and of y (of x itself in a symmetric kernel).
        same: rows and cols are the same samples: they run once.
        parameters: the group of a pass; None for a tile, which takes all.
        which: the cotangents of a pass; None for all.
        columns: (start, stop) coordinates of the one parameter of the pass; None for all.
        cost: relative, for balancing.
    """

    name: str
    rows: tuple[int, int]
    cols: tuple[int, int]
    same: bool
    parameters: tuple[str, ...] | None = None
    which: tuple[int, ...] | None = None
    columns: tuple[int, int] | None = None
    cost: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Tasks and what they were planned from.

    Attributes:
        tasks: in the order in which their results are added up.
        batch: most samples that run together in a pass.
        budget: bytes allowed; ``bytes``: bytes expected at the peak.
        seconds: expected, on one worker.
        threads: CPU threads; a resumed run takes the same, so that its bits are the same.
    """

    tasks: tuple[Task, ...]
    batch: int
    budget: int
    bytes: int
    seconds: float
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def passes(self) -> bool:
        return self.tasks[0].parameters is not None

    def describe(self) -> str:
        """One sentence."""
        n, m = max(t.rows[1] for t in self.tasks), max(t.cols[1] for t in self.tasks)
        if self.passes:
            how = f"{len(self.tasks)} pass(es) over all samples, {self.batch} at a time"
        else:
            how = f"{len(self.tasks)} tile(s) of up to {self.batch} samples"
        over = ": more than allowed, but the least possible" if self.bytes > self.budget else ""
        return (
            f"kernel {n}×{m} in {how}; expects {self.seconds:.2g} s and "
            f"{self.bytes / 2**20:.0f} MiB of {self.budget / 2**20:.0f} MiB{over}"
        )

    def record(self) -> dict[str, Any]:
        """JSON-ready; read back by :meth:`read`."""
        return {**asdict(self), "tasks": [asdict(task) for task in self.tasks]}

    @classmethod
    def read(cls, record: dict[str, Any]) -> Plan:
        def pair(value: Any) -> Any:
            return tuple(value) if isinstance(value, (list, tuple)) else value

        tasks = tuple(Task(**{k: pair(v) for k, v in task.items()}) for task in record["tasks"])
        return cls(**{**record, "tasks": tasks})


@dataclass(frozen=True)
class Sizes:
    """What a plan is made from.

    Attributes:
        n, m: samples on the two sides; ``m = 0`` for a symmetric kernel.
        count: cotangents. ``outputs``: rows of each sample (all outputs of a full-block kernel, else 1).
        matrices: kernel-sized float64 matrices in the result.
        bytes_per_sample: held between forward and backward. ``weight_bytes``: copies of weights.
        itemsize: of a gradient entry.
        entries: parameter → gradient entries per row in compact form, and in plain form.
        factors: parameter → its gradient's form, without data.
        coupled: groups of parameters that have to be in one pass.
        seconds_per_sample: one forward and one backward.
        apart: the two sides need forwards of their own (two models).
        accumulate: dtype of products.
    """

    n: int
    m: int
    count: int
    outputs: int
    matrices: int
    bytes_per_sample: int
    weight_bytes: int
    itemsize: int
    entries: dict[str, tuple[int, int]]
    factors: dict[str, Factor]
    coupled: Sequence[tuple[str, ...]]
    seconds_per_sample: float
    apart: bool
    accumulate: torch.dtype

    @property
    def rows(self) -> int:
        return self.n * self.outputs

    @property
    def cols(self) -> int:
        return (self.m or self.n) * self.outputs

    @property
    def samples(self) -> int:
        return self.n + self.m

    @property
    def scratch(self) -> int:
        return SLICE * (self.itemsize + 2 * 8) + ghost.ENTRIES * 4 * 8


def make_plan(sizes: Sizes, budget: int) -> Plan:
    """The cheaper schedule that fits the budget (the smallest one where none fits).

    Raises:
        InputError: the result alone does not fit.
    """
    result = sizes.matrices * 8 * sizes.rows * sizes.cols
    if result > max(budget, LEAST):
        raise InputError(
            f"the result alone takes {result / 2**20:.0f} MiB ({sizes.matrices} matrices of "
            f"{sizes.rows}×{sizes.cols}), memory= allows {budget / 2**20:.0f} MiB: give more, by=None, "
            "fewer samples, or probes instead of every output"
        )
    passes = _passes(sizes, budget, result)
    if sizes.apart or sizes.outputs > 1:
        return passes
    tiles = _tiles(sizes, budget, result)
    if len(tiles.tasks) == 1:
        return tiles
    if max(tiles.bytes, passes.bytes) > budget:
        return tiles if tiles.bytes <= passes.bytes else passes
    return tiles if tiles.seconds <= passes.seconds else passes


# ---------------------------------------------------------------------------- tiles


def _tiles(sizes: Sizes, budget: int, result: int) -> Plan:
    fixed = sizes.weight_bytes + sizes.scratch + result

    def need(samples: int) -> int:
        side = min(samples, sizes.samples)
        return fixed + samples * sizes.bytes_per_sample + (sizes.matrices + 2) * 8 * side * side

    samples = sizes.samples
    while samples > 1 and need(samples) > budget:
        # the quadratic part is small unless tiles are huge: a fixed point is close after one step
        fits = (budget - fixed) // max(1, sizes.bytes_per_sample)
        samples = max(1, min(samples - 1, int(samples * 0.9), fits))
    samples = max(2, samples) if sizes.samples > 1 else 1
    tasks, seconds = [], 0.0
    for rows, cols in _rectangles(sizes, samples):
        same = sizes.m == 0 and rows == cols
        r, c = rows[1] - rows[0], cols[1] - cols[0]
        run = r if same else r + c
        cost = _run_seconds(sizes, run, sizes.count) + _contraction_seconds(sizes, r, c, run, same)
        tasks.append(Task(f"tile-{rows[0]:06d}-{cols[0]:06d}", rows, cols, same, cost=cost))
        seconds += cost
    return Plan(tuple(tasks), samples, budget, need(samples), seconds)


def _rectangles(sizes: Sizes, samples: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    n, m = sizes.n, sizes.m
    if m == 0:
        if n <= samples:
            yield (0, n), (0, n)
            return
        half = max(1, samples // 2)
        blocks = [(s, min(n, s + half)) for s in range(0, n, half)]
        for i, rows in enumerate(blocks):
            for cols in blocks[: i + 1]:
                yield rows, cols
        return
    half = max(1, samples // 2)
    if n + m <= samples:
        left, right = n, m
    elif n <= half:
        left, right = n, max(1, samples - n)
    elif m <= half:
        left, right = max(1, samples - m), m
    else:
        left = right = half
    for start in range(0, n, left):
        for other in range(0, m, right):
            yield (start, min(n, start + left)), (other, min(m, other + right))


# --------------------------------------------------------------------------- passes


def _passes(sizes: Sizes, budget: int, result: int) -> Plan:
    """Groups of parameters, in model order, whose gradients of all samples fit beside a batch."""
    rows = sizes.samples * sizes.outputs
    matrix = 8 * sizes.rows * sizes.cols
    kept = {name: min(pair) * rows * sizes.itemsize for name, pair in sizes.entries.items()}
    # a pass has its own totals, layers and one product
    fixed = sizes.weight_bytes + sizes.scratch + result + 3 * matrix
    free = max(0, budget - fixed)
    batch = max(1, min(sizes.samples, int(free // 4 // max(1, sizes.bytes_per_sample))))
    room = max(min(max(kept.values()), LEAST), free - batch * sizes.bytes_per_sample)
    together = sizes.outputs if sizes.outputs > 1 else sizes.count
    whole = sum(kept.values())
    per_pass = None if sizes.outputs > 1 or whole * together <= room else 1
    cotangents: list[tuple[int, ...] | None] = [None] if per_pass is None else [(k,) for k in range(sizes.count)]
    share = room if per_pass == 1 or sizes.outputs > 1 else room // together
    tasks: list[Task] = []
    largest = 0
    n, m = sizes.n, sizes.m or sizes.n
    for which in cotangents:
        for names, columns in _groups(sizes, kept, share, rows):
            size = kept[names[0]] if columns is None else (columns[1] - columns[0]) * rows * sizes.itemsize
            size = sum(kept[name] for name in names) if len(names) > 1 else size
            largest = max(largest, size * (together if which is None and sizes.outputs == 1 else 1))
            tasks.append(Task(f"pass-{len(tasks):05d}", (0, n), (0, m), sizes.m == 0, names, which, columns))
    runs = _run_seconds(sizes, sizes.samples, sizes.count if cotangents == [None] else 1)
    contraction = _contraction_seconds(sizes, sizes.rows, sizes.cols, rows, sizes.m == 0)
    seconds = len(tasks) * runs + contraction
    tasks = [Task(**{**asdict(t), "cost": seconds / len(tasks)}) for t in tasks]
    return Plan(tuple(tasks), batch, budget, fixed + batch * sizes.bytes_per_sample + largest, seconds)


def _groups(
    sizes: Sizes, kept: dict[str, int], room: int, rows: int
) -> Iterator[tuple[tuple[str, ...], tuple[int, int] | None]]:
    """Parameters that fit together; slices of coordinates of those that do not fit alone."""
    bound = {name: names for names in sizes.coupled for name in names}
    group: list[str] = []
    size = 0
    taken: set[str] = set()
    for name in sizes.entries:
        if name in taken:
            continue
        names = bound.get(name, (name,))
        taken.update(names)
        need = sum(kept[other] for other in names)
        if group and size + need > room:
            yield tuple(group), None
            group, size = [], 0
        if need > room and name not in bound:
            width = max(1, room // (rows * sizes.itemsize))
            entries = sizes.entries[name][1]
            for start in range(0, entries, width):
                yield (name,), (start, min(entries, start + width))
            continue
        group += names
        size += need
    if group:
        yield tuple(group), None


# ---------------------------------------------------------------------------- costs


def _run_seconds(sizes: Sizes, samples: int, count: int) -> float:
    """A forward, and a backward per cotangent that takes about as long."""
    return samples * sizes.seconds_per_sample * (1 + count) / 2


def _contraction_seconds(sizes: Sizes, r: int, c: int, n: int, symmetric: bool) -> float:
    block = costs.Rectangle(r, c, n, symmetric, sizes.accumulate)
    flops = 0.0
    for name, (_, plain) in sizes.entries.items():
        factor = sizes.factors.get(name)
        if isinstance(factor, Outer):
            flops += min(costs.ghost(factor, block), costs.materialised(factor, block))
        elif isinstance(factor, Convolution):
            flops += min(costs.shifted_ghost(factor, block), costs.materialised(factor, block))
        else:
            flops += 2 * block.rate * block.pairs * plain
    return flops * (1 if sizes.outputs > 1 else sizes.count) / gemm_rate()


@cache
def gemm_rate() -> float:
    """Measured float32 operations per second of a matrix product on the CPU, with the present threads."""
    from genkernel.tangent.products import dot

    a = torch.ones(512, 512)
    dot(a, a)
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        dot(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * 512**3 / best

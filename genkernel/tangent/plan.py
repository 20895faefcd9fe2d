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

import itertools
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import torch

from genkernel.errors import InputError
from genkernel.tangent import costs
from genkernel.tangent.factors import SLICE, Dense, Factor
from genkernel.tangent.heap import GAPS, LIBRARIES
from genkernel.tangent.scratch import contraction_bytes, making_bytes

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "t": 10**12, "tb": 10**12}  # fmt: skip


def parse_memory(memory: str | int | float) -> int:
    """Bytes from ``"8GiB"``, ``"500MB"`` or a number."""
    size: int | float
    if isinstance(memory, (int, float)) and not isinstance(memory, bool):
        size = memory
    else:
        match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-zA-Z]*)\s*", str(memory))
        unit = _UNITS.get(match.group(2).lower()) if match else None
        size = float(match.group(1)) * unit if match and unit else math.nan
    if math.isfinite(size) and int(size) <= 0:
        raise InputError(f"memory={memory!r} has to be positive")
    if not math.isfinite(size) or (size is memory and size != int(size)):
        raise InputError(f"memory={memory!r} is not an amount of memory: write '8GiB', '500MB' or a number of bytes")
    return int(size)


#: however small the budget, this much is kept rather than passes of a few coordinates each
LEAST = 16 * 2**20
#: tiles do not get smaller than where there would be about so many
MOST_TILES = 20_000
#: where nothing fits, more tiles than this are worth it only where passes take so much more memory
MANY_TILES, MUCH_MORE = 1000, 1.25
#: scratch takes one part in so many of a budget; slices of gradients are made so much smaller for it
PART, SMALLER = 6, (1, 4, 16)
#: bytes per second between the memories of a GPU and its host
BUS = 2e10
#: and to and from files, which are written where that takes less than half the time and saves more than some seconds
DISK, WORTH = 5e8, 20.0
#: seconds to open one
OPENING = 1e-3
#: passes that leave less of a budget free than this, or this part of it, are tried with one batch
CLOSE, CLOSE_PART = 64 * 2**20, 16


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
        home: where passes keep gradients: on the "device" that multiplies them, on its "host", or on "disk", where
            those of all passes come from one run.
        threads: CPU threads; a resumed run takes the same, so that its bits are the same.
        limit: entries of gradients that contractions work on at a time.
        channels_last: batches run so where they can; a resumed run does, too.
        disk_bytes: of the gradients on disk.
        running: bytes that a batch of a pass takes while it runs.
    """

    tasks: tuple[Task, ...]
    batch: int
    budget: int
    bytes: int
    seconds: float
    home: str = "device"
    threads: int = field(default_factory=torch.get_num_threads)
    limit: int = SLICE
    channels_last: bool = False
    disk_bytes: int = 0
    running: int = 0

    @property
    def passes(self) -> bool:
        return self.tasks[0].parameters is not None

    @property
    def tiles(self) -> Sequence[Task]:
        return () if self.passes else self.tasks

    def shared(self, workers: int, cotangents: int) -> Plan:
        """A plan with a task for every worker, where the cotangents of a single tile can be shared out."""
        if self.passes or len(self.tasks) > 1 or min(workers, cotangents) < 2:
            return self
        (whole,) = self.tasks
        parts = min(workers, cotangents)
        bounds = [cotangents * i // parts for i in range(parts + 1)]
        tasks = tuple(
            replace(whole, name=f"{whole.name}-{a:04d}", which=tuple(range(a, b)), cost=whole.cost / parts)
            for a, b in itertools.pairwise(bounds)
        )
        return replace(self, tasks=tasks)

    @property
    def schedule(self) -> str:
        """How the tasks go through the samples."""
        if not self.passes:
            return f"{len(self.tasks)} tile(s) of up to {self.batch} samples"
        if self.home == "disk":
            return (
                f"{len(self.tasks)} part(s) of one run over all samples, {self.batch} at a time, "
                f"gradients kept on disk ({self.disk_bytes / 2**30:.2g} GiB)"
            )
        kept = ", gradients kept on the host" if self.home == "host" else ""
        return f"{len(self.tasks)} pass(es) over all samples, {self.batch} at a time{kept}"

    @property
    def close(self) -> bool:
        """It fits, with little room for a batch that takes more than expected."""
        return self.passes and 0 <= self.budget - self.bytes < max(CLOSE, self.budget // CLOSE_PART)

    def in_memory(self) -> Plan:
        """The same tasks in the same batches, to the same bits, without files."""
        return replace(self, home="device") if self.home == "disk" else self

    def describe(self) -> str:
        """One sentence."""
        n, m = max(t.rows[1] for t in self.tasks), max(t.cols[1] for t in self.tasks)
        over = ": more than allowed, but about the least possible" if self.bytes > self.budget else ""
        return (
            f"kernel {n}×{m} in {self.schedule}; expects {self.seconds:.2g} s and "
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
        totals, layers: matrices that are kept: per probe or one in all, and partial kernels.
        bytes_per_sample: held between forward and backward. ``example_bytes``: inputs and outputs of a sample.
        weight_bytes: copies of weights.
        itemsize: of a gradient entry.
        entries: parameter → gradient entries per row in compact form, and in plain form.
        factors: parameter → its gradient's form, without data.
        coupled: groups of parameters that have to be in one pass.
        seconds_per_sample, seconds_per_run: one forward and one backward: of each sample, and besides.
        apart: the two sides need forwards of their own (two models).
        accumulate: dtype of products.
        device: "cpu" or "cuda". ``host_bytes``: what a GPU's host can lend for gradients; ``disk_bytes``: a folder.
        sketch_bytes: of the rows of a sketch made alongside.
        limit: entries of gradients that contractions work on at a time.
        channels_last: some batches may run so.
        workers: that share the tasks.
        unforeseen: bytes that a batch was seen to take beyond what activations explain (:meth:`running`).
    """

    n: int
    m: int
    count: int
    outputs: int
    totals: int
    layers: int
    bytes_per_sample: int
    example_bytes: int
    weight_bytes: int
    itemsize: int
    entries: dict[str, tuple[int, int]]
    factors: dict[str, Factor]
    coupled: Sequence[tuple[str, ...]]
    seconds_per_sample: float
    seconds_per_run: float
    apart: bool
    accumulate: torch.dtype
    device: str = "cpu"
    host_bytes: int = 0
    disk_bytes: int = 0
    sketch_bytes: int = 0
    limit: int = SLICE
    channels_last: bool = False
    workers: int = 1
    unforeseen: int = 0

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
    def matrix(self) -> int:
        """Bytes of one kernel-sized matrix."""
        return 8 * self.rows * self.cols

    @property
    def all_kept(self) -> int:
        """Bytes of all gradients as they are kept."""
        count = self.count if self.outputs == 1 else 1
        return sum(map(min, self.entries.values())) * self.samples * self.outputs * self.itemsize * count

    @property
    def result(self) -> int:
        """Bytes of the result: totals, layers, the mean over totals, and sketches."""
        return (self.totals + self.layers + 1) * self.matrix + self.sketch_bytes

    @property
    def fixed(self) -> int:
        """Bytes held throughout: the result is complete when the rest is gone, but for its mean."""
        return self.result - self.matrix + self.weight_bytes + LIBRARIES

    def running(self, samples: int) -> int:
        """Bytes of a forward and a backward."""
        gaps = GAPS if self.device == "cpu" else 1.0
        sketch = 2 * self.sketch_bytes * samples // self.samples  # rows of these samples, and what is added to them
        held = int(gaps * samples * self.bytes_per_sample) + 3 * samples * self.example_bytes + sketch
        return held + self.unforeseen

    def multiplying(self, n: int, r: int, c: int) -> int:
        """Bytes for the most demanding parameter, and for what waits for P."""
        return self.scratch(n, r, c) + n * self._coupled * self.itemsize

    def scratch(self, n: int, r: int, c: int) -> int:
        """Bytes of scratch for the most demanding parameter."""
        block = costs.Rectangle(r, c, n, self.m == 0, self.accumulate, self.limit)
        return max(
            contraction_bytes(self.factors.get(name) or Dense.of(plain), self.itemsize, block)
            for name, (_, plain) in self.entries.items()
        )

    def sketching(self, n: int) -> int:
        """Bytes of gradients of n samples while they are projected."""
        if not self.sketch_bytes:
            return 0
        slices = 3 * max(4, self.itemsize) * self.limit
        return slices + max(making_bytes(f, self.itemsize, n, self.limit) for f in self.factors.values())

    @property
    def _coupled(self) -> int:
        """Entries per row while P acts: what waits for other parameters, what P makes of them, and in between."""
        sums = [sum(self.entries[name][1] for name in names) for names in self.coupled]
        waiting = sum(size for size, names in zip(sums, self.coupled, strict=True) if len(names) > 1)
        return waiting + 3 * max(sums, default=0)


def make_plan(sizes: Sizes, budget: int) -> Plan:
    """The cheaper schedule that fits the budget (the smallest one where none fits).

    Raises:
        InputError: the result alone does not fit.
    """
    if sizes.result > max(budget, LEAST):
        raise InputError(
            f"the result alone takes {sizes.result / 2**20:.0f} MiB ({sizes.totals + sizes.layers} matrices of "
            f"{sizes.rows}×{sizes.cols}), memory= allows {budget / 2**20:.0f} MiB: give more, by=None, "
            "fewer samples, or probes instead of every output"
        )
    tiled = not sizes.apart and sizes.outputs == 1
    if tiled and _tile_bytes(sizes, sizes.samples) <= budget:
        return _tiles(sizes, budget)
    small = _in_proportion(sizes, budget)
    plans = [_passes(small, budget)]
    if tiled:
        plans.insert(0, _tiles(small, budget))
    if sizes.host_bytes:
        plans.append(_passes(small, budget, "host"))
    fitting = sorted((plan for plan in plans if plan.bytes <= budget), key=lambda plan: plan.seconds)
    if small.all_kept <= sizes.disk_bytes and not sizes.sketch_bytes:
        files = _passes(small, budget, "disk")
        if files.bytes <= budget and (
            # every worker runs all samples for its own parts
            not fitting or 2 * files.seconds + WORTH < fitting[0].seconds / sizes.workers
        ):
            return files
    if fitting:
        return fitting[0]
    return min(plans, key=lambda plan: plan.bytes * (MUCH_MORE if len(plan.tiles) > MANY_TILES else 1))


def _in_proportion(sizes: Sizes, budget: int) -> Sizes:
    """With slices of gradients whose scratch is a small part of the budget, or the smallest."""
    rows = sizes.samples * sizes.outputs
    for divisor in SMALLER:
        small = replace(sizes, limit=SLICE // divisor)
        if PART * small.scratch(rows, sizes.rows, sizes.cols) <= budget:
            break
    return small


# ---------------------------------------------------------------------------- tiles


def _tile_bytes(sizes: Sizes, samples: int) -> int:
    """Bytes of the largest tile of so many samples."""
    r, c = (min(side, samples) for side in (sizes.n, sizes.m or sizes.n))
    if sizes.m or samples < sizes.n:  # rows and columns are different samples
        r = min(sizes.n, max(1, samples // 2, samples - c))
        c = min(sizes.m or sizes.n, max(1, samples - r))
    # totals and layers of the tile, and a product
    matrices = (sizes.totals + sizes.layers + 1) * 8 * r * c
    return sizes.fixed + matrices + sizes.running(samples) + sizes.multiplying(samples, r, c)


def _tiles(sizes: Sizes, budget: int) -> Plan:
    """The largest tiles that fit, or the smallest there are."""
    blocks = 2 * math.isqrt(MOST_TILES)
    least, samples = min(2 * -(-sizes.samples // blocks), sizes.samples), sizes.samples
    if _tile_bytes(sizes, samples) > budget:
        low, high = least, samples  # low fits, or is the least there is
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _tile_bytes(sizes, middle) <= budget else (low, middle)
        samples = low
    tasks, seconds, known = [], 0.0, {}
    for rows, cols in _rectangles(sizes, samples):
        same = sizes.m == 0 and rows == cols
        shape = r, c, same = rows[1] - rows[0], cols[1] - cols[0], sizes.m == 0 and rows == cols
        if shape not in known:
            run = r if same else r + c
            known[shape] = _run_seconds(sizes, run, run, sizes.count) + _contraction_seconds(sizes, r, c, run, same)
        tasks.append(Task(f"tile-{rows[0]:06d}-{cols[0]:06d}", rows, cols, same, cost=known[shape]))
        seconds += known[shape]
    need = _tile_bytes(sizes, samples)
    return Plan(tuple(tasks), samples, budget, need, seconds, limit=sizes.limit, channels_last=sizes.channels_last)


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


#: parameters of a pass; or one parameter, and into how many coordinates each it is sliced for several passes
_Group = tuple[tuple[str, ...], int | None]


def _passes(sizes: Sizes, budget: int, home: str = "device") -> Plan:
    """Groups of parameters, in model order, whose gradients of all samples fit beside a batch."""
    rows = sizes.samples * sizes.outputs
    kept = {name: min(pair) * rows * sizes.itemsize for name, pair in sizes.entries.items()}
    scratch = sizes.multiplying(rows, sizes.rows, sizes.cols)
    # one parameter on its way to the device, and one in use there
    scratch += 2 * max(kept.values()) if home == "host" else 0
    made = max((plain for parts, plain in sizes.entries.values() if parts >= plain), default=0)
    least = min(max(kept.values()), LEAST)
    known: dict[int, tuple[list[_Group], int, int]] = {}
    best: tuple[float, float] = (math.inf, math.inf)
    chosen: tuple[int, int, int, int, list[_Group]] | None = None
    for together in _halves(sizes.count if sizes.outputs == 1 else 1):
        # totals and layers of the pass, and one product
        multiplying = (min(together, sizes.totals) + sizes.layers + 1) * sizes.matrix + scratch
        for batch in _halves(sizes.samples):
            # gradients that are kept plain, and library calls; those that are sketched
            making = max(2 * sizes.itemsize * min(sizes.limit, batch * made), sizes.sketching(batch))
            # one parameter of a batch, on its way to a file or back
            moving = 3 * max(kept.values()) * batch // sizes.samples if home == "disk" else 0
            running, alone = sizes.running(batch) + making + moving, multiplying + moving
            # gradients are there while the model runs, unless they are on disk
            beside = alone if home == "disk" else max(running, alone)
            room = sizes.host_bytes if home == "host" else budget - sizes.fixed - beside
            each = max(room, least) // together
            if each not in known:
                groups = list(_groups(sizes, kept, each, rows))
                largest = max(_kept_bytes(sizes, kept, *group) for group in groups)
                known[each] = groups, largest, sum(_count(sizes, *group) for group in groups)
            groups, largest, passes = known[each]
            need = sizes.fixed + max(running, beside + (0 if home == "host" else largest * together))
            cotangents = together if sizes.outputs == 1 else sizes.count
            times = passes * -(-sizes.count // cotangents)
            if home == "disk":
                seconds = _run_seconds(sizes, sizes.samples, batch, sizes.count)
                seconds += OPENING * times * -(-sizes.samples // batch)
            else:
                seconds = _run_seconds(sizes, sizes.samples, batch, cotangents) * times
            if (max(0, need - budget), seconds) < best:
                best, chosen = (max(0, need - budget), seconds), (need, running, batch, cotangents, groups)
    assert chosen is not None
    need, running, batch, cotangents, groups = chosen
    seconds = best[1] + _contraction_seconds(sizes, sizes.rows, sizes.cols, rows, sizes.m == 0)
    if home != "device":
        seconds += 2 * sizes.all_kept / (BUS if home == "host" else DISK)
    which: list[tuple[int, ...] | None] = [None]
    if cotangents < sizes.count:
        starts = range(0, sizes.count, cotangents)
        which = [tuple(range(start, min(sizes.count, start + cotangents))) for start in starts]
    slices = [(names, columns) for names, width in groups for columns in _slices(sizes, names, width)]
    cost = seconds / (len(slices) * len(which))
    sides = (0, sizes.n), (0, sizes.m or sizes.n), sizes.m == 0
    tasks = [
        Task(f"pass-{i:05d}", *sides, names, some, columns, cost)
        for i, (some, (names, columns)) in enumerate(itertools.product(which, slices))
    ]
    return Plan(
        tuple(tasks), batch, budget, need, seconds, home, limit=sizes.limit, channels_last=sizes.channels_last,
        disk_bytes=sizes.all_kept if home == "disk" else 0, running=running,
    )  # fmt: skip


def _halves(most: int) -> list[int]:
    """``most``, and the powers of two below it."""
    return [most, *(1 << k for k in reversed(range((most - 1).bit_length())))]


def _kept_bytes(sizes: Sizes, kept: dict[str, int], names: tuple[str, ...], width: int | None) -> int:
    if width is None:
        return sum(kept[name] for name in names)
    return min(width, sizes.entries[names[0]][1]) * sizes.samples * sizes.outputs * sizes.itemsize


def _count(sizes: Sizes, names: tuple[str, ...], width: int | None) -> int:
    """Passes over a group."""
    return 1 if width is None else -(-sizes.entries[names[0]][1] // width)


def _slices(sizes: Sizes, names: tuple[str, ...], width: int | None) -> Sequence[tuple[int, int] | None]:
    """The coordinates of each pass over a group; None for all."""
    if width is None:
        return [None]
    entries = sizes.entries[names[0]][1]
    return [(start, min(entries, start + width)) for start in range(0, entries, width)]


def _groups(sizes: Sizes, kept: dict[str, int], room: int, rows: int) -> Iterator[_Group]:
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
            yield (name,), max(1, room // (rows * sizes.itemsize))
            continue
        group += names
        size += need
    if group:
        yield tuple(group), None


# ---------------------------------------------------------------------------- costs


def _run_seconds(sizes: Sizes, samples: int, batch: int, count: int) -> float:
    """A forward, and a backward per cotangent that takes about as long, of some samples batch by batch."""
    once = samples * sizes.seconds_per_sample + -(-samples // batch) * sizes.seconds_per_run
    return once * (1 + count) / 2


def _contraction_seconds(sizes: Sizes, r: int, c: int, n: int, symmetric: bool) -> float:
    block = costs.Rectangle(r, c, n, symmetric, sizes.accumulate, sizes.limit)
    flops = 0.0
    for name, (_, plain) in sizes.entries.items():
        flops += costs.cheapest(sizes.factors.get(name) or Dense.of(plain), block)[1]
    return flops * (1 if sizes.outputs > 1 else sizes.count) / gemm_rate(sizes.device)


@cache
def gemm_rate(device: str = "cpu") -> float:
    """Measured float32 operations per second of a matrix product, with the present threads."""
    from genkernel.tangent.products import dot

    side = 512 if device == "cpu" else 4096
    a = torch.ones(side, side, device=device)

    def once() -> float:
        started = time.perf_counter()
        dot(a, a)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return 2 * side**3 / min(once() for _ in range(3))

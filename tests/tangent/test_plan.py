"""Plans from sizes alone: what they cover, what they expect, and which schedule they choose."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genkernel.errors import InputError
from genkernel.tangent import plan as planning
from genkernel.tangent.factors import SLICE, Convolution, Factor, Outer
from genkernel.tangent.heap import LIBRARIES
from genkernel.tangent.plan import LEAST, MUCH_MORE, Plan, Sizes, Task, make_plan, parse_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def _the_same_speed_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans depend on how fast matrix products are, which is measured, and is less on a machine that is busy."""
    monkeypatch.setattr(planning, "gemm_rate", lambda device="cpu": 2e11)


def nothing(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def linear(inputs: int, outputs: int, positions: int = 1) -> Factor:
    return Outer(nothing(1, positions, inputs), nothing(1, positions, outputs))


def convolution(channels: int, side: int) -> Factor:
    image = nothing(1, channels, side, side)
    return Convolution(image, image, (channels, channels, 3, 3), (1, 1), (1, 1), (1, 1), 1)


def sizes(factors: dict[str, Factor] | None = None, plain: dict[str, int] | None = None, **changes: Any) -> Sizes:
    """A perceptron of 1.8 million parameters on 500 samples, or something else."""
    if factors is None:
        factors = {"0.weight": linear(784, 1024), "1.weight": linear(1024, 1024)}
        plain = {"0.bias": 1024, "1.bias": 1024} if plain is None else plain
    entries = {k: (sum(p[0].numel() for p in f.parts().values()), math.prod(f.shape)) for k, f in factors.items()}
    entries |= {name: (size, size) for name, size in (plain or {}).items()}
    given = Sizes(
        n=500, m=0, count=1, outputs=1, totals=1, layers=0, bytes_per_sample=20_000, example_bytes=4_000,
        weight_bytes=0, itemsize=4, entries=entries, factors=factors, coupled=[], seconds_per_sample=1e-4,
        seconds_per_run=1e-3, apart=False, accumulate=torch.float64,
    )  # fmt: skip
    return replace(given, **changes)


def convolutional(**changes: Any) -> Sizes:
    """40 layers that keep their gradients compact or plain, on activations of 4 MB."""
    factors = {f"{i}.weight": convolution(*((64, 32), (256, 8))[i % 2]) for i in range(40)}
    plain = {f"{i}.bias": 256 for i in range(40)}
    return sizes(factors, plain, **{"bytes_per_sample": 4_000_000, "seconds_per_sample": 0.01, **changes})


CASES = {
    "perceptron": sizes(),
    "layers": sizes(layers=3),
    "two sides": sizes(n=300, m=170),
    "one and many": sizes(n=1, m=1000),
    "many and few": sizes(n=900, m=3),
    "probes": sizes(count=8, totals=8, layers=2),
    "trace": sizes(count=10, totals=1),
    "blocks": sizes(n=60, count=10, outputs=10, layers=2),
    "two models": sizes(n=200, m=200, apart=True),
    "coupled": sizes(coupled=[("0.weight", "1.bias"), ("1.weight",)]),
    "convolutions": convolutional(n=128),
    "convolutions, probes": convolutional(n=40, m=30, count=4, totals=4, layers=40),
    "sketch": sizes(sketch_bytes=8 * 500 * 1024),
    "one sample": sizes(n=1),
    "large images": convolutional(n=64, bytes_per_sample=400_000_000),
}
BUDGETS = [int(MIB * 2 ** (k / 2)) for k in range(8, 33)]  # 16 MiB … 64 GiB


@cache
def plans(name: str) -> list[tuple[int, Plan]]:
    """Those of all budgets that the result of a case fits, smallest first."""
    given = CASES[name]
    return [(budget, make_plan(given, budget)) for budget in BUDGETS if given.result <= max(budget, LEAST)]


# ---------------------------------------------------------------------- what is expected


@pytest.mark.parametrize("name", CASES)
def test_budgets_are_kept_where_they_can_be(name: str) -> None:
    found = plans(name)
    kept = [plan.bytes <= budget for budget, plan in found]
    assert kept[-1]
    assert kept == sorted(kept), "who keeps a small budget keeps a larger one"
    for budget, plan in found:
        assert plan.budget == budget
        assert (": more than allowed, but about the least possible" in plan.describe()) == (plan.bytes > budget)


@pytest.mark.parametrize("name", CASES)
def test_smaller_budgets_never_expect_more_bytes_or_less_time(name: str) -> None:
    found = [plan for _, plan in plans(name)]
    for smaller, larger in itertools.pairwise(found):
        if smaller.bytes <= smaller.budget:
            assert smaller.bytes <= larger.bytes
            assert smaller.seconds >= larger.seconds * (1 - 1e-9)
        else:  # a quarter more than the least where that spares thousands of tiles
            assert smaller.bytes <= MUCH_MORE * larger.bytes
            assert smaller.passes or smaller.bytes <= larger.bytes


def test_a_little_too_little_memory_does_not_explode() -> None:
    """A preconditioner that holds whole gradients: passes take 7 GiB for them, tiles can do with little."""
    given = CASES["coupled"]
    most = planning._passes(given, 1)
    for budget in (100 * MIB, 140 * MIB, 200 * MIB):
        plan = make_plan(given, budget)
        assert not plan.passes and plan.bytes < most.bytes / 30
    # where passes of small slices fit, thousands of tiles are not worth it
    given = CASES["layers"]
    plan = make_plan(given, 64 * MIB)
    assert plan.passes and len(plan.tasks) < 100 and plan.bytes <= 64 * MIB


def kept(given: Sizes, task: Task) -> int:
    """Bytes of gradients that a pass holds at its end."""
    assert task.parameters is not None
    if task.columns is not None:
        entries = task.columns[1] - task.columns[0]
    else:
        entries = sum(min(given.entries[name]) for name in task.parameters)
    cotangents = 1 if given.outputs > 1 else len(task.which or range(given.count))
    return entries * given.samples * given.outputs * cotangents * given.itemsize


@pytest.mark.parametrize("name", CASES)
def test_expected_bytes_hold_every_task(name: str) -> None:
    """The result, the activations of a batch, and what a pass keeps: from the tasks, not from the planner's sums."""
    for _, plan in plans(name):
        given = replace(CASES[name], limit=plan.limit)
        for task in (*plan.tasks[:20], *plan.tasks[-20:]):
            r, c = task.rows[1] - task.rows[0], task.cols[1] - task.cols[0]
            together = min(plan.batch, given.samples) if plan.passes else r + (0 if task.same else c)
            assert together <= plan.batch
            need = given.result - given.matrix + LIBRARIES
            if plan.passes:
                need += kept(given, task) + given.matrix
                assert need + given.multiplying(given.samples * given.outputs, given.rows, given.cols) <= plan.bytes
            else:
                need += (given.totals + given.layers) * 8 * r * c
                assert need + given.multiplying(together, r, c) <= plan.bytes
            assert need + together * given.bytes_per_sample <= plan.bytes


# ---------------------------------------------------------------------- what is covered


def assert_covered(given: Sizes, plan: Plan) -> None:
    """Every pair of samples, for every cotangent and coordinate, in exactly one task."""
    assert len({task.name for task in plan.tasks}) == len(plan.tasks)
    if not plan.passes:
        pairs = np.zeros((given.n, given.m or given.n), int)
        for task in plan.tasks:
            assert task.which is None and task.columns is None
            assert task.same == (given.m == 0 and task.rows == task.cols)
            pairs[slice(*task.rows), slice(*task.cols)] += 1
            if given.m == 0 and not task.same:
                pairs.T[slice(*task.rows), slice(*task.cols)] += 1  # its mirror image
        assert (pairs == 1).all()
        return
    seen: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for task in plan.tasks:
        assert (task.rows, task.cols) == ((0, given.n), (0, given.m or given.n))
        assert task.same == (given.m == 0)
        assert task.parameters and (task.columns is None or len(task.parameters) == 1)
        for k in task.which if task.which is not None else range(given.count):
            for name in task.parameters:
                seen.setdefault((k, name), []).append(task.columns or (0, given.entries[name][1]))
        for names in given.coupled:
            assert len(set(names) & set(task.parameters)) in (0, len(names))
            assert task.columns is None or task.parameters[0] not in names
    assert set(seen) == {(k, name) for k in range(given.count) for name in given.entries}
    for (_, name), columns in seen.items():
        assert columns[0][0] == 0 and columns[-1][1] == given.entries[name][1]
        assert all(start < stop for start, stop in columns)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(columns))


@pytest.mark.parametrize("name", CASES)
def test_tasks_cover_everything_once(name: str) -> None:
    given = CASES[name]
    for _, plan in {plan.tasks: (budget, plan) for budget, plan in plans(name)}.values():
        assert_covered(given, plan)


@settings(max_examples=60)
@given(n=st.integers(1, 60), m=st.integers(0, 60), samples=st.integers(1, 130))
def test_tiles_of_any_size_cover_every_pair_once(n: int, m: int, samples: int) -> None:
    given = sizes(n=n, m=m)
    tasks = []
    for rows, cols in planning._rectangles(given, samples):
        same = m == 0 and rows == cols
        both = rows[1] - rows[0] + (0 if same else cols[1] - cols[0])
        assert both <= max(samples, 1 if n + m == 1 else 2)
        tasks.append(Task(f"{rows}{cols}", rows, cols, same))
    assert_covered(given, Plan(tuple(tasks), samples, 1, 1, 1.0))


@settings(max_examples=60)
@given(
    widths=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    n=st.integers(1, 200),
    m=st.integers(0, 200),
    count=st.integers(1, 5),
    budget=st.integers(1, 500 * MIB),
    data=st.data(),
)
def test_passes_of_any_network_cover_every_coordinate_once(
    widths: list[int], n: int, m: int, count: int, budget: int, data: st.DataObject
) -> None:
    factors = {f"{i}.weight": linear(width, 500) for i, width in enumerate(widths)}
    coupled = data.draw(st.sampled_from([[], [tuple(factors)[:2]], [tuple(factors)[::2], tuple(factors)[1::2]]]))
    given = sizes(factors, n=n, m=m, count=count, coupled=[names for names in coupled if names])
    assert_covered(given, planning._passes(given, budget))


def test_passes_of_slices_of_one_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "LEAST", 4096)
    given = sizes({}, {"a": 10_000, "b": 3, "c": 7}, n=16)
    plan = planning._passes(given, 1)
    assert_covered(given, plan)
    sliced = [task for task in plan.tasks if task.columns is not None]
    assert len(sliced) == math.ceil(10_000 / (4096 // (16 * 4)))
    assert [task.parameters for task in plan.tasks if task.columns is None] == [("b", "c")]


# ---------------------------------------------------------------------- which schedule


def test_few_samples_take_one_tile_and_many_take_passes() -> None:
    assert len(make_plan(sizes(n=64), 1 << 33).tasks) == 1
    given = convolutional(n=2000)
    tight = make_plan(given, 4 << 30)
    assert tight.passes and tight.batch < 2000
    tiles = planning._tiles(given, 4 << 30)
    assert tight.seconds < tiles.seconds


def test_tiles_win_where_gradients_are_too_many_to_keep() -> None:
    """Plain gradients of 20 million entries: eight times the budget, a pass over all samples for each part of it."""
    given = sizes({}, {f"{i}": 1_000_000 for i in range(20)}, n=64, seconds_per_sample=0.1, bytes_per_sample=10**7)
    plan = make_plan(given, 700 * MIB)
    assert not plan.passes and len(plan.tasks) > 1
    assert plan.seconds <= planning._passes(given, 700 * MIB).seconds


@pytest.mark.parametrize("name", ["blocks", "two models"])
def test_what_tiles_cannot_do_takes_passes(name: str) -> None:
    assert all(plan.passes for _, plan in plans(name))


@pytest.mark.parametrize("name", CASES)
def test_the_cheaper_schedule_that_fits_is_chosen(name: str) -> None:
    tiled = not CASES[name].apart and CASES[name].outputs == 1
    for budget, plan in plans(name)[::3]:
        given = replace(CASES[name], limit=plan.limit)
        others = [planning._passes(given, budget), *([planning._tiles(given, budget)] if tiled else [])]
        fitting = [other for other in others if other.bytes <= budget]
        if len(plan.tasks) == 1 and not plan.passes:
            continue  # one forward and one backward in all is not beaten
        if fitting:
            assert plan.seconds == min(other.seconds for other in fitting)
        else:
            assert plan.bytes <= MUCH_MORE * min(other.bytes for other in others)


def test_tight_budgets_take_smaller_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch for large slices would leave no room for a pass: hundreds of tiles instead."""
    given = convolutional(n=300, bytes_per_sample=500_000, seconds_per_sample=0.002, count=4, totals=4)
    for budget in (256 * MIB, 192 * MIB):
        plan = make_plan(given, budget)
        assert plan.limit < SLICE and plan.bytes <= budget
        with monkeypatch.context() as patch:
            patch.setattr(planning, "SMALLER", (1,))
            coarse = make_plan(given, budget)
        assert coarse.limit == SLICE
        assert coarse.bytes > budget or coarse.seconds > 1.3 * plan.seconds
    assert make_plan(given, 8 * 1024 * MIB).limit == SLICE


def test_gradients_on_the_host_of_a_gpu() -> None:
    """40 GB of gradients: kept beside the GPU, they need one pass instead of many."""
    given = convolutional(n=2000, m=2000, device="cpu")
    alone = make_plan(given, 12 << 30)
    lent = make_plan(replace(given, host_bytes=256 << 30), 12 << 30)
    assert alone.home == "device" and lent.home == "host"
    assert len(lent.tasks) < len(alone.tasks) and lent.seconds < alone.seconds and lent.bytes <= 12 << 30
    assert "gradients kept on the host" in lent.describe()
    assert_covered(given, lent)


def test_a_result_that_does_not_fit_is_refused() -> None:
    given = sizes(n=20_000, layers=4)
    with pytest.raises(InputError, match=r"the result alone takes .* \(5 matrices of 20000×20000\)"):
        make_plan(given, 1 << 30)
    assert make_plan(sizes(n=8), 1).bytes > 1  # whatever the budget, a small result is computed


@pytest.mark.parametrize(("count", "budget"), [(1, 1), (1, 64 * MIB), *((8, k << 30) for k in (1, 8, 64))])
@pytest.mark.parametrize("form", ["compact", "plain", "mixed"])
def test_a_billion_parameters_are_planned_in_a_second(form: str, count: int, budget: int) -> None:
    width, layers = 2048, 240
    factors = {f"{i}.weight": linear(width, width, 77) for i in range(layers)}
    given = sizes(
        factors, {f"{i}.bias": width for i in range(layers)}, n=256, bytes_per_sample=300_000_000, count=count
    )
    assert sum(plain for _, plain in given.entries.values()) > 10**9
    if form != "compact":
        # every gradient as it is, or every other one
        loose = [name for i, name in enumerate(factors) if form == "plain" or i % 2]
        entries = {name: ((width**2, width**2) if name in loose else pair) for name, pair in given.entries.items()}
        given = replace(given, entries=entries, factors={k: f for k, f in factors.items() if k not in loose})
    took = []
    for _ in range(2):  # the processor may be busy with something else for one of them
        started = time.process_time()
        plan = make_plan(given, budget)
        took.append(time.process_time() - started)
    assert min(took) < 1
    assert (plan.bytes <= budget) == (budget >= 1 << 30)
    if plan.bytes > budget:  # one sample and a slice of coordinates at a time, and it says so
        assert plan.bytes < 512 * MIB and "more than allowed, but about the least possible" in plan.describe()
    assert_covered(given, plan)


# ---------------------------------------------------------------------- records, shares, amounts


@pytest.mark.parametrize("name", CASES)
def test_records_are_read_back(name: str) -> None:
    given = CASES[name]
    for budget in (BUDGETS[8], BUDGETS[-1]):
        plan = make_plan(given, budget)
        assert Plan.read(json.loads(json.dumps(plan.record()))) == plan
        shared = plan.shared(3, given.count)
        assert Plan.read(json.loads(json.dumps(shared.record()))) == shared


@pytest.mark.parametrize(("workers", "count"), [(1, 8), (2, 8), (3, 8), (20, 8), (4, 1)])
def test_the_cotangents_of_one_tile_are_shared_out(workers: int, count: int) -> None:
    plan = make_plan(sizes(n=32, count=count, totals=count), 1 << 33)
    shared = plan.shared(workers, count)
    if min(workers, count) == 1:
        assert shared is plan
        return
    assert len(shared.tasks) == min(workers, count)
    assert [k for task in shared.tasks for k in task.which or ()] == list(range(count))
    assert sum(task.cost for task in shared.tasks) == pytest.approx(plan.tasks[0].cost)
    lengths = [len(task.which or ()) for task in shared.tasks]
    assert max(lengths) - min(lengths) <= 1


def test_plans_of_several_tasks_are_not_shared_out_by_cotangents() -> None:
    plan = make_plan(CASES["convolutions, probes"], 256 * MIB)
    assert len(plan.tasks) > 1 and plan.shared(4, 4) is plan


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        ("8GiB", 8 << 30), ("500MB", 500 * 10**6), ("1.5 gib", 3 << 29), ("64k", 64_000), ("100", 100), ("7b", 7),
        (" 2 TiB ", 2 << 40), ("1T", 10**12), (12345, 12345), (1e6, 10**6),
    ],
)  # fmt: skip
def test_amounts_of_memory(memory: str | float, size: int) -> None:
    assert parse_memory(memory) == size


@pytest.mark.parametrize(
    "memory",
    ["", "lots", "8 bananas", "1.2.3GiB", ".", "GiB", "-1GiB", "8GiB!", "1e9", True, None, [], math.nan, math.inf,
     "9" * 400],
)  # fmt: skip
def test_what_is_no_amount_of_memory(memory: Any) -> None:
    with pytest.raises(InputError, match="is not an amount of memory: write '8GiB'"):
        parse_memory(memory)


@pytest.mark.parametrize("memory", [0, -5, "0", "0GiB", 0.5, -1e9])
def test_memory_is_positive(memory: str | float) -> None:
    with pytest.raises(InputError, match="has to be positive"):
        parse_memory(memory)

"""Ranks that meet, share, agree on what they do, and stop when one of them does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genkernel.errors import DistributedError, InputError, NonFiniteError, OutputError
from genkernel.tangent.distributed import Workers, current_workers, local_device, share
from genkernel.tangent.store import TileStore
from tests.tangent.ranks import Killed, on_ranks, process_group, torchrun

TASKS = [f"pass-{i:04d}" for i in range(7)]


def totals(task: str) -> dict[str, Tensor]:
    """Numbers of very different sizes: their sum depends on the order of the additions."""
    draw = torch.Generator().manual_seed(TASKS.index(task))
    scale = 10.0 ** torch.randint(-12, 12, (2, 5, 5), generator=draw)
    return {
        "totals": torch.randn(2, 5, 5, generator=draw, dtype=torch.float64) * scale,
        f"layer/{task}": torch.randn(5, 5, generator=draw).t(),
        "none": torch.zeros(0, 3),
    }


def added(results: Any) -> Tensor:
    whole = torch.zeros(2, 5, 5, dtype=torch.float64)
    for _, tensors in results:
        whole += tensors["totals"]
    return whole


# ------------------------------------------------------------------------------- one process


def test_one_process_needs_no_ceremony() -> None:
    for workers in (current_workers(), current_workers(False), Workers()):
        with workers:
            assert (workers.rank, workers.world, workers.is_leader) == (0, 1, True)
            assert workers.broadcast("a") == "a" and workers.gather(1) == [1] and workers.lead(lambda: 2) == 2
            workers.agree({"weights": "a"})
            workers.check()
            x = torch.ones(2)
            workers.sum_([x])
            assert torch.equal(x, torch.ones(2))
            with pytest.raises(ZeroDivisionError):
                workers.together(lambda: 1 / 0)
    with pytest.raises(InputError, match="torchrun"):
        current_workers(True)


def test_the_device_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == torch.device("cuda", 3)


@given(costs=st.lists(st.floats(0, 1e6), min_size=1, max_size=30), world=st.integers(1, 6))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_shares_are_complete_and_balanced(costs: list[float], world: int) -> None:
    named = {f"task-{i}": cost for i, cost in enumerate(costs)}
    owners = share(named, world)
    assert list(owners) == list(named) and set(owners.values()) <= set(range(world))
    load = [sum(named[task] for task in named if owners[task] == rank) for rank in range(world)]
    best = max(sum(costs) / world, max(costs))
    assert max(load) <= sum(costs) / world + max(costs) * (1 - 1 / world) + 1e-6 * best  # list scheduling
    assert share(named, world) == owners


def test_shares_are_within_a_third_of_the_best() -> None:
    assert share(dict.fromkeys("abcdef", 1.0), 3) == {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1, "f": 2}
    worst = dict(zip("abcdefg", [5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 3.0], strict=True))  # on 3 ranks the best is 9
    owners = share(worst, 3)
    assert max(sum(cost for task, cost in worst.items() if owners[task] == rank) for rank in range(3)) == 11
    with pytest.raises(InputError, match="finite"):
        share({"a": float("nan")}, 2)


# ----------------------------------------------------------------------------- several ranks


@pytest.mark.parametrize("world", [2, 3])
def test_messages_and_results(world: int) -> None:
    def work(rank: int) -> Any:
        found = []
        for _ in range(2):  # one call after another
            with current_workers(timeout=30) as workers:
                assert (workers.rank, workers.world) == (rank, world)
                assert workers.gather(rank) == list(range(world))
                assert workers.broadcast({"from": rank}, source=1) == {"from": 1}
                assert workers.lead(lambda: f"plan of {rank}") == "plan of 0"
                assert workers.together(lambda: rank * 2) == [r * 2 for r in range(world)]
                workers.agree({"weights": "a", "dtype": None})
                owners = share({task: 1 + i % 3 for i, task in enumerate(TASKS)}, world)
                mine = {task: totals(task) for task in TASKS if owners[task] == rank}
                results = list(workers.in_order(owners, mine.__getitem__))
                assert [task for task, _ in results] == TASKS
                assert all(torch.equal(t[k], totals(task)[k]) for task, t in results for k in t)
                found.append(added(results))
        return found

    one = added((task, totals(task)) for task in TASKS)
    for found in on_ranks(world, work):
        assert all(torch.equal(each, one) for each in found)  # bit by bit


def test_sums() -> None:
    def work(rank: int) -> Any:
        torch.manual_seed(rank)
        wide = torch.randn(3, 40, dtype=torch.float64)
        tensors = [torch.randn(5, 4), wide[:, ::2], torch.randn(6, 3).t(), torch.tensor(1.0 + rank), torch.zeros(0)]
        before = [t.clone() for t in tensors]
        untouched = wide[:, 1::2].clone()
        with current_workers(timeout=30) as workers, pytest.MonkeyPatch.context() as patch:
            patch.setattr("genkernel.tangent.distributed._CHUNK", 64)  # 8 numbers at a time
            workers.sum_(tensors)
        assert torch.equal(wide[:, 1::2], untouched)
        return before, tensors

    (a, x), (b, y) = on_ranks(2, work)
    for i in range(len(a)):
        assert x[i].dtype == a[i].dtype
        assert torch.equal(x[i], y[i]) and torch.equal(x[i], (a[i].double() + b[i].double()).to(a[i].dtype))


def test_large_results_go_in_parts() -> None:
    def work(rank: int) -> bool:
        with current_workers(timeout=30) as workers, pytest.MonkeyPatch.context() as patch:
            patch.setattr("genkernel.tangent.distributed._CHUNK", 100)
            return all(
                torch.equal(t[k], totals(task)[k])
                for task, t in workers.in_order({task: i % 2 for i, task in enumerate(TASKS)}, totals)
                for k in t
            )

    assert on_ranks(2, work) == [True, True]


def test_sums_of_different_shapes_are_refused() -> None:
    def work(rank: int) -> None:
        with current_workers(timeout=30) as workers:
            workers.sum_([torch.zeros(3 + rank)])

    for error in on_ranks(2, work):
        assert isinstance(error, DistributedError) and "different shapes" in str(error)


def test_ranks_that_were_given_something_else() -> None:
    def work(rank: int) -> None:
        with current_workers(timeout=30) as workers:
            workers.agree({"weights": "a", "inputs": f"batch of {rank // 2}", "by": "layer"})

    for error in on_ranks(3, work):
        assert isinstance(error, InputError)
        assert "rank 2 was called with other inputs than rank 0" in str(error) and "distributed=False" in str(error)


# ------------------------------------------------------------------------------------ meeting


def test_a_call_that_the_others_do_not_make() -> None:
    """Rank 0 alone computes a kernel in a training loop; it gets an error in time, and later calls work."""

    def work(rank: int) -> Any:
        import torch.distributed as dist

        with process_group(rank, 2):
            said = None
            if rank == 0:
                begun = time.monotonic()
                with pytest.raises(DistributedError) as error:
                    current_workers(timeout=0.5)
                said = str(error.value), time.monotonic() - begun
                with current_workers(False) as alone:
                    assert alone.world == 1
            step = torch.ones(1)
            dist.all_reduce(step)  # the training goes on
            with current_workers(timeout=30) as workers:
                assert workers.gather(rank) == [0, 1]
            return said, float(step)

    (said, step), (_, other) = on_ranks(2, work)
    assert step == other == 2
    assert "of 2 ranks, 1 did not make the same call within 0.5 seconds" in said[0] and "distributed=False" in said[0]
    assert 0.5 <= said[1] < 10


def test_the_users_group_is_left_alone() -> None:
    def work(rank: int) -> Any:
        import torch.distributed as dist

        with current_workers(timeout=30) as workers:  # from the environment alone, and that does not initialise it
            assert workers.gather(rank) == [0, 1]
        assert not dist.is_initialized()
        with process_group(rank, 2):
            group, count = dist.group.WORLD, dist.distributed_c10d._world.group_count
            with current_workers(True, timeout=30) as workers:
                assert workers.gather(rank) == [0, 1]
            assert dist.group.WORLD is group and dist.distributed_c10d._world.group_count == count
            step = torch.ones(1)
            dist.all_reduce(step)
            return float(step)

    assert on_ranks(2, work) == [2, 2]


def test_promised_processes_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.tangent import distributed
    from tests.tangent.ranks import free_port

    monkeypatch.setattr(distributed, "_environment", None)
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match="WORLD_SIZE=2 promises cannot be reached"):
        current_workers(timeout=1)
    with current_workers(False) as workers:
        assert workers.world == 1


# ----------------------------------------------------------------------------------- failures


def test_one_rank_fails_while_another_waits_for_it() -> None:
    def work(rank: int) -> None:
        with current_workers(timeout=30) as workers:
            if rank == 1:
                time.sleep(0.3)
                raise NonFiniteError("the output is NaN for sample 3")
            workers.gather(rank)

    waiting, failed = on_ranks(2, work)
    assert isinstance(failed, NonFiniteError)
    assert isinstance(waiting, DistributedError)
    assert "rank 1 stopped: NonFiniteError: the output is NaN for sample 3" in str(waiting)


def test_one_rank_fails_while_another_computes() -> None:
    def work(rank: int) -> None:
        with current_workers(timeout=30) as workers:
            if rank == 1:
                raise KeyboardInterrupt
            for _ in range(1000):
                time.sleep(0.01)
                workers.check()

    computing, failed = on_ranks(2, work)
    assert isinstance(failed, KeyboardInterrupt)
    assert isinstance(computing, DistributedError) and "rank 1 stopped: KeyboardInterrupt" in str(computing)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_rank_is_killed(victim: int) -> None:
    """Rank 0 serves the key-value store here: it is missed even then."""

    def work(rank: int) -> None:
        with current_workers(timeout=30) as workers:
            workers.gather(rank)
            if rank == victim:
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            workers.broadcast("anything", source=victim)

    results = on_ranks(2, work, seconds=30)
    assert isinstance(results[victim], Killed)
    assert isinstance(results[1 - victim], DistributedError) and "lost the connection" in str(results[1 - victim])


def test_errors_of_the_leader_and_of_all() -> None:
    def work(rank: int) -> Any:
        said = []
        with current_workers(timeout=30) as workers:
            for call in (workers.lead, workers.together):
                for kind in (OutputError, RuntimeError):

                    def fail(kind: type[Exception] = kind) -> None:
                        raise kind("the disk is full") if rank == 0 else ValueError("rank 1 has its own")

                    with pytest.raises((OutputError, RuntimeError, ValueError, DistributedError)) as error:
                        call(fail)
                    said.append((type(error.value).__name__, str(error.value)))
            assert workers.gather(rank) == [0, 1]  # still in step
        return said

    leader, other = on_ranks(2, work)
    plain = [("OutputError", "the disk is full"), ("RuntimeError", "the disk is full")]
    assert leader == plain * 2
    assert other[:2] == [
        ("OutputError", "the disk is full (rank 0)"),
        ("DistributedError", "rank 0 stopped: RuntimeError: the disk is full"),
    ]
    assert other[2:] == [("ValueError", "rank 1 has its own")] * 2


# --------------------------------------------------------------------------------- with a store


def test_a_store_for_all_ranks(tmp_path: Path) -> None:
    manifest = {"weights": "a"}

    def run(rank: int) -> Any:
        with current_workers(timeout=30) as workers, workers.open_store(tmp_path, manifest) as store:
            plan = store.keep_plan(workers.broadcast(store.plan or {"tasks": TASKS}))
            done = workers.lead(store.done)
            left = share({task: 1.0 for task in plan["tasks"] if task not in done}, workers.world)
            for task, owner in left.items():
                if owner == rank:
                    store.put(task, totals(task))
                    workers.check()
            workers.together(lambda: None)
            whole = added((task, store.get(task)) for task in plan["tasks"])
            store.finish()
            return whole, sorted(left)

    one = added((task, totals(task)) for task in TASKS)
    with TileStore.open(tmp_path, manifest) as store:  # begun by one process
        store.keep_plan({"tasks": TASKS})
        for task in TASKS[::2]:
            store.put(task, totals(task))
    for whole, left in on_ranks(2, run):
        assert torch.equal(whole, one) and left == TASKS[1::2]
    with TileStore.open(tmp_path, manifest) as store:
        assert store.is_finished


def test_a_store_that_does_not_fit_is_refused_on_all_ranks(tmp_path: Path) -> None:
    TileStore.open(tmp_path, {"weights": "b"}).close()

    def run(rank: int) -> None:
        with current_workers(timeout=30) as workers, workers.open_store(tmp_path, {"weights": "a"}):
            pass

    errors = on_ranks(2, run)
    assert all(isinstance(error, InputError) and "weights (b there, a now)" in str(error) for error in errors)
    assert "(rank 0)" in str(errors[1])


def test_a_store_on_a_disk_that_only_rank_0_sees(tmp_path: Path) -> None:
    def run(rank: int) -> None:
        with current_workers(timeout=30) as workers, workers.open_store(tmp_path / str(rank), {}):
            pass

    for error in on_ranks(2, run):
        assert isinstance(error, OutputError) and "all ranks share" in str(error)


OVER_NCCL = """
import torch
from genkernel.tangent.distributed import current_workers, local_device
from tests.tangent.test_distributed import TASKS, added, totals

with current_workers(True, device=local_device(), timeout=60) as workers:
    assert workers._data is not None
    x = torch.full((3, 5), 1.0 + workers.rank, dtype=torch.float64)
    workers.sum_([x])
    assert torch.equal(x, torch.full((3, 5), 3.0, dtype=torch.float64))
    whole = added(workers.in_order({task: i % 2 for i, task in enumerate(TASKS)}, totals))
    assert torch.equal(whole, added((task, totals(task)) for task in TASKS))
"""


@pytest.mark.gpu
def test_results_over_nccl(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL needs a GPU for each rank")
    run = torchrun(2, OVER_NCCL, tmp_path)
    assert run.returncode == 0, run.stderr

"""Kernels with a tile store: killed, damaged, out of disk, called with something else, on two ranks."""

from __future__ import annotations

import errno
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError, OutputError
from tests.tangent.killable import TIGHT, compute, finish, inputs, model, numbers, same_bits, start
from tests.tangent.ranks import torchrun


def files(store: Path) -> dict[str, tuple[int, int]]:
    """The finished tasks, and what changes when one is written again."""
    found = {}
    for file in (store / "tasks").glob("[!.]*"):
        state = file.stat()
        found[file.name] = (state.st_ino, state.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], float, int]:
    """The numbers of a run that nothing happens to, its seconds, and how many tasks it has."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(None, folder / "warm")  # the fork server imports everything first
    begun = time.monotonic()
    found = finish(folder / "tiles", folder / "answer")
    return found, time.monotonic() - begun, len(files(folder / "tiles"))


def test_a_store_changes_no_bit(tmp_path: Path, undisturbed: tuple[dict[str, Tensor], float, int]) -> None:
    assert undisturbed[2] > 5  # tasks: else the tests here show nothing
    assert same_bits(finish(None, tmp_path / "answer"), undisturbed[0])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    tmp_path: Path, kills: int, undisturbed: tuple[dict[str, Tensor], float, int]
) -> None:
    expected, seconds, tasks = undisturbed
    store, draw = tmp_path / "tiles", random.Random(kills)
    kept: dict[str, tuple[int, int]] = {}
    interrupted = 0
    for _ in range(kills):
        process = start(store, tmp_path / "answer")
        more = draw.randint(0, 1 if kills > 3 else 4)  # killed when there are so many tasks more, and then some
        while process.is_alive() and len(files(store)) < len(kept) + more:
            time.sleep(0.001)
        process.join(draw.uniform(0, 0.2) * seconds / tasks if more else draw.uniform(0, 0.5) * seconds)
        interrupted += process.is_alive()
        process.kill()
        process.join()
        now = files(store)
        assert kept.items() <= now.items()  # none is lost, and none was computed again
        kept = now
    assert interrupted > kills // 2
    assert same_bits(finish(store, tmp_path / "last"), expected)
    assert kept.items() <= files(store).items() and len(files(store)) == tasks
    assert not list(store.rglob("*.part"))


def test_a_finished_store_is_read_not_computed(tmp_path: Path) -> None:
    first = numbers(compute(tmp_path))
    before = files(tmp_path)
    assert same_bits(numbers(compute(str(tmp_path))), first)
    assert files(tmp_path) == before


def test_another_budget_follows_the_stored_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = numbers(compute(None))
    with monkeypatch.context() as patch:
        break_after(patch, 3)
        with pytest.raises(OutputError):
            compute(tmp_path)
    assert len(files(tmp_path)) == 3
    assert same_bits(numbers(compute(tmp_path, memory="2GiB")), whole)


def break_after(patch: pytest.MonkeyPatch, writes: int, number: int = errno.ENOSPC) -> None:
    """The disk takes so many tasks more."""
    from genkernel.tangent import store

    real, count = store._dump, [0]

    def dump(*args: Any) -> None:
        if count[0] == writes:
            raise OSError(number, os.strerror(number))
        count[0] += 1
        real(*args)

    patch.setattr(store, "_dump", dump)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    whole = numbers(compute(None))
    with monkeypatch.context() as patch:
        break_after(patch, 4, number)
        with pytest.raises(OutputError, match="4 finished tasks kept in it, and the same call goes on from there"):
            compute(tmp_path)
    before = files(tmp_path)
    assert same_bits(numbers(compute(tmp_path)), whole)
    assert before.items() <= files(tmp_path).items()


def test_a_damaged_tile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = numbers(compute(tmp_path))
    before = files(tmp_path)
    victim = sorted(before)[len(before) // 2]
    data = bytearray((tmp_path / "tasks" / victim).read_bytes())
    data[-20] ^= 0x01
    (tmp_path / "tasks" / victim).write_bytes(data)
    with caplog.at_level(logging.WARNING, "genkernel"):
        assert same_bits(numbers(compute(tmp_path)), first)
    assert "damaged" in caplog.text and victim in caplog.text
    after = files(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {victim}


def _other_weights() -> gk.TangentModel:
    changed = model()
    with torch.no_grad():
        changed.module[0].bias[0] += 1
    return changed


def _other_activation() -> nn.Module:
    changed = model().module
    changed[2] = nn.Tanh()
    return changed


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "weights": lambda: {"model": _other_weights()},
    "parameters": lambda: {"model": gk.TangentModel(model().module, params="0.*")},
    "architecture": lambda: {
        "model": gk.TangentModel(nn.Sequential(*model().module[:2], nn.Tanh(), *model().module[3:]))
    },
    "call": lambda: {"model": gk.TangentModel(model().module, call=lambda module, x: module(-x))},
    "batch_norm": lambda: {"model": gk.TangentModel(model().module, batch_norm="frozen", reference=inputs(3))},
    "x": lambda: {"x": inputs(seed=2)},
    "y": lambda: {"y": inputs(3)},
    "cotangents": lambda: {"cotangents": gk.probes(2, seed=1)},
    "precondition": lambda: {"precondition": {"0.bias": torch.full((6,), 2.0)}},
    "by": lambda: {"by": "parameter"},
    "dtype": lambda: {"dtype": "float64"},
    "accumulate": lambda: {"accumulate": "float32"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("finished")
    compute(store)
    return store


@pytest.mark.parametrize("entry", CHANGES)
def test_something_else_is_refused_and_named(finished: Path, entry: str) -> None:
    before = files(finished)
    given = {"model": model(), "x": inputs(), "cotangents": gk.probes(2), **CHANGES[entry]()}
    with pytest.raises(InputError, match=rf"made with other settings or data: .*\b{entry} \(.* there, .* now\)"):
        gk.kernel(given.pop("model"), given.pop("x"), memory=TIGHT, store=finished, progress=False, **given)
    assert files(finished) == before


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    from genkernel.tangent.store import TileStore

    compute(tmp_path)
    identity = TileStore.open(tmp_path / "other", {})
    with identity, pytest.raises(OutputError, match="another run"):
        compute(tmp_path / "other")


SHARED = """
import sys, time, warnings
from pathlib import Path
import torch
import torch.distributed as dist
from tests.tangent.killable import compute, numbers

torch.set_num_threads(1)
folder, store = Path(sys.argv[1]), sys.argv[2] or None
rank = int(__import__("os").environ["RANK"])
torch.save(numbers(compute(store)), folder / f"rank-{rank}")
assert not dist.is_initialized()
"""


@pytest.mark.distributed
@pytest.mark.parametrize("keep", [False, True], ids=["in memory", "with a store"])
def test_two_ranks_give_one_result(
    tmp_path: Path, keep: bool, undisturbed: tuple[dict[str, Tensor], float, int]
) -> None:
    store = tmp_path / "tiles"
    ended = torchrun(2, SHARED, tmp_path, str(tmp_path), str(store) if keep else "")
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        found = torch.load(tmp_path / f"rank-{rank}")
        assert found.keys() == undisturbed[0].keys()
        for name, expected in undisturbed[0].items():
            torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    if keep:  # and one process goes on from what two have done
        assert len(files(store)) == undisturbed[2]
        victims = sorted(files(store))[::2]
        for name in victims:
            (store / "tasks" / name).unlink()
        assert same_bits(finish(store, tmp_path / "answer"), torch.load(tmp_path / "rank-0"))


@pytest.mark.distributed
def test_ranks_with_different_inputs_are_refused(tmp_path: Path) -> None:
    script = """
import os
import genkernel as gk
from tests.tangent.killable import inputs, model
gk.kernel(model(), inputs(seed=int(os.environ["RANK"])))
"""
    ended = torchrun(2, script, tmp_path)
    assert ended.returncode != 0
    assert "rank 1 was called with other x than rank 0" in ended.stderr and "distributed=False" in ended.stderr


@pytest.mark.distributed
def test_each_rank_may_compute_alone(tmp_path: Path) -> None:
    script = """
import os
import genkernel as gk
from tests.tangent.killable import inputs, model
gk.kernel(model(), inputs(seed=int(os.environ["RANK"])), distributed=False)
"""
    ended = torchrun(2, script, tmp_path)
    assert ended.returncode == 0, ended.stderr

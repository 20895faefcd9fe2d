"""A tile store keeps what is finished, notices what is damaged, and refuses what does not belong."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError, OutputError
from genkernel.tangent.store import TileStore

MANIFEST: dict[str, Any] = {"weights": "a" * 64, "inputs": "b" * 64, "dtype": "float32", "code": "genkernel 0"}
TASKS = [f"tile-{i:04d}" for i in range(12)]


def tile(task: str, side: int = 40) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(TASKS.index(task))
    return {
        "totals": torch.randn(2, side, side, generator=draw, dtype=torch.float64),
        "layer/0.weight": torch.randn(side, side, generator=draw),
    }


def same(a: dict[str, Tensor] | None, b: dict[str, Tensor]) -> bool:
    return a is not None and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TileStore]:
    with TileStore.open(tmp_path / "run" / "tiles", MANIFEST) as store:
        yield store


def file_of(store: TileStore, task: str) -> Path:
    return store.path / "tasks" / f"{task}.safetensors"


# ---------------------------------------------------------------------------------- keeping


def test_tensors_come_back_as_they_were(store: TileStore) -> None:
    tensors = {
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(3, 5).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "counts": torch.arange(7),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "transposed": torch.randn(3, 4).t(),
        "größe/λ": torch.randn(2, 2, dtype=torch.float64),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    store.put("a", tensors)
    found = store.get("a")
    assert found is not None and found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*raw), name


def test_files_are_ordinary_safetensors(store: TileStore) -> None:
    from safetensors.torch import load_file

    store.put(TASKS[0], tile(TASKS[0]))
    assert same(load_file(file_of(store, TASKS[0])), tile(TASKS[0]))


def test_a_run_in_two_parts(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, MANIFEST) as store:
        assert store.plan is None and store.done() == set() and store.get(TASKS[0]) is None
        plan = store.keep_plan({"tasks": TASKS, "threads": 1, "seconds": 0.1 + 0.2})
        for task in TASKS[:5]:
            store.put(task, tile(task))
    with TileStore.open(tmp_path, MANIFEST) as store:
        assert store.plan == plan and not store.is_finished
        assert store.done() == set(TASKS[:5])
        for task in TASKS[5:]:
            store.put(task, tile(task))
        store.finish()
    with TileStore.open(tmp_path, MANIFEST) as one, TileStore.open(tmp_path, MANIFEST) as two:  # only read from now on
        assert one.is_finished and one.done() == set(TASKS)
        assert all(same(two.get(task), tile(task)) for task in TASKS)


def test_a_plan_is_kept_once(store: TileStore) -> None:
    store.keep_plan({"threads": 1})
    assert store.keep_plan({"threads": 1}) == {"threads": 1}
    with pytest.raises(InputError, match="has a plan"):
        store.keep_plan({"threads": 2})


def test_starting_anew(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, MANIFEST) as store:
        store.keep_plan({"threads": 1})
        store.put(TASKS[0], tile(TASKS[0]))
    with TileStore.open(tmp_path, {**MANIFEST, "dtype": "float64"}, resume=False) as store:
        assert store.done() == set() and store.plan is None
    with TileStore.open(tmp_path, {**MANIFEST, "dtype": "float64"}):
        pass


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a", "a b", "x" * 300])
def test_impossible_names(store: TileStore, name: str) -> None:
    with pytest.raises(InputError, match="a task is named by"):
        store.put(name, {})


def test_complex_tensors_are_refused_and_leave_nothing(store: TileStore) -> None:
    with pytest.raises(InputError, match="complex64"):
        store.put("a", {"a": torch.zeros(2, dtype=torch.complex64)})
    assert not list((store.path / "tasks").iterdir())


# ---------------------------------------------------------------------------------- damage


def _flip(position: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(len(data) - 1, int(position * len(data)))] ^= 0x10
        file.write_bytes(data)

    return damage


def _cut(share: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(share * file.stat().st_size))


DAMAGES = {
    **{f"bit at {p:.3f}": _flip(p) for p in (0.0, 0.0002, 0.001, 0.005, 0.01, 0.3, 0.7, 1.0)},
    **{f"cut to {s}": _cut(s) for s in (0.0, 0.0001, 0.5, 0.9999)},
    "longer": lambda file: file.open("ab").write(b"more") and None,
    "rubbish": lambda file: file.write_bytes(random.Random(0).randbytes(5000)) and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(store: TileStore, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    for task in TASKS[:3]:
        store.put(task, tile(task))
    DAMAGES[damage](file_of(store, TASKS[1]))
    with caplog.at_level(logging.WARNING, "genkernel"):
        assert store.done() == {TASKS[0], TASKS[2]}
    assert "damaged" in caplog.text and TASKS[1] in caplog.text
    assert not file_of(store, TASKS[1]).exists() and store.get(TASKS[1]) is None
    store.put(TASKS[1], tile(TASKS[1]))
    assert store.done() == set(TASKS[:3])


def test_every_flipped_byte_of_a_small_tile_is_noticed(store: TileStore) -> None:
    store.put("a", {"k": torch.arange(6, dtype=torch.float64).reshape(2, 3)})
    whole = file_of(store, "a").read_bytes()
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 0x01
        file_of(store, "a").write_bytes(data)
        assert store.get("a") is None, position


def test_tiles_of_another_task_or_run_are_noticed(tmp_path: Path) -> None:
    with (
        TileStore.open(tmp_path / "a", MANIFEST) as a,
        TileStore.open(tmp_path / "b", {**MANIFEST, "inputs": "c" * 64}) as b,
    ):
        a.put(TASKS[0], tile(TASKS[0]))
        shutil.copy(file_of(a, TASKS[0]), file_of(a, TASKS[1]))
        shutil.copy(file_of(a, TASKS[0]), file_of(b, TASKS[0]))
        assert a.done() == {TASKS[0]} and b.done() == set()


# ---------------------------------------------------------------------------------- refusals


def test_what_differs_is_named(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, {**MANIFEST, "model": {"call": "default", "batch_norm": "eval"}}) as store:
        store.put(TASKS[0], tile(TASKS[0]))
    now = {
        **MANIFEST,
        "weights": "f" * 64,
        "dtype": "float64",
        "model": {"call": "default", "batch_norm": "train"},
        "y": "new",
    }
    with pytest.raises(InputError) as error:
        TileStore.open(tmp_path, now)
    said = str(error.value)
    assert "weights (aaaaaaaa… there, ffffffff… now)" in said
    assert "dtype (float32 there, float64 now)" in said
    assert "model.batch_norm (eval there, train now)" in said and "model.call" not in said
    assert "y (none there, new now)" in said and "inputs" not in said
    assert "another folder" in said and "\n" not in said
    assert (tmp_path / "tasks" / f"{TASKS[0]}.safetensors").exists()


def test_places_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="not a folder"):
            TileStore.open(place, MANIFEST)
    with pytest.raises(InputError, match=r"not empty and holds no tile store \(it holds file\)"):
        TileStore.open(tmp_path, MANIFEST)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_damaged_or_newer_manifest(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, MANIFEST):
        pass
    manifest = tmp_path / "manifest.json"
    head = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**head, "version": 99}))
    with pytest.raises(InputError, match="newer genkernel"):
        TileStore.open(tmp_path, MANIFEST)
    for text in ("", "[]", "{}", json.dumps(head)[:-5], json.dumps({**head, "format": "else"})):
        manifest.write_text(text)
        with pytest.raises(InputError, match="cannot be trusted"):
            TileStore.open(tmp_path, MANIFEST)


def test_only_json_in_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JSON"):
        TileStore.open(tmp_path / "new", {"weights": torch.ones(2)})
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------- disks


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota is used up"), (errno.EACCES, "permission denied")],
)
def test_a_write_that_fails(
    store: TileStore, call: str, number: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in TASKS[:2]:
        store.put(task, tile(task))

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        if call == "write":
            broken.setattr("genkernel.tangent.store._dump", fail)
        else:
            broken.setattr(os, call, fail)
        with pytest.raises(OutputError, match=rf"{says}; 2 finished tasks kept .* the same call goes on from there"):
            store.put(TASKS[2], tile(TASKS[2]))
    assert len(list((store.path / "tasks").iterdir())) == 2  # no temporary file either
    assert store.done() == set(TASKS[:2])
    store.put(TASKS[2], tile(TASKS[2]))
    assert store.done() == set(TASKS[:3])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    with TileStore.open(small_disk / "tiles", MANIFEST) as store:
        kept = []
        with pytest.raises(OutputError, match=r"the disk is full; \d+ finished tasks kept"):
            for task in TASKS:
                store.put(task, tile(task))
                kept.append(task)
        assert 2 <= len(kept) < len(TASKS)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    with TileStore.open(small_disk / "tiles", MANIFEST) as store:
        assert store.done() == set(kept)
        for task in TASKS:
            if task not in kept:
                store.put(task, tile(task))
        assert all(same(store.get(task), tile(task)) for task in TASKS)


# ------------------------------------------------------------------------- several processes


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def run_all(path: Path, pause: float = 0.0) -> None:
    """What a run does: go through the tasks, skip what is done."""
    with TileStore.open(path, MANIFEST) as store:
        plan = store.plan or store.keep_plan({"tasks": TASKS})
        done = store.done()
        for task in plan["tasks"]:
            if task not in done:
                time.sleep(pause)
                store.put(task, tile(task))
        store.finish()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    child = in_child(lambda: run_all(tmp_path, pause=5))
    try:
        wait_for((tmp_path / "manifest.json").exists)  # written under the lock
        with pytest.raises(OutputError, match=f"another run \\(process {child} on .*\\) is using"):
            TileStore.open(tmp_path, MANIFEST)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with TileStore.open(tmp_path, MANIFEST) as store:
        store.put(TASKS[0], tile(TASKS[0]))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    draw = random.Random(kills)
    finished: set[str] = set()
    path = tmp_path / "tiles"
    for _ in range(kills):
        child = in_child(lambda: run_all(path, pause=0.002))
        time.sleep(draw.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        names = {p.name.split(".")[0] for p in (path / "tasks").glob("tile-*")}
        assert finished <= names  # nothing that was finished is lost
        finished = names
    run_all(path)
    with TileStore.open(path, MANIFEST) as store:
        assert store.is_finished and store.done() == set(TASKS)
        assert all(same(store.get(task), tile(task)) for task in TASKS)
    left = {p.name for p in path.rglob("*") if p.is_file()}
    assert left == {"manifest.json", "lock", *(f"{task}.safetensors" for task in TASKS)}


def test_what_killed_processes_leave_is_removed(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, MANIFEST) as store:
        store.put(TASKS[0], tile(TASKS[0]))
    for left in (".manifest.json.x.part", "tasks/.tile-0001.x.part"):
        (tmp_path / left).write_bytes(b"half")
    with TileStore.open(tmp_path, MANIFEST) as store:
        assert store.done() == {TASKS[0]}
    assert not list(tmp_path.rglob("*.part"))


def test_killed_before_the_manifest_was_there(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / ".manifest.json.x.part").touch()
    run_all(tmp_path)


def test_ranks_of_one_run_write_together(tmp_path: Path) -> None:
    with TileStore.open(tmp_path, MANIFEST, shared=True) as store:
        plan = store.keep_plan({"tasks": TASKS})

        def rank(which: int) -> None:
            with TileStore.join(tmp_path, MANIFEST, store.token) as mine:
                mine.keep_plan(plan)
                for task in TASKS[which::3]:
                    mine.put(task, tile(task))

        children = [in_child(lambda which=which: rank(which)) for which in (1, 2)]  # type: ignore[misc]
        for task in TASKS[::3]:
            store.put(task, tile(task))
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert store.done() == set(TASKS)
        with pytest.raises(OutputError, match="is using"):  # by another run
            TileStore.open(tmp_path, MANIFEST, shared=True)
        with pytest.raises(OutputError, match="another run has taken"):
            TileStore.join(tmp_path, MANIFEST, "0123")
        with pytest.raises(InputError, match="dtype"):
            TileStore.join(tmp_path, {**MANIFEST, "dtype": "float64"}, store.token)
    with pytest.raises(OutputError, match="all ranks share"):
        TileStore.join(tmp_path / "elsewhere", MANIFEST, store.token)


def test_a_surviving_rank_keeps_other_runs_out(tmp_path: Path) -> None:
    store = TileStore.open(tmp_path, MANIFEST, shared=True)
    other = TileStore.join(tmp_path, MANIFEST, store.token)
    store.close()
    with pytest.raises(OutputError, match="is using"):
        TileStore.open(tmp_path, MANIFEST)
    other.close()
    TileStore.open(tmp_path, MANIFEST).close()


def test_a_finished_store_can_be_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    run_all(tmp_path)
    real = os.open

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EACCES, "permission denied")
        return real(path, flags, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_)
        with TileStore.open(tmp_path, MANIFEST) as store:
            assert all(same(store.get(task), tile(task)) for task in TASKS)

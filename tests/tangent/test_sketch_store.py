"""Rows on disk: interrupted, killed, damaged, mixed up, out of space."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError, MissingError, OutputError
from genkernel.tangent import sketching
from genkernel.tangent.sketch_store import RowStore
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.sketching import sketch
from tests.tangent.test_sketches import images, network

ROOT = Path(__file__).resolve().parents[2]
N, BATCH = 10, 3  # the last batch is short


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketching, "LARGEST_BATCH", BATCH)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sketch"


def stored(folder: Path, **options: Any) -> Sketch:
    settings = {"dim": 32, "cotangents": gk.probes(2), "by": "layer"} | options
    return sketch(settings.pop("model", network()), settings.pop("x", images(N)), store=folder, **settings)


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a batch after ``count`` finished ones is under way."""
    put, done = RowStore.put, []

    def stop(self: RowStore, *args: Any) -> None:
        if len(done) == count:
            raise KeyboardInterrupt
        put(self, *args)
        done.append(1)

    monkeypatch.setattr(RowStore, "put", stop)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First samples of the batches that are computed from here on."""
    put, starts = RowStore.put, []

    def note(self: RowStore, start: int, *args: Any) -> None:
        starts.append(start)
        put(self, start, *args)

    monkeypatch.setattr(RowStore, "put", note)
    return starts


def same(one: Sketch, two: Sketch) -> bool:
    return torch.equal(one.values, two.values) and torch.equal(one.norms, two.norms)


def test_the_same_as_in_memory_and_read_back(folder: Path) -> None:
    inside = sketch(network(), images(N), dim=32, cotangents=gk.probes(2), by="layer")
    s = stored(folder)
    assert same(s, inside) and same(Sketch.open(folder), inside)
    assert s.layers == inside.layers and s.projection == inside.projection
    assert torch.equal(s.kernel().values, inside.kernel().values)
    rows = s.rows
    rows += 1.0  # nobody's file changes
    assert same(Sketch.open(folder), inside)


def test_the_files_say_what_they_are(folder: Path) -> None:
    s = stored(folder, dtype="float32", by=None)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "genkernel.sketch" and manifest["settings"]["projection"]["dim"] == 32
    assert manifest["settings"]["parameters"]["5.bias"] == [3]
    file = manifest["files"]["rows.bin"]
    raw = np.fromfile(folder / "rows.bin", file["dtype"]).reshape(file["shape"])
    assert np.array_equal(raw[:, 0].transpose(1, 0, 2), s.rows.numpy())
    assert (folder / "rows.bin").stat().st_size == N * 1 * 2 * 32 * 4


@pytest.mark.parametrize("finished", [0, 1, 3])
def test_an_interrupted_run_goes_on(folder: Path, finished: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        interrupt_after(finished, broken)
        stored(folder)
    if finished:
        with pytest.raises(InputError, match=f"{finished * BATCH} of {N} samples"):
            Sketch.open(folder)
    starts = counted(monkeypatch)
    monkeypatch.setattr(sketching, "LARGEST_BATCH", 100)  # the plan of the first run holds
    s = stored(folder)
    assert starts == list(range(finished * BATCH, N, BATCH))
    monkeypatch.setattr(sketching, "LARGEST_BATCH", BATCH)
    assert same(s, sketch(network(), images(N), dim=32, cotangents=gk.probes(2), by="layer"))
    starts.clear()
    assert same(stored(folder), s) and not starts


def test_a_half_written_line_is_no_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stored(folder)
    values = whole.values.clone()
    journal = folder / "done.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    starts = counted(monkeypatch)
    assert torch.equal(stored(folder).values, values)
    assert starts == [2 * BATCH, 3 * BATCH]
    assert torch.equal(Sketch.open(folder).values, values)


@pytest.mark.parametrize("name", ["rows.bin", "norms.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damage_is_noticed_and_repaired(
    folder: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = stored(folder).values.clone()
    path = folder / name
    raw = bytearray(path.read_bytes())
    row = len(raw) // N
    if damage == "flip":
        raw[row * 4] ^= 1
        path.write_bytes(raw)
        lost = [BATCH]
    elif damage == "cut":
        path.write_bytes(raw[: -row // 2])
        lost = [3 * BATCH]
    else:
        path.unlink()
        lost = [0, BATCH, 2 * BATCH, 3 * BATCH]
    with pytest.raises(InputError, match=f"damaged: samples {lost[0]} to"):
        Sketch.open(folder)
    starts = counted(monkeypatch)
    with caplog.at_level("WARNING", "genkernel"):
        assert torch.equal(stored(folder).values, values)
    assert starts == lost and "checksum" in caplog.text
    assert torch.equal(Sketch.open(folder).values, values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "seed of the projection"),
        ({"dim": 64}, "dim of the projection"),
        ({"nonzeros": 2}, "nonzeros of the projection"),
        ({"cotangents": gk.probes(2, seed=9)}, "cotangents"),
        ({"cotangents": gk.probes(3)}, "cotangents"),
        ({"by": None}, "layers"),
        ({"dtype": "float32"}, "dtype"),
        ({"model": network(1)}, "weights of the model"),
        ({"x": images(N, seed=2)}, "inputs"),
        ({"x": images(N + 1)}, "inputs"),
        ({"precondition": {"5.bias": torch.ones(3)}}, "precondition"),
    ],
)
def test_other_settings_are_refused(folder: Path, options: dict[str, Any], words: str) -> None:
    stored(folder)
    before = (folder / "rows.bin").read_bytes()
    with pytest.raises(InputError, match=words):
        stored(folder, **options)
    assert (folder / "rows.bin").read_bytes() == before


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files but no sketch"):
        stored(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        stored(tmp_path / "notes.txt")
    with pytest.raises(MissingError, match="no sketch"):
        Sketch.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "genkernel.tiles"}')
    with pytest.raises(InputError, match=r"genkernel\.tiles"):
        Sketch.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest"):
        Sketch.open(tmp_path)


def test_one_run_at_a_time_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when every rank of torchrun is given the same folder."""
    put, refused = RowStore.put, []

    def meanwhile(self: RowStore, *args: Any) -> None:
        monkeypatch.setattr(RowStore, "put", put)
        for write in (stored, inside.save):
            with pytest.raises(OutputError, match=f"another run \\(process {os.getpid()} on .*is using the sketch"):
                write(folder)
            refused.append(write)
        put(self, *args)

    inside = sketch(network(), images(N), dim=32, cotangents=gk.probes(2), by="layer")
    monkeypatch.setattr(RowStore, "put", meanwhile)
    assert same(stored(folder), inside) and len(refused) == 2
    with RowStore.open(folder, inside.settings(), inside._sizes(), {}):  # finished: read by many
        assert same(stored(folder), inside)
        raw = bytearray((folder / "rows.bin").read_bytes())
        raw[0] ^= 1
        (folder / "rows.bin").write_bytes(raw)
        with pytest.raises(OutputError, match="is using the sketch"):  # to be repaired by one
            stored(folder)
    assert same(stored(folder), inside)
    with pytest.raises(InputError, match="seed of the projection"):
        stored(folder, seed=1)
    assert same(stored(folder), inside)  # an error lets go


def test_a_full_disk_keeps_what_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stored(folder.with_name("other")).values
    write, written = os.pwrite, []

    def full(handle: int, data: Any, offset: int) -> int:
        written.append(1)
        if len(written) > 5:  # who holds the lock, and two files for each of two batches
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match=f"the disk is full; {2 * BATCH} of {N} samples are kept"):
            stored(folder)
    starts = counted(monkeypatch)
    assert torch.equal(stored(folder).values, values)
    assert starts == [2 * BATCH, 3 * BATCH]


SCRIPT = """
import sys, time
import genkernel as gk
from genkernel.tangent import sketching
from genkernel.tangent.sketch_store import RowStore
from tests.tangent.test_sketches import images, network
import torch
torch.set_num_threads(1)
sketching.LARGEST_BATCH = {batch}
sketching.fingerprint_code = lambda: "the same"
put = RowStore.put
def slowly(self, *args):
    put(self, *args)
    time.sleep(0.2)
RowStore.put = slowly
sketching.sketch(network(), images({n}), dim=32, cotangents=gk.probes(2), by="layer", store=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 2, 3])
def test_a_killed_process_leaves_rows_with_the_same_bits(
    folder: Path, kill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketching, "fingerprint_code", lambda: "the same")  # whatever is edited meanwhile
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(batch=BATCH, n=N), str(folder)], cwd=ROOT)
    journal = folder / "done.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < kill:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert same(stored(folder), sketch(network(), images(N), dim=32, cotangents=gk.probes(2), by="layer"))

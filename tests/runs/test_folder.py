"""Run folders: complete or invisible."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.runs import RunFolder, finished_files, read_json


def fill(folder, page="<!doctype html>", extra=()):
    folder.write_json("summary.json", {"kind": "diffusion"})
    for name in extra:
        folder.write(name, b"png")
    folder.write("index.html", page)
    folder.write_json("run.json", {"files": sorted({*folder.files(), "run.json"})})


def everything(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))


def test_nothing_shows_before_commit_and_everything_after(tmp_path):
    out = tmp_path / "a" / "b"
    with RunFolder.create(out) as folder:
        fill(folder, extra=["figures/kernel.png"])
        assert [p.name for p in out.iterdir() if not p.name.startswith(".")] == []
        folder.commit()
    assert everything(out) == ["figures", "figures/kernel.png", "index.html", "run.json", "summary.json"]
    assert finished_files(out) == ["figures/kernel.png", "index.html", "run.json", "summary.json"]


def test_abandoned_run_leaves_no_trace_not_even_the_folders_it_made(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "a" / "b") as folder:
        fill(folder)
        raise KeyboardInterrupt
    assert everything(tmp_path) == []


def test_abandoned_run_leaves_an_earlier_one_alone(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        fill(folder, page="first")
        folder.commit()
    before = everything(tmp_path)
    with pytest.raises(OutputError), RunFolder.create(tmp_path) as folder:
        fill(folder, page="second")
        raise OutputError("disk full")
    assert everything(tmp_path) == before
    assert (tmp_path / "index.html").read_text() == "first"


def test_second_run_replaces_the_first_and_keeps_foreign_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for page, figure in (("first", "figures/old.png"), ("second", "figures/new.png")):
        with RunFolder.create(tmp_path) as folder:
            fill(folder, page=page, extra=[figure])
            folder.commit()
    assert (tmp_path / "index.html").read_text() == "second"
    assert everything(tmp_path) == ["figures", "figures/new.png", "index.html", "notes.txt", "run.json", "summary.json"]


def test_interrupt_during_commit_is_delivered_after_it(tmp_path, monkeypatch):
    replace = os.replace

    def replace_then_interrupt(a, b):
        replace(a, b)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "out") as folder:
        fill(folder)
        monkeypatch.setattr(os, "replace", replace_then_interrupt)
        folder.commit()
    assert finished_files(tmp_path / "out") == ["index.html", "run.json", "summary.json"]
    assert not [name for name in everything(tmp_path) if ".part" in name]


def test_half_a_run_is_not_finished(tmp_path):
    assert finished_files(tmp_path / "no") == []
    with RunFolder.create(tmp_path) as folder:
        fill(folder)
        folder.commit()
    (tmp_path / "summary.json").unlink()
    assert finished_files(tmp_path) == []


def test_unusable_output_paths(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not a folder"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        RunFolder.create(tmp_path / "file" / "below" / "deeper")
    with pytest.raises(OutputError, match="not a folder"):
        RunFolder.create("/dev/full")
    assert everything(tmp_path) == ["file"]


def test_unwritable_folder(tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # root writes anywhere: let the system call say no instead

        def refused(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.mkdtemp", refused)
    else:
        locked.chmod(0o555)
    with pytest.raises(OutputError, match="permission denied"):
        RunFolder.create(locked / "out")
    locked.chmod(0o755)
    assert everything(locked) == []


def test_json_has_no_nan_and_unpacks_arrays(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        content = {"x": np.array([1.0, np.nan]), "n": np.int64(3), "p": tmp_path, "t": (1, None)}
        path = folder.write_json("a.json", content)
        assert json.loads(path.read_text()) == {"x": [1.0, None], "n": 3, "p": str(tmp_path), "t": [1, None]}


def test_reading_what_is_no_run(tmp_path):
    with pytest.raises(MissingError, match="is not a folder"):
        read_json(tmp_path / "no" / "summary.json")
    with pytest.raises(MissingError, match=r"holds no summary\.json"):
        read_json(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(InputError, match="not the JSON"):
        read_json(tmp_path / "summary.json")


def test_names_outside_the_folder_are_never_touched(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"files": ["../victim", str(victim)]}))
    with RunFolder.create(out) as folder:
        fill(folder)
        folder.commit()
    assert victim.read_text() == "x"


def test_a_kind_is_not_put_over_another_one_nor_over_other_files(tmp_path):
    with RunFolder.create(tmp_path / "run", kind="diffusion") as folder:
        fill(folder)
        folder.commit()
    RunFolder.create(tmp_path / "run", kind="diffusion").close()
    with pytest.raises(InputError, match="holds a finished diffusion run"):
        RunFolder.create(tmp_path / "run", kind="comparison")
    with pytest.raises(InputError, match="is not empty and holds no genkernel run"):
        RunFolder.create(tmp_path, kind="diffusion")
    (tmp_path / "new").mkdir()
    RunFolder.create(tmp_path / "new", kind="diffusion").close()
    assert everything(tmp_path) == [
        "new", "run", "run/index.html", "run/run.json", "run/summary.json",
    ]  # fmt: skip


def test_what_dead_processes_left_is_swept_and_what_live_ones_fill_is_not(tmp_path):
    first = RunFolder.create(tmp_path)
    mine, machine = first.stage.name, first.stage.name.split("-")[1]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".run-{machine}-{dead.pid}-x.part",
        "reused": f".run-{machine}-{os.getpid()}-x.part",
        "parent": f".run-{machine}-{os.getppid()}-x.part",
        "elsewhere": f".run-{'0' * 8}-1-x.part",
        "unknown": ".run-new.part",
        "unknown and old": ".run-old.part",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text("{}")
    os.utime(tmp_path / names["unknown and old"], (0, 0))
    second = RunFolder.create(tmp_path)
    kept = {names["parent"], names["elsewhere"], names["unknown"], mine, second.stage.name}
    assert {p.name for p in tmp_path.iterdir()} == kept
    first.close()
    second.close()

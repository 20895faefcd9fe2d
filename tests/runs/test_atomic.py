"""Atomic files: whole or absent, whatever goes wrong."""

import os
import subprocess
import sys
import textwrap

import pytest

from genkernel.errors import OutputError
from genkernel.runs import write_atomic

LIMITED = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from genkernel.errors import OutputError
    from genkernel.runs import write_atomic
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_atomic(Path(sys.argv[1]) / "big.bin", b"x" * 100_000)
    except OutputError as error:
        print(error)
        sys.exit(7)
    """
)


def test_writes_text_and_bytes_and_replaces(tmp_path):
    path = write_atomic(tmp_path / "a.txt", "πρώτη")
    assert path.read_text(encoding="utf-8") == "πρώτη"
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_missing_folder_and_folder_in_the_way(tmp_path):
    with pytest.raises(OutputError, match="its folder does not exist"):
        write_atomic(tmp_path / "no" / "a", "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_atomic(tmp_path / "file" / "a", "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_atomic(tmp_path / "dir", "x")
    assert sorted(os.listdir(tmp_path)) == ["dir", "file"]


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "big.bin").write_bytes(b"old")
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 7, run.stderr
    assert "file-size limit" in run.stdout
    assert os.listdir(tmp_path) == ["big.bin"]
    assert (tmp_path / "big.bin").read_bytes() == b"old"


def test_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == []

"""The folder of one run, filled out of sight and shown when it is complete.

A run writes into a staging folder; :meth:`RunFolder.commit` moves everything into place,
``index.html`` last. Whatever goes wrong before that (a full disk, Ctrl-C, an error in the
analysis) leaves the output path as it was.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import shutil
import signal
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.runs.atomic import explain, write_atomic

PAGE = "index.html"
PROVENANCE = "run.json"
SUMMARY = "summary.json"
KERNELS = ".kernels"

# staging folders carry the machine and the process that fills them, so that those of dead ones can be told
_STAGE = re.compile(r"\.run-(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-)?[^-]+\.part")
_ABANDONED = 24 * 3600.0  # seconds without a change after which a staging folder of unknown origin is left over
_filling: set[Path] = set()  # staging folders of this very process


class RunFolder:
    """A run folder under construction; use it as a context manager.

    >>> with RunFolder.create("out") as folder:
    ...     folder.write_json("summary.json", {"kind": "diffusion"})
    ...     folder.write("index.html", "<!doctype html>")
    ...     folder.commit()

    Leaving the block without :meth:`commit` removes every trace, except what was put in
    ``out/.kernels`` (:func:`kernels_of`): that is for the next run to go on from.
    """

    def __init__(self, out: Path, stage: Path, made: list[Path]):
        self.out = out
        self.stage = stage
        self._made = made  # folders that create() had to make, outermost first
        self._open = True
        _filling.add(stage.absolute())

    @classmethod
    def create(cls, out: str | Path, kind: str | None = None) -> RunFolder:
        """Claim ``out`` now, so that an unusable output path fails before the work, not after.

        Args:
            out: the run's folder. It is made when it does not exist; in one that exists the
                files of the new run replace those of the same name, and others stay. What dead
                processes left behind in it is removed.
            kind: what the run is; ``out`` then has to be new, empty, or hold an earlier run of that
                kind, because a run of another kind, or a folder of other things, was hardly meant.

        Raises:
            InputError: ``out`` holds a run of another kind, or other files.
            OutputError: ``out`` is a file, lies below a file, or cannot be written to.
        """
        out = Path(out).expanduser()
        made: list[Path] = []
        try:
            if out.exists() and not out.is_dir():
                raise OutputError(f"cannot write a run to {out}: it is not a folder (give a folder, or a new name)")
            if kind is not None and out.is_dir():
                _check_place(out, kind)
            for path in reversed([p for p in (out, *out.parents) if _is_missing(p)]):
                path.mkdir()
                made.append(path)
            _sweep(out)
            stage = Path(tempfile.mkdtemp(prefix=f".run-{_machine()}-{os.getpid()}-", suffix=".part", dir=out))
        except OSError as error:
            _remove_empty(made)
            if isinstance(error, OutputError):
                raise
            raise OutputError(explain(error, out)) from error
        folder = cls(out, stage, made)
        try:  # a folder can be made where no byte can be written: quota, full disk, odd mounts
            folder.write("probe", b"genkernel").unlink()
        except OutputError as error:
            folder.close()
            cause = error.__cause__
            raise OutputError(explain(cause, out) if isinstance(cause, OSError) else str(error)) from error
        return folder

    # ------------------------------------------------------------------ filling

    def path(self, name: str) -> Path:
        """Where to put ``name`` (relative to the run folder) while the run is under construction."""
        target = self.stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextlib.contextmanager
    def placing(self, name: str) -> Iterator[Path]:
        """The path for ``name``; errors while it is written speak of where it was to go, not of the staging folder."""
        try:
            yield self.path(name)
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise OutputError(explain(cause, self.out / name)) from cause

    def write(self, name: str, data: bytes | str) -> Path:
        with self.placing(name) as path:
            return write_atomic(path, data)

    def write_json(self, name: str, content: Any) -> Path:
        """Write JSON; NaN and infinity become null, because no JSON reader agrees on them."""
        return self.write(name, json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def files(self) -> list[str]:
        """Names of the files written so far, relative to the run folder."""
        return sorted(p.relative_to(self.stage).as_posix() for p in self.stage.rglob("*") if p.is_file())

    # ------------------------------------------------------------------ the end

    @property
    def is_alone(self) -> bool:
        """No other process is filling a run in the same folder."""
        _sweep(self.out)
        return not any(p != self.stage and _STAGE.fullmatch(p.name) for p in self.out.glob(".run-*.part"))

    def commit(self) -> Path:
        """Move everything into place; the page comes last, so its presence means a whole run.

        The kernels that were kept for an unfinished run are removed.

        Returns:
            Path: the run folder.
        """
        names = sorted(self.files(), key=lambda n: (n == PAGE, n == PROVENANCE, n))
        stale = set(_listed(self.out)) - set(names)
        with _uninterrupted():
            try:
                (self.out / PAGE).unlink(missing_ok=True)
                for name in names:
                    target = self.out / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self.stage / name, target)
                for name in stale:  # figures of the run that was here before
                    (self.out / name).unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(explain(error, self.out)) from error
            if self.is_alone:
                shutil.rmtree(kernels_of(self.out), ignore_errors=True)
            self._made = []
            self.close()
        return self.out

    def close(self) -> None:
        """Remove the staging folder, and the folders made for a run that never came to be."""
        if not self._open:
            return
        self._open = False
        shutil.rmtree(self.stage, ignore_errors=True)
        _filling.discard(self.stage.absolute())
        _remove_empty(self._made)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kernels_of(out: str | Path) -> Path:
    """Where a run in ``out`` keeps finished kernels until it is complete."""
    return Path(out).expanduser() / KERNELS


def finished_files(path: str | Path) -> list[str]:
    """Files of the finished run in ``path``; empty when there is none.

    A run is finished when its page is there and every file its ``run.json`` names is too.
    """
    path = Path(path).expanduser()
    names = _listed(path)
    if not (path / PAGE).is_file() or not all((path / name).is_file() for name in names):
        return []
    return names


def read_json(path: str | Path) -> Any:
    """Read one JSON file of a run.

    Raises:
        MissingError: there is no such file.
        InputError: it is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        folder = path.parent
        problem = "is not a folder" if not folder.is_dir() else f"holds no {path.name}"
        raise MissingError(f"{folder} {problem}: give the folder that a genkernel run was written to") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not the JSON of a genkernel run: {error}") from error


def run_files(path: str | Path) -> list[str] | None:
    """Files that the ``run.json`` in ``path`` names, there or not; None when that is no folder of a run."""
    path = Path(path)
    try:
        record = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        if "genkernel" not in record["versions"] or not isinstance(record["files"], list):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _listed(path)


def _check_place(out: Path, kind: str) -> None:
    """Refuse to put a run of ``kind`` where something else lives."""
    try:
        there = json.loads((out / SUMMARY).read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        there = None
    if (out / PROVENANCE).is_file():
        if there is not None and there != kind:
            raise InputError(
                f"{out} holds a finished {there} run, which a {kind} run does not replace: give another folder"
            )
        return
    others = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    if others:
        raise InputError(
            f"{out} is not empty and holds no genkernel run (it holds {', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}): give a new or empty folder, or that of an earlier run"
        )


def _sweep(out: Path) -> None:
    """Remove the staging folders of processes that were killed."""
    for path in out.glob(".run-*.part"):
        if (found := _STAGE.fullmatch(path.name)) is None or not path.is_dir() or path.absolute() in _filling:
            continue
        if found["machine"] == _machine():
            process = int(found["process"])
            left_over = process == os.getpid() or not _is_alive(process)
        else:  # of another machine that shares the folder, or of an earlier version
            try:
                left_over = time.time() - path.stat().st_mtime > _ABANDONED
            except OSError:
                continue
        if left_over:
            shutil.rmtree(path, ignore_errors=True)


def _machine() -> str:
    """A short name that tells machines with a common file system apart."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there, os.kill with signal 0 ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to someone else
        return True
    return True


def _listed(path: Path) -> list[str]:
    """The files that the run in ``path`` says it consists of (only names inside the folder)."""
    try:
        names = json.loads((path / PROVENANCE).read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError, AttributeError):
        return []
    return [n for n in names if isinstance(n, str) and n and not Path(n).is_absolute() and ".." not in Path(n).parts]


def _remove_empty(made: list[Path]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir()


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False


def _plain(value: Any) -> Any:
    """JSON types only: numpy scalars and arrays unpacked, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return _plain(value.tolist())
    return str(value)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and a request to terminate back for the few renames of a commit, and deliver it afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])

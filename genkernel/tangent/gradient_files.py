"""Gradients that wait in files, so that a run through the model serves all passes.

    gradients/<side>-<start>-<stop>-<token>.npz    what samples start … stop contribute to some tasks

A budget that holds the gradients of a few parameters at a time asks for a pass through the model for each
group of them. With a folder to keep gradients in, the model runs once; each pass then reads its own.

``.npz`` is written array by array, and its checksums tell damage. A file is written under a temporary name: after a
kill it is there and whole, or not there, and the run goes on behind the last one. (After a power failure it may be
damaged.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import secrets
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import OutputError
from genkernel.runs.atomic import explain
from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.plan import Task
from genkernel.tangent.stash import columns, compact, finite
from genkernel.tangent.stopwatch import Stopwatch
from genkernel.tangent.store import GRADIENT_FILE

log = logging.getLogger("genkernel")

_ABOUT, _BFLOAT16 = "about.json", ".bfloat16"
#: bytes that are read at a time
_CHUNK = 1 << 20


class DamagedError(Exception):
    """A file could not be read, and is removed."""


class GradientFiles:
    """Gradients of batches of samples, by task.

    Args:
        folder: made when it is needed.
        shapes: shape of every parameter.
        forms: the form of each parameter's gradient, for one sample and without data. Those that are smaller
            than the gradient itself are kept so.
        limit: entries of gradients that are made at a time.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], forms: Mapping[str, Factor], limit: int):
        self.folder, self.shapes, self.forms, self.limit = folder, shapes, forms, limit
        self.numbers = {name: i for i, name in enumerate(shapes)}  # a name may hold what a file's may not
        self._made: set[Path] = set()
        self._held: defaultdict[tuple[str, int], list[tuple[int, Path, frozenset[str]]]] = defaultdict(list)
        for path in sorted(folder.glob("*.npz")) if folder.is_dir() else ():
            if match := GRADIENT_FILE.fullmatch(path.name):
                with contextlib.suppress(DamagedError), self._opened(path) as (_, about):
                    tasks = frozenset(about["tasks"])
                    self._held[match[1], int(match[2])].append((int(match[3]), path, tasks))

    def reach(self, side: str, start: int, task: str) -> int | None:
        """Up to which sample there is a file from ``start`` on for a task; None where there is none."""
        return max((stop for stop, _, held in self._held[side, start] if task in held), default=None)

    def writing(self, side: str, start: int, stop: int, tasks: Sequence[Task], watch: Stopwatch) -> Writer:
        """A sink for these samples, in a ``with`` block; nothing is left of it when that fails.

        ``watch`` counts the time of writing as "files".

        Raises:
            OutputError: the disk is full, a quota is used up, permission is denied.
        """
        return Writer(self, side, start, stop, tasks, watch)

    def added(self, side: str, start: int, stop: int, path: Path, tasks: Sequence[Task]) -> None:
        """Know a file that was written."""
        self._made.add(path)
        self._held[side, start].append((stop, path, frozenset(task.name for task in tasks)))

    def read(self, side: str, task: Task, watch: Stopwatch) -> Iterator[tuple[int, int, str, Factor, Geometry | None]]:
        """(first sample, cotangent, parameter, gradients, their view) of a task, batch by batch, on the CPU.

        ``watch`` counts the time of reading as "files".
        With columns of its one parameter where the task has some; a part of those that were kept will do.

        Raises:
            DamagedError: what is missing since has to be written again.
        """
        start, names = 0, list(self.shapes)
        while (stop := self.reach(side, start, task.name)) is not None:
            path = next(p for end, p, held in self._held[side, start] if end == stop and task.name in held)
            with self._opened(path) as (archive, held):
                for key, about in held["gradients"].items():
                    which, number = map(int, key.split("/"))
                    parameter = names[number]
                    if parameter in (task.parameters or ()) and (task.which is None or which in task.which):
                        with watch("files"), self._reading(path):
                            parts = {
                                part: _array(archive, f"{key}/{part}", stop - start)
                                for part in _parts(about, task.columns)
                            }
                        yield start, which, parameter, *self._factor(parts, about, parameter, task.columns)
            start = stop

    def _factor(
        self, parts: dict[str, Tensor], about: dict[str, Any], parameter: str, wanted: tuple[int, int] | None
    ) -> tuple[Factor, Geometry | None]:
        view: Geometry | None = None
        if about["view"] is not None:
            size, stride, offset = about["view"]
            view = Geometry(parameter, tuple(size), tuple(stride), offset)
        if "form" in about:
            factor = self.forms[parameter].like(parts)
        elif about["shape"] is None:  # columns of the parameter
            assert wanted is not None
            return Dense(_joined(parts, *wanted)), None
        else:
            rows = _joined(parts, 0, math.prod(about["shape"]))
            factor = Dense(rows.view(len(rows), *about["shape"]))
        if wanted is None:
            return factor, view
        return Dense(columns(factor, view, math.prod(self.shapes[parameter]), slice(*wanted))), None

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Only what reads belongs in here: an error of ours is no damage."""
        try:
            yield
        except MemoryError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # the latter where headers point to nowhere
                raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
            self._forget(path, error)
            raise DamagedError(str(path)) from error
        except Exception as error:  # zipfile and numpy have many for headers that were changed
            self._forget(path, error)
            raise DamagedError(str(path)) from error

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
        """A file, and what it says about itself."""
        with contextlib.ExitStack() as stack:
            with self._reading(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                about = json.loads(archive.read(_ABOUT))
            yield archive, about

    def _forget(self, path: Path, error: Exception) -> None:
        if path in self._made:
            raise OutputError(
                f"{path} cannot be read back ({error}), although this run wrote it: see to the disk, repeat the call"
            ) from error
        log.warning(f"{path} is damaged ({error}): it is removed, and its samples run again")
        for files in self._held.values():
            files[:] = [entry for entry in files if entry[1] != path]
        try:
            path.unlink(missing_ok=True)
        except OSError as stuck:
            raise OutputError(f"{path} is damaged and cannot be removed: {stuck.strerror}") from stuck


class Writer:
    """A sink that writes what arrives to a file at once. Made by :meth:`GradientFiles.writing`."""

    def __init__(self, files: GradientFiles, side: str, start: int, stop: int, tasks: Sequence[Task], watch: Stopwatch):
        self._files, self._where, self._tasks, self._watch = files, (side, start, stop), tasks, watch
        name = f"{side}-{start:07d}-{stop:07d}-{secrets.token_hex(4)}.npz"
        self._target, self._part = files.folder / name, files.folder / f".{name}.part"
        self._archive: zipfile.ZipFile | None = None
        self._finite = True
        self._about: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        self._discard()
        self._finite, self._about = True, {}
        with self._explained():
            self._files.folder.mkdir(parents=True, exist_ok=True)
            self._archive = zipfile.ZipFile(self._part, "w")

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None) -> None:
        self._finite = self._finite and finite(factor)
        wanted = {
            task.columns
            for task in self._tasks
            if parameter in (task.parameters or ()) and (task.which is None or which in task.which)
        }
        key = f"{which}/{self._files.numbers[parameter]}"
        kept = None if view is None else (view.size, view.stride, view.offset)
        form = self._files.forms.get(parameter)
        parts: dict[str, Callable[[], Tensor]]
        if form is not None and compact(factor) and form.kind == factor.kind:
            parts = {name: partial(torch.Tensor.detach, part) for name, part in factor.parts().items()}
            about: dict[str, Any] = {"view": kept, "form": list(parts)}
        elif None not in wanted:  # of one parameter, which several tasks share
            slices = sorted(some for some in wanted if some is not None)
            about = {"view": None, "shape": None, "slices": slices}
            size = math.prod(self._files.shapes[parameter])
            parts = {f"{a}-{b}": partial(columns, factor, view, size, slice(a, b)) for a, b in slices}
        else:
            size, step = math.prod(factor.shape), max(1, self._files.limit // max(1, factor.n))
            slices = [(a, min(size, a + step)) for a in range(0, max(1, size), step)]
            about = {"view": kept, "shape": factor.shape, "slices": slices}
            parts = {f"{a}-{b}": partial(factor.columns, a, b) for a, b in slices}
        for name, make in parts.items():
            self._write(f"{key}/{name}", make())
        self._about[key] = about

    def finite(self) -> bool:
        return self._finite

    def _write(self, member: str, part: Tensor) -> None:
        assert self._archive is not None
        part = part.cpu().contiguous()
        if part.dtype == torch.bfloat16:  # numpy has none
            member, part = f"{member}{_BFLOAT16}", part.view(torch.int16)
        with self._watch("files"), self._explained(), self._archive.open(member, "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, part.numpy(), allow_pickle=False)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{explain(error, self._files.folder)}; the batches that are in it are kept, and the same call goes on "
                "from there once that is put right"
            ) from error

    def _discard(self) -> None:
        archive, self._archive = self._archive, None
        if archive is not None:
            with contextlib.suppress(OSError, ValueError):
                archive.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._archive is not None:
                with self._explained():
                    about = {"tasks": [task.name for task in self._tasks], "gradients": self._about}
                    self._archive.writestr(_ABOUT, json.dumps(about))
                    self._archive.close()
                    self._part.replace(self._target)
                self._archive = None
                self._files.added(*self._where, self._target, self._tasks)
        finally:
            self._discard()


def _parts(about: dict[str, Any], wanted: tuple[int, int] | None) -> list[str]:
    """Names of the arrays that hold a gradient, or some columns of it."""
    if "form" in about:
        return list(about["form"])
    first, last = wanted if wanted is not None and about["shape"] is None else (-1, math.inf)
    return [f"{a}-{b}" for a, b in about["slices"] if max(a, first) < min(b, last) or a == b]


def _joined(slices: dict[str, Tensor], first: int, last: int) -> Tensor:
    """Columns ``first`` … ``last`` from slices that are named by theirs."""
    whole = next(iter(slices.values())).new_empty(len(next(iter(slices.values()))), last - first)
    for name, rows in slices.items():
        start, stop = map(int, name.split("-"))
        low, high = max(first, start), min(last, stop)
        whole[:, low - first : high - first] = rows[:, low - start : high - start]
    return whole


def _array(archive: zipfile.ZipFile, member: str, rows: int) -> Tensor:
    """An array of so many rows.

    ``numpy.load`` would believe its header and stop there, before the checksum of the rest.
    """
    info = archive.NameToInfo.get(f"{member}{_BFLOAT16}") or archive.getinfo(member)
    with archive.open(info) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{member} is no array")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        size = math.prod(shape) * dtype.itemsize
        if fortran or dtype.hasobject or shape[:1] != (rows,) or stream.tell() + size != info.file_size:
            raise ValueError(f"{member} is not what its header says")
        found = np.empty(shape, dtype)
        left = found.reshape(-1).view(np.uint8)
        while len(left):
            some = stream.read(min(len(left), _CHUNK))
            if not some:
                raise EOFError(f"{member} ends early")
            left[: len(some)] = np.frombuffer(some, np.uint8)
            left = left[len(some) :]
    tensor = torch.from_numpy(found)
    return tensor.view(torch.bfloat16) if info.filename.endswith(_BFLOAT16) else tensor

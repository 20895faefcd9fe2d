"""A folder of sketch rows that grows chunk by chunk, and is memory-mapped when it is read.

    store/manifest.json   format, what decides the numbers, sizes, the plan
    store/rows.bin        [n, layers, probes, dim], little-endian, in sample order
    store/norms.bin       [n, layers, probes] float64: squared norms of the gradients themselves
    store/done.jsonl      one line per finished chunk: its samples, and sha256 of its rows and norms
    store/lock            held by the process that writes here

A chunk counts once its line is there, and its line is written after its bytes are on the disk. A
killed run therefore loses at most the chunk in flight, and damaged bytes are noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.runs.atomic import explain, write_atomic
from genkernel.tangent.lock import LOCK, hold, release, sign, take

log = logging.getLogger("genkernel")

FORMAT, VERSION = "genkernel.sketch", 1
MANIFEST, ROWS, NORMS, DONE = "manifest.json", "rows.bin", "norms.bin", "done.jsonl"
_WHAT = "sketch"

_DTYPES = {torch.float32: "<f4", torch.float64: "<f8"}


@dataclass(frozen=True)
class Sizes:
    """Shape and dtype of the rows: ``[n, layers, probes, dim]``."""

    n: int
    layers: int
    probes: int
    dim: int
    dtype: str  # of numpy, with its byte order

    @classmethod
    def of(cls, n: int, layers: int, probes: int, dim: int, dtype: torch.dtype) -> Sizes:
        return cls(n, layers, probes, dim, _DTYPES[dtype])

    @property
    def row_bytes(self) -> int:
        return self.layers * self.probes * self.dim * np.dtype(self.dtype).itemsize

    @property
    def norm_bytes(self) -> int:
        return self.layers * self.probes * 8


class RowStore:
    """Rows on disk; made by :meth:`open` (to write, and a context manager that locks it) or :meth:`read`.

    Attributes:
        path: the folder.
        settings: what decides the numbers.
        sizes: shape and dtype of the rows.
        plan: how the work is divided; a resumed run has to divide it in the same way.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], lock: int | None = None):
        self.path = path
        self._lock = lock
        self.settings: dict[str, Any] = manifest["settings"]
        self.sizes = Sizes(**manifest["sizes"])
        self.plan: dict[str, Any] = manifest["plan"]

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any], sizes: Sizes, plan: Mapping[str, Any]) -> RowStore:
        """The store in ``path``, or a new one there, held against other runs until it is closed.

        Several processes may open a finished one.

        Args:
            path: a new or empty folder, or one that holds rows made with the same settings.
            settings: JSON-ready; everything that decides the rows.
            plan: JSON-ready; used for a new store, and taken from the manifest of one that is there.

        Raises:
            InputError: the folder holds something else, or rows made with other settings.
            OutputError: the folder cannot be written to, or another run is writing to it.
        """
        path = Path(path).expanduser()
        settings = json.loads(json.dumps(settings))
        finished = False
        if (path / MANIFEST).exists():
            finished = cls._same(path, settings, sizes)._count() == sizes.n
        else:
            cls._make(path)
        lock = take(path, _WHAT, shared=finished)
        try:
            if lock is not None and not finished:
                sign(lock, path, "")
            if not (path / MANIFEST).exists():  # another run may have made it meanwhile
                cls._begin(path, settings, sizes, plan)
            store = cls._same(path, settings, sizes)
        except BaseException:
            release(lock)
            raise
        store._lock = lock
        return store

    @classmethod
    def _same(cls, path: Path, settings: Mapping[str, Any], sizes: Sizes) -> RowStore:
        """The store that is there, if it is of the same settings."""
        store = cls.read(path)
        _compare(path, {**store.settings, **asdict(store.sizes)}, {**settings, **asdict(sizes)})
        return store

    @staticmethod
    def _make(path: Path) -> None:
        """Make the folder, unless something else lives there."""
        with _writing(path):
            if path.exists() and not path.is_dir():
                raise InputError(f"cannot keep a sketch in {path}: it is not a folder (give a folder, or a new name)")
            if path.is_dir() and any(p.name != LOCK and p.suffix != ".part" for p in path.iterdir()):
                raise InputError(f"{path} holds files but no sketch: give a new or empty folder")
            path.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _begin(path: Path, settings: Mapping[str, Any], sizes: Sizes, plan: Mapping[str, Any]) -> None:
        """Write the manifest of a store without rows."""
        need, free = sizes.n * (sizes.row_bytes + sizes.norm_bytes), shutil.disk_usage(path).free
        if need > free:
            log.warning(
                f"the sketch takes {need / 2**30:.1f} GiB, and the disk of {path} has {free / 2**30:.1f} GiB left"
            )
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "settings": settings,
            "sizes": asdict(sizes),
            "plan": dict(plan),
            "files": {
                ROWS: {"dtype": sizes.dtype, "shape": [sizes.n, sizes.layers, sizes.probes, sizes.dim]},
                NORMS: {"dtype": "<f8", "shape": [sizes.n, sizes.layers, sizes.probes]},
            },
        }
        write_atomic(path / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> RowStore:
        """The store in ``path``.

        Raises:
            MissingError: there is none.
            InputError: its manifest cannot be read by this version.
        """
        path = Path(path).expanduser()
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise InputError(f"{path} holds a {manifest['format']}, not a sketch")
            if manifest["version"] != VERSION:
                raise InputError(
                    f"the sketch in {path} has version {manifest['version']}, this genkernel reads version {VERSION}: "
                    "use the genkernel that wrote it"
                )
            return cls(path, manifest)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"there is no sketch in {path}: it holds no {MANIFEST}") from None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path / MANIFEST} is not the manifest of a sketch: {error}") from error

    # ------------------------------------------------------------------------------- chunks

    def done(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(chunks whose bytes are as they were written, chunks that are damaged), as (first sample, end)."""
        good: list[tuple[int, int]] = []
        bad: list[tuple[int, int]] = []
        for (start, stop), digest in sorted(self._listed().items()):
            (good if self._digest(start, stop) == digest else bad).append((start, stop))
        return good, bad

    def put(self, start: int, rows: Tensor, norms: Tensor) -> None:
        """Keep a chunk: rows ``[b, layers, probes, dim]``, norms ``[b, layers, probes]`` of samples from ``start`` on.

        Raises:
            OutputError: it cannot be written, or others are reading; the chunks before it are kept.
        """
        if self._lock is not None:  # held with others if it was finished, but damaged
            hold(self._lock, self.path, _WHAT, shared=False)
        raw = rows.contiguous().numpy().astype(self.sizes.dtype, copy=False).tobytes()
        squares = norms.contiguous().numpy().astype("<f8", copy=False).tobytes()
        stop = start + len(rows)
        with _writing(self.path, self._kept):
            _write_at(self.path / ROWS, start * self.sizes.row_bytes, raw)
            _write_at(self.path / NORMS, start * self.sizes.norm_bytes, squares)
            line = {"samples": [start, stop], "sha256": hashlib.sha256(raw + squares).hexdigest()}
            with open(self.path / DONE, "ab+") as journal:
                torn = journal.tell() > 0 and not _ends_line(journal)
                journal.write(b"\n" * torn + json.dumps(line).encode() + b"\n")
                journal.flush()
                os.fsync(journal.fileno())

    def arrays(self) -> tuple[Tensor, Tensor]:
        """Rows ``[n, layers, probes, dim]`` and norms ``[n, layers, probes]``, memory-mapped.

        Changes to them are not kept.

        Raises:
            InputError: rows are missing or damaged.
        """
        good, bad = self.done()
        if bad:
            start, stop = bad[0]
            raise InputError(
                f"the sketch in {self.path} is damaged: samples {start} to {stop - 1} do not match their checksum; "
                "make it again with the same call, which computes only what is missing"
            )
        count = sum(stop - start for start, stop in good)
        if count < self.sizes.n:
            raise InputError(
                f"the sketch in {self.path} has {count} of {self.sizes.n} samples: make it again with the same call, "
                "which computes only what is missing"
            )
        s = self.sizes
        rows = np.memmap(self.path / ROWS, s.dtype, "c", shape=(s.n, s.layers, s.probes, s.dim))
        norms = np.memmap(self.path / NORMS, "<f8", "c", shape=(s.n, s.layers, s.probes))
        return torch.from_numpy(_native(rows)), torch.from_numpy(_native(norms))

    def _listed(self) -> dict[tuple[int, int], str]:
        """Chunks and digests of the journal; a line that a killed process left half-written is no line."""
        try:
            lines = (self.path / DONE).read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                entry = json.loads(line)
                start, stop = entry["samples"]
                if 0 <= start < stop <= self.sizes.n:
                    found[int(start), int(stop)] = str(entry["sha256"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def _digest(self, start: int, stop: int) -> str:
        digest = hashlib.sha256()
        for name, size in ((ROWS, self.sizes.row_bytes), (NORMS, self.sizes.norm_bytes)):
            try:
                with open(self.path / name, "rb") as file:
                    file.seek(start * size)
                    digest.update(file.read((stop - start) * size))
            except FileNotFoundError:
                return ""
        return digest.hexdigest()

    def _count(self) -> int:
        """Samples in the journal."""
        return sum(stop - start for start, stop in self._listed())

    def _kept(self) -> str:
        return f"; {self._count()} of {self.sizes.n} samples are kept, and the same call goes on from there"

    def close(self) -> None:
        """Let other runs have the store."""
        release(self._lock)
        self._lock = None

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _compare(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse rows made with other settings, naming the first one that differs."""
    for name in dict.fromkeys([*asked, *there]):
        a, b = there.get(name), asked.get(name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            name, a, b = next(
                (f"{key} of the {name}", a.get(key), b.get(key)) for key in [*b, *a] if a.get(key) != b.get(key)
            )
        raise InputError(
            f"the sketch in {path} was made with {name} = {_short(a)}, this one has {_short(b)}: give another folder, "
            "or the same settings"
        )


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _write_at(path: Path, offset: int, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _writing(path: Path, kept: Any = lambda: "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(explain(error, path) + kept()) from error


def _native(array: np.ndarray) -> np.ndarray:
    """In the byte order of this machine, which is all that torch reads."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

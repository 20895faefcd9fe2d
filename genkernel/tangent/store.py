"""A folder that keeps the finished tasks of a run, so that a killed run loses at most those in flight.

    store/manifest.json           what decides the numbers, the plan, times
    store/lock                    held by the processes of the run that writes here
    store/tasks/<task>.safetensors   the tensors of one finished task, with their sha256
    store/gradients/                 what tasks share, until the run is over (genkernel.tangent.gradient_files)

A task's file is written under a temporary name, synced and renamed: it is there and whole, or
not there. Its digest covers the task's name, the manifest and every tensor, so a damaged file,
or one that belongs to another run, is noticed when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.runs.atomic import explain, write_atomic
from genkernel.tangent.fingerprint import update_bytes
from genkernel.tangent.lock import LOCK, hold, release, sign, signature, take

log = logging.getLogger("genkernel")

FORMAT, VERSION = "genkernel.tiles", 1
MANIFEST, TASKS, GRADIENTS, SUFFIX = "manifest.json", "tasks", "gradients", ".safetensors"
_WHAT = "tile store"

#: names in the folder of gradients: side, first sample and the one behind the last
GRADIENT_FILE = re.compile(r"\.?([xy])-(\d+)-(\d+)-[0-9a-f]+\.npz(?:\.part)?")
_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class TileStore:
    """Finished tasks of one run, by name; made by :meth:`open` or :meth:`join`, and a context manager.

    Attributes:
        path: the folder.
        token: names the run that holds the lock; its other ranks need it to :meth:`join`.

    >>> with TileStore.open("run/tiles", {"weights": "3f2a…", "dtype": "float32"}) as store:
    ...     plan = store.plan or store.keep_plan({"tasks": ["pass-0000", "pass-0001"]})
    ...     for task in plan["tasks"]:
    ...         if task not in store.done():
    ...             store.put(task, {"totals": torch.zeros(1, 4, 4, dtype=torch.float64)})
    ...     store.finish()
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int | None, token: str, leads: bool):
        self.path = path
        self.token = token
        self._record = record
        self._lock = lock
        self._leads = leads  # only the process that opened the store writes its manifest

    @classmethod
    def open(
        cls, path: str | Path, manifest: Mapping[str, Any], *, resume: bool = True, shared: bool = False
    ) -> TileStore:
        """Open the store in ``path``, or make one there, and hold it against other runs.

        Args:
            path: a new or empty folder, or one that holds a store.
            manifest: everything that decides the numbers, as JSON values: digests of weights,
                inputs, cotangents, preconditioner; dtype, accumulation, code.
            resume: go on with the tasks that are there. False removes them.
            shared: other processes of this run will :meth:`join`.

        Raises:
            InputError: the store was made from something else (named entry by entry), is damaged
                or from a newer genkernel, or ``path`` holds other files.
            OutputError: the folder cannot be written, or another run is writing to it.
        """
        path = Path(path).expanduser()
        identity = _json(manifest)
        finished = resume and bool(_peek(path).get("finished"))
        if not finished:
            _make(path)
        lock, token = take(path, _WHAT, shared=finished), secrets.token_hex(8)
        try:
            if lock is not None and not finished:
                sign(lock, path, token)
                _sweep(path)
            record = _read(path)
            if record is not None and resume:
                _compare(path, record["identity"], identity)
            else:
                if record is not None:
                    _wipe(path)
                _remove_gradients(path)  # of a run that nothing is known about
                now = _now()
                record = {"identity": identity, "plan": None, "created": now, "updated": now, "finished": None}
                _write(path, record)
            if lock is not None and shared and not finished:
                hold(lock, path, _WHAT, shared=True)
        except BaseException:
            release(lock)
            raise
        return cls(path, record, lock, token, leads=True)

    @classmethod
    def join(cls, path: str | Path, manifest: Mapping[str, Any], token: str) -> TileStore:
        """Open a store that another process of the same run holds with ``open(..., shared=True)``.

        Raises:
            OutputError: the folder is not there (it has to be one that all ranks see), or another
                run has taken it.
            InputError: the store was made from something else.
        """
        path = Path(path).expanduser()
        try:
            record = _read(path)
        except MissingError:
            record = None
        if record is None:
            raise OutputError(
                f"this rank sees no tile store at {path}, which rank 0 has opened: give store= a folder on a file "
                "system that all ranks share"
            )
        _compare(path, record["identity"], _json(manifest))
        lock = take(path, _WHAT, shared=True)
        signed = signature(path).get("token")
        if lock is not None and not record["finished"] and signed != token:
            release(lock)
            raise OutputError(f"another run has taken the tile store {path}: give each run a folder of its own")
        return cls(path, record, lock, token, leads=False)

    # --------------------------------------------------------------------- the plan

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan of the run that began the store. Following it gives the same bits; None before there is one."""
        return self._record["plan"]

    def keep_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Store the plan, once, before the first task. Every rank calls this; the one that opened the store writes.

        Returns:
            dict: the plan as a resumed run will read it.

        Raises:
            InputError: another plan is stored already, or ``plan`` is no JSON.
        """
        content = _json(plan)
        if self.plan is None:
            self._update(plan=content)
        elif self.plan != content:
            raise InputError(f"the tile store {self.path} has a plan, which its tasks follow: use that one")
        return content

    @property
    def is_finished(self) -> bool:
        """All tasks of the run were there when it ended."""
        return bool(self._record["finished"])

    def finish(self) -> None:
        """Note that no task is left: from now on the store is only read, and several processes may."""
        if not self.is_finished:
            _remove_gradients(self.path)
            self._update(finished=_now())

    def _update(self, **entries: Any) -> None:
        record = {**self._record, **entries, "updated": _now()}
        if self._leads:
            try:
                _write(self.path, record)
            except OutputError as error:
                raise self._explained(error.__cause__, error) from error
        self._record = record

    # -------------------------------------------------------------------- the tasks

    @property
    def gradients(self) -> Path:
        """A folder for what tasks share. It is removed at the end."""
        return self.path / GRADIENTS

    def done(self, verify: bool = True) -> set[str]:
        """Names of the finished tasks.

        Args:
            verify: read them all and compare their digests; damaged ones are removed with a
                warning, so that they are computed again. False looks at names alone.

        Raises:
            OutputError: a file cannot be read.
        """
        names = {p.name.removesuffix(SUFFIX) for p in (self.path / TASKS).glob(f"*{SUFFIX}") if p.name[0] != "."}
        return {name for name in names if self.get(name) is not None} if verify else names

    def put(self, task: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a finished task. When this returns, they survive a crash of the machine.

        Raises:
            InputError: an impossible name, or a complex tensor.
            OutputError: the disk is full, a quota is used up, permission is denied. Nothing of
                this task is left behind, and the finished ones are kept.
        """
        target = self._file(task)
        held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        part: Path | None = None
        try:
            handle, name = tempfile.mkstemp(prefix=f".{task}.", suffix=".part", dir=target.parent)
            part = Path(name)
            with os.fdopen(handle, "wb") as stream:
                _dump(stream, held, {"task": task, "sha256": self._digest(task, held)})
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, target)
            _sync_folder(target.parent)
        except OSError as error:
            raise self._explained(error, error) from error
        finally:
            if part is not None:
                with contextlib.suppress(OSError):
                    part.unlink()

    def get(self, task: str) -> dict[str, Tensor] | None:
        """The tensors of a finished task.

        Returns:
            dict: None when the task is not there, or when its file was damaged; a damaged file is
            removed with a warning, so that the task is computed again.

        Raises:
            OutputError: the file cannot be read.
        """
        target = self._file(task)
        try:
            with open(target, "rb"):  # safetensors' own errors do not tell these from a damaged file
                pass
            tensors, said = _load(target)
            if said.get("task") != task or said.get("sha256") != self._digest(task, tensors):
                raise ValueError("its contents do not match their sha256")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"cannot read {target}: {error.strerror or error}") from error
        except ValueError as error:
            log.warning(f"{target} is damaged ({error}): it is removed, and {task} is computed again")
            try:
                target.unlink(missing_ok=True)
            except OSError as stuck:
                raise OutputError(f"{target} is damaged and cannot be removed: {stuck.strerror}") from stuck
            return None
        return tensors

    def _file(self, task: str) -> Path:
        if not _TASK.fullmatch(task):
            raise InputError(f"a task is named by up to 200 letters, digits, '.', '_' and '-', not {task!r}")
        return self.path / TASKS / f"{task}{SUFFIX}"

    def _digest(self, task: str, tensors: Mapping[str, Tensor]) -> str:
        run = {"identity": self._record["identity"], "plan": self._record["plan"]}
        digest = hashlib.sha256(json.dumps([run, task], sort_keys=True).encode())
        for name in sorted(tensors):
            tensor = tensors[name]
            digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            update_bytes(digest, tensor)
        return digest.hexdigest()

    def _explained(self, cause: BaseException | None, error: OSError) -> OutputError:
        reason = explain(cause, self.path) if isinstance(cause, OSError) else str(error)
        kept = len(self.done(verify=False))
        what = "no task was finished before" if kept == 0 else f"{kept} finished task{'s' * (kept > 1)} kept in it"
        return OutputError(f"{reason}; {what}, and the same call goes on from there once that is put right")

    # ------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Let other runs have the store."""
        release(self._lock)
        self._lock = None

    def __enter__(self) -> TileStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ------------------------------------------------------------------------------- files of tensors


def _dump(stream: IO[bytes], tensors: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write the safetensors format straight from the tensors' memory.

    ``safetensors.torch.save`` would hold a second copy of everything.
    """
    header: dict[str, Any] = {"__metadata__": about}
    offset = 0
    # widest first, which keeps every tensor aligned
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise InputError(f"tensor {name!r} is {tensor.dtype}, which a tile store does not keep")
        if name == "__metadata__":
            raise InputError("a tensor of a task cannot be called '__metadata__'")
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for name in order:
        stream.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: the file is not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


# --------------------------------------------------------------------------------- the manifest


def _peek(path: Path) -> dict[str, Any]:
    """The manifest, or nothing when there is none that can be read."""
    try:
        return _read(path) or {}
    except (InputError, OutputError):
        return {}


def _read(path: Path) -> dict[str, Any] | None:
    """The manifest of the store in ``path``; None when there is none.

    Raises:
        InputError: it is damaged, or of a newer version.
    """
    file = path / MANIFEST
    try:
        head = json.loads(file.read_bytes())
        if head["format"] != FORMAT or not isinstance(head["version"], int):
            raise KeyError("format")
        if head["version"] > VERSION:
            raise InputError(f"{file} was written by a newer genkernel: use that one, or give store= another folder")
        return {name: head[name] for name in ("identity", "plan", "created", "updated", "finished")}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"cannot read {file}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file} is not the manifest of a tile store, or is damaged, so that its tiles cannot be trusted: "
            "give store= another folder, or remove this one"
        ) from error


def _write(path: Path, record: dict[str, Any]) -> None:
    head = {"format": FORMAT, "version": VERSION, **record}
    write_atomic(path / MANIFEST, json.dumps(head, indent=1, ensure_ascii=False) + "\n")
    _sync_folder(path)


def _json(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` as JSON gives it back."""
    try:
        return json.loads(json.dumps(dict(content), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"a manifest and a plan hold JSON values only: {error}") from error


def _compare(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    differ = list(_differences(stored, now))
    if differ:
        said = ", ".join(f"{name} ({_short(before)} there, {_short(after)} now)" for name, before, after in differ)
        raise InputError(
            f"the tile store {path} was made with other settings or data: {said}; "
            "go on with what it was made with, or give store= another folder"
        )


def _differences(stored: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*now, *stored]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(stored.get(key), now.get(key), inner)
    elif stored != now:
        yield name, stored, now


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", text)
    return text if len(text) <= 80 else f"{text[:79]}…"


# ----------------------------------------------------------------------------------- the folder


def _make(path: Path) -> None:
    """Make the folder of a store, unless something else lives there."""
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"cannot keep tiles in {path}: it is not a folder (give a folder, or a new name)")
        if path.is_dir() and not (path / MANIFEST).exists():
            ours = {LOCK, TASKS}
            if all(GRADIENT_FILE.fullmatch(p.name) for p in (path / GRADIENTS).glob("*")):
                ours.add(GRADIENTS)
            others = sorted(p.name for p in path.iterdir() if p.name not in ours and p.suffix != ".part")
            if others:
                raise InputError(
                    f"{path} is not empty and holds no tile store (it holds {', '.join(others[:3])}"
                    f"{', …' if len(others) > 3 else ''}): give store= a new or empty folder"
                )
        (path / TASKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(explain(error, path)) from error


def _sweep(path: Path) -> None:
    """Remove what killed processes were writing. Only the holder of the exclusive lock may."""
    for part in (file for folder in (path, path / TASKS, path / GRADIENTS) for file in folder.glob(".*.part")):
        with contextlib.suppress(OSError):
            part.unlink()


def _wipe(path: Path) -> None:
    """Remove the manifest, then every task: what a killed wipe leaves belongs to no manifest."""
    try:
        (path / MANIFEST).unlink(missing_ok=True)
        for file in (path / TASKS).glob(f"*{SUFFIX}"):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove the old tiles in {path}: {error.strerror}") from error


def _remove_gradients(path: Path) -> None:
    for file in (path / GRADIENTS).glob("*"):
        if GRADIENT_FILE.fullmatch(file.name):
            with contextlib.suppress(OSError):
                file.unlink()
    with contextlib.suppress(OSError):  # it is not there, or holds what is not ours
        (path / GRADIENTS).rmdir()


def _sync_folder(path: Path) -> None:
    """Make a rename survive a power failure, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

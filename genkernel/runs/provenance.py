"""Where the numbers of a run come from: enough to make them again, and to know when not to."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "safetensors", "matplotlib")

# the argument that holds a digest of the weights in memory, where a run records one: it is compared like the others
WEIGHTS = "generator_weights"

# arguments that change how a run is computed but not what comes out
INDIFFERENT = frozenset({"memory", "out", "progress", "resume"})


@dataclass
class Provenance:
    """What ``run.json`` says about a run."""

    arguments: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    checkpoint: dict[str, Any] = field(default_factory=dict)  # name, sha256 (None for a model in memory)
    data: dict[str, Any] = field(default_factory=dict)  # source, count, conversions, sha256
    timings: dict[str, float] = field(default_factory=dict)  # seconds
    cpu_seconds: float | None = None  # of all threads, and of processes that were started and are done
    peak_memory: dict[str, int] = field(default_factory=dict)  # bytes
    threads: int | None = None
    processes: int = 1  # that shared the kernels; times and memory are those of the first
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    finished: str = ""  # ISO 8601, UTC
    files: list[str] = field(default_factory=list)

    def complete(self, stopwatch: Stopwatch | None = None) -> Provenance:
        """Fill in what is only known at the end: versions, machine, memory, time."""
        self.versions = versions()
        self.machine = machine()
        self.peak_memory = peak_memory()
        self.threads = _torch_threads()
        if stopwatch is not None:
            self.timings = {**self.timings, **stopwatch.seconds}
            self.cpu_seconds = stopwatch.cpu_seconds()
        self.finished = datetime.now(UTC).isoformat(timespec="seconds")
        return self

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, earlier: dict[str, Any], *, weights: bool = True) -> list[str]:
        """Why the run described by an earlier ``run.json`` is not this one; empty when it is.

        Compared are the checkpoint's and the data's sha256, the arguments that decide the
        numbers, and the versions of genkernel and torch.

        Args:
            weights: it takes a checkpoint to be the same run. False where the weights of a model in
                memory are compared in other ways.
        """
        found = []
        mine, theirs = self.checkpoint.get("sha256"), (earlier.get("checkpoint") or {}).get("sha256")
        if mine is None or theirs is None:
            if weights and WEIGHTS not in self.arguments:
                found.append("the model was given in memory, so the weights cannot be compared")
        elif mine != theirs:
            found.append("the checkpoint has changed")
        if self.data.get("sha256") != (earlier.get("data") or {}).get("sha256"):
            found.append("the images have changed")
        before = earlier.get("arguments") or {}
        for name in sorted({*self.arguments, *before} - INDIFFERENT - {"checkpoint", "data"}):
            old, new = before.get(name), self.arguments.get(name)
            if old != new:
                found.append(f"{name} was {_short(old)}, now {_short(new)}")
        now, then = versions(), earlier.get("versions") or {}
        for package in ("genkernel", "torch"):
            if now.get(package) != then.get(package):
                found.append(f"{package} was {then.get(package, 'unknown')}, now {now.get(package)}")
        return found


class Stopwatch:
    """Seconds per named part of a run, and what the processors did since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = _cpu_seconds()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def cpu_seconds(self) -> float:
        """Seconds of processors so far; unlike the clock's, they are the same beside other work."""
        return _cpu_seconds() - self._before


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def versions() -> dict[str, str]:
    """Versions of genkernel, python and the packages whose numerics matter (those installed)."""
    from genkernel import __version__

    found = {"genkernel": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The kind of machine, without anything that names it."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["accelerators"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def peak_memory() -> dict[str, int]:
    """Largest memory this process has held so far, in bytes, on the host and on each GPU it used."""
    found: dict[str, int] = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.max_memory_allocated(index)
    return found


def data_sha256(images: Any) -> str:
    """sha256 of an array or tensor: shape, dtype and bytes."""
    import numpy as np

    array = np.ascontiguousarray(images.detach().cpu().numpy() if hasattr(images, "detach") else images)
    digest = hashlib.sha256(f"{array.shape}{array.dtype}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else None


def _short(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"

"""Arguments that the workflows share: their checks, and how they stand in ``run.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genkernel.errors import InputError
from genkernel.runs import Provenance
from genkernel.runs.provenance import INDIFFERENT

DTYPES = ("float32", "float64", "bfloat16", "float16")


def check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} has to be a whole number of at least {least}, not {value!r}")


def check_memory(memory: str | int) -> None:
    from genkernel.tangent.plan import parse_memory

    parse_memory(memory)


def as_dtype(dtype: Any) -> Any:
    if dtype is None:
        return None
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    return getattr(torch, dtype)


def described(given: Any) -> str | None:
    """An argument for ``run.json``: names, and for a file the digest of what was in it."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if not path.is_file():
            return str(given)
        return f"{given} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    return ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__


def shared_by_ranks(provenance: Provenance) -> dict[str, Any]:
    """What all ranks have to be given alike; paths and devices may differ."""
    own = INDIFFERENT | {"checkpoint", "data", "device"}
    common = {name: value for name, value in provenance.arguments.items() if name not in own}
    return {**common, "checkpoint": provenance.checkpoint.get("sha256"), "images": provenance.data["sha256"]}


def say_nothing(sentence: str) -> None:
    """What another rank than 0 says."""

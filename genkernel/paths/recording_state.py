"""The state of a recording: copied, kept in a file, and held against the recording that goes on from it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from genkernel.errors import InputError, OutputError
from genkernel.runs import write_atomic
from genkernel.runs.atomic import explain

FILE = "recording.pt"
FORMAT, VERSION = "genkernel.recording", 1
_SAME = (
    ("coordinates", "another model (names or shapes of its parameters differ)"),
    ("kind", "another optimizer"),
    ("rule", "another rule"),
    ("queries", "other queries"),
    ("windows", "other windows of time"),
)


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A recording writes to its tensors, and a state is not to change with it."""
    found: dict[str, Any] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, dict(state))
    return found


def check_state(state: Any, mine: Mapping[str, Any]) -> None:
    """Whether a recording can go on from a state.

    Args:
        state: as it was saved.
        mine: of the recording as it is, with the model and the optimizer that it is to go on with.

    Raises:
        InputError: it is the state of another one.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise InputError("this is not the state of a recording")
    if state.get("version") != VERSION:
        raise InputError(
            f"this is the state of a recording of format version {state.get('version')}, and this genkernel reads "
            f"version {VERSION}"
        )
    for key, what in _SAME:
        if state[key] != mine[key]:
            raise InputError(f"the recording belongs to {what}")
    if (state["average"] is None) != (mine["average"] is None):
        raise InputError("the recording was made with ema=, and this one is not, or the other way round")
    if not torch.equal(state["theta"].to(mine["theta"].device), mine["theta"]):
        raise InputError(
            f"the recording was saved at step {state['step']} of a run with other weights: load the model's and "
            "the optimizer's states of that step first, or record into another folder"
        )
    if not torch.allclose(state["now"], mine["now"], rtol=1e-4, atol=1e-6):
        raise InputError("the recording belongs to other queries (the same weights give other outputs)")


def write_state(folder: Path, state: Mapping[str, Any]) -> Path:
    """Keep a state in a folder, which is made if need be, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, folder)) from error
    write_atomic(folder / FILE, buffer.getvalue())
    return folder / FILE


def read_state(path: Path) -> Any:
    """What :func:`write_state` wrote, on the CPU.

    Raises:
        InputError: the file cannot be read, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise InputError(f"{path} is not a recording: {error}") from error

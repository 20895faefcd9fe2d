"""Trainings that are recorded, and go on where they were interrupted.

A folder holds what decides its run in ``identity.json`` and, until the run is finished, everything that changes in
``training.pt``: weights, optimizers and the recording beside them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genkernel.errors import InputError
from genkernel.runs import read_json, write_atomic


def claim_folder(out: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder of a run, or find that it is this run's.

    Raises:
        InputError: it holds another run.
    """
    path = out / "identity.json"
    if path.is_file() and read_json(path) != json.loads(json.dumps(identity)):
        raise InputError(f"{out} holds a recording of another run: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(identity, indent=2) + "\n")


def save_training(out: Path, parts: Mapping[str, Any], step: int, losses: list[float], recorded: Any) -> None:
    """Write the state of an unfinished run.

    Args:
        parts: everything that has a ``state_dict``, by name.
        step: steps done.
        losses: of these steps.
        recorded: the ``state_dict`` of the recording.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"parts": state, "step": step, "losses": losses, "recording": recorded}, buffer)
    write_atomic(out / "training.pt", buffer.getvalue())


def resume_training(out: Path, parts: Mapping[str, Any]) -> tuple[int, list[float], dict[str, Any] | None]:
    """Load what :func:`save_training` wrote into the parts: steps done, their losses, the recording's state."""
    path = out / "training.pt"
    if not path.is_file():
        return 0, [], None
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state["step"], state["losses"], state["recording"]


def finish_training(out: Path) -> None:
    """The state of an unfinished run is not needed any more."""
    (out / "training.pt").unlink(missing_ok=True)

"""Trainings that are recorded, and go on where they were interrupted.

A folder holds what decides its run in ``identity.json`` and, until the run is finished, everything that changes in
``training.pt``: weights, optimizers and the recording beside them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.runs import read_json, write_atomic

if TYPE_CHECKING:
    from genkernel.paths import PathDecomposition

IDENTITY, UNFINISHED = "identity.json", "training.pt"
_KEPT = (
    "optimizer", "rule", "parameters", "dtype", "step_error", "gradient_error", "seconds", "versions", "provenance",
)  # fmt: skip


def claim_folder(out: Path, identity: Mapping[str, Any], holds: str = "a recording of another run") -> None:
    """Make the folder of a run, or find that it is this run's.

    Args:
        out: the folder.
        identity: all that decides the run, as JSON can hold it.
        holds: what a folder with another identity holds, for the error.

    Raises:
        InputError: it holds another run.
    """
    path = out / IDENTITY
    if path.is_file():
        if read_json(path) != json.loads(json.dumps(identity)):
            raise InputError(f"{out} holds {holds}: choose another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(identity, indent=2) + "\n")


@dataclass
class Saved:
    """How far an unfinished run is.

    Attributes:
        step: steps done.
        losses: of these steps, where they were kept.
        recording: the ``state_dict`` of the recording, where there was one.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    recording: dict[str, Any] | None = None


def save_training(
    path: Path, parts: Mapping[str, Any], step: int, losses: Sequence[float] = (), recorded: Any = None
) -> None:
    """Write the state of an unfinished run.

    Args:
        path: the file.
        parts: everything that has a ``state_dict``, by name.
        step: steps done.
        losses: of these steps.
        recorded: the ``state_dict`` of the recording.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"parts": state, "step": step, "losses": list(losses), "recording": recorded}, buffer)
    write_atomic(path, buffer.getvalue())


def load_training(path: Path, parts: Mapping[str, Any]) -> Saved:
    """Load a saved state into the parts.

    Args:
        path: a file of :func:`save_training`, or the ``training.pt`` of :func:`genkernel.models.ddpm.train_ddpm`, which
            has the parts beside the step.
        parts: as they were saved.

    Raises:
        InputError: the file cannot be read, or does not hold these parts. They may then have changed.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        held = state.get("parts", state)
        for name, part in parts.items():
            part.load_state_dict(held[name])
        return Saved(int(state["step"]), list(state.get("losses", ())), state.get("recording"))
    except Exception as error:  # what torch raises for a bad file, or for one with other parts, is of every kind
        raise InputError(f"{path} is not the state of a training with this recipe: {error!r}") from error


def resume_training(out: Path, parts: Mapping[str, Any]) -> Saved:
    """Load what an unfinished recording left in its folder into the parts; nothing is done yet where it left nothing.

    Raises:
        InputError: ``training.pt`` is no such state, or is that of a run without a recording.
    """
    path = out / UNFINISHED
    if not path.is_file():
        return Saved()
    saved = load_training(path, parts)
    if saved.recording is None:  # going on would record the rest as if it were all
        raise InputError(f"{path} is a training without a recording: choose another folder")
    return saved


def finish_training(out: Path) -> None:
    """The state of an unfinished run is not needed any more."""
    (out / UNFINISHED).unlink(missing_ok=True)


def path_numbers(parts: PathDecomposition, groups: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """What a recording cost, how far it adds up, and how large its parts are beside the changes.

    Args:
        parts: of the recording.
        groups: the group (noise level, cluster) that each query is in ``[m]``.
        names: of the groups of queries, by number.

    Returns:
        For an outcome's ``numbers``: steps, evaluations and overhead, the gap, ‖f_N - f_0‖ of every query with its
        group, and how many times as large as the change of a query ‖Σ_k C_k‖ (net) and Σ_k ‖C_k‖ (gross) of every
        group of samples are: the least, the mean and the most over the queries, the same of these means
        (``"means"``), and over everything.
    """
    changes = (parts.final - parts.initial).flatten(1).norm(dim=1)
    data = torch.tensor(parts.data)
    labels = [str(source) for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    ratios = {}
    for kind, sizes in (("gross", parts.gross_size()), ("net", parts.net_size())):
        ratio = sizes[data] / changes  # [groups of samples, m]
        ratios[f"{kind}_over_change"] = {
            **_spread(ratio),
            "means": _spread(ratio.mean(1)),
            "by_source": {label: _spread(row) for label, row in zip(labels, ratio, strict=True)},
        }
    meta = parts.meta
    return {
        "steps": parts.edges[-1] - parts.edges[0],
        "evaluations": meta["evaluations"],
        "overhead": meta["overhead"],
        "gap_relative": parts.gap_rel,
        "gap_absolute": parts.gap_abs,
        "changes": [
            {"group": names[int(group)], "norm": float(change)} for group, change in zip(groups, changes, strict=True)
        ],
        **ratios,
        "recording": {key: meta[key] for key in _KEPT if key in meta},
    }


def _spread(values: Tensor) -> dict[str, float]:
    """The least, the mean and the most of some numbers."""
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}

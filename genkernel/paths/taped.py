"""The folder of a tape, and how it is read.

* ``tape.json``: what it is a tape of;
* ``weights-<step>.safetensors``: parameters, buffers and optimizer state before that step;
* ``steps-<step>.npz``: the steps from there on.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genkernel.errors import InputError, MissingError
from genkernel.paths.coordinates import Coordinates
from genkernel.runs import read_json

FORMAT, VERSION = "genkernel.tape", 1
SAMPLED = 64  # entries of every gradient that are kept
Arrays = dict[str, NDArray[Any]]
_ARRAYS = ("size", "limit", "entries", "active", "trained", "batches")


def sampled_entries(coordinates: Coordinates) -> list[tuple[str, list[int], Tensor]]:
    """Which entries of every gradient are kept: (parameter, their places among the kept ones, their numbers)."""
    draw = np.random.Generator(np.random.PCG64(0))
    chosen = np.sort(draw.choice(coordinates.size, size=SAMPLED, replace=coordinates.size < SAMPLED))
    found = []
    for name, part in coordinates.parts():
        places = np.flatnonzero((chosen >= part.start) & (chosen < part.stop))
        if len(places):
            found.append((name, places.tolist(), torch.from_numpy(chosen[places] - part.start)))
    return found


def copy_name(step: int) -> str:
    return f"weights-{step:08d}.safetensors"


def steps_name(step: int) -> str:
    return f"steps-{step:08d}.npz"


def number_in(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def copies_in(folder: Path) -> list[int]:
    """Steps of which the folder has a copy of the weights."""
    return sorted(map(number_in, folder.glob(f"weights-{'[0-9]' * 8}.safetensors")))


class Taped:
    """A finished tape, read.

    Args:
        folder: of :func:`tape`.

    Attributes:
        steps: N.
        copies: steps with a copy of the weights, 0 and N among them.
        head: ``tape.json``.

    Raises:
        MissingError: there is no tape, or a part of it is gone.
        InputError: it is something else, of another version, or too short.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "tape.json").is_file():
            raise MissingError(f"there is no tape at {self.folder} (tape.json is missing)")
        self.head = read_json(self.folder / "tape.json")
        if not isinstance(self.head, dict) or self.head.get("format") != FORMAT:
            raise InputError(f"{self.folder} is not a tape of a training run")
        if self.head.get("version") != VERSION:
            raise InputError(
                f"the tape at {self.folder} is of format version {self.head.get('version')}, and this genkernel reads "
                f"version {VERSION}"
            )
        copies = copies_in(self.folder)
        starts = sorted(map(number_in, self.folder.glob(f"steps-{'[0-9]' * 8}.npz")))
        # of a run that was killed everything up to its last copy is there
        self.copies = [0, *(step for step in copies if step and any(start < step for start in starts))]
        self.steps = self.copies[-1]
        lacking = [key for key in ("coordinates", "optimizer", "groups") if key not in self.head]
        if lacking:
            raise InputError(f"{self.folder / 'tape.json'} is damaged: it lacks {', '.join(lacking)}")
        if self.head.get("steps", self.steps) != self.steps:
            raise MissingError(f"{self.folder} lacks {copy_name(int(self.head['steps']))}: the tape is not whole")
        if not self.steps:
            raise InputError(f"{self.folder} holds the tape of a run that ended before its second copy of the weights")
        for first in self.copies[:-1]:
            if first not in starts or first not in copies:
                raise MissingError(
                    f"{self.folder} lacks {steps_name(first) if first in copies else copy_name(first)}: the tape is "
                    "not whole"
                )
        for first, last in pairwise(self.copies):
            if (steps := len(self.stretch(first)[0]["size"])) != last - first:
                raise MissingError(
                    f"{self.folder} lacks {copy_name(first + steps)}: the tape is not whole"
                    if steps < last - first
                    else f"{self.folder / steps_name(first)} holds {steps} steps and not {last - first}: it is of "
                    "another run"
                )

    def copy(self, step: int) -> dict[str, dict[str, Tensor]]:
        """Weights before a step: ``parameter``, ``frozen``, ``buffer`` and ``state`` (``key:name``), each by name."""
        found: dict[str, dict[str, Tensor]] = {"parameter": {}, "frozen": {}, "buffer": {}, "state": {}}
        path = self.folder / copy_name(step)
        try:
            held = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is damaged: {error}") from error
        for name, value in held.items():
            kind, _, rest = name.partition(":")
            found[kind][rest] = value
        return found

    def stretch(self, first: int) -> tuple[Arrays, list[dict[str, Any]]]:
        """The steps from a copy on: arrays with one row per step, and the micro-batches."""
        path = self.folder / steps_name(first)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise InputError(f"{path} is damaged: {error}") from error
        if lacking := [name for name in _ARRAYS if name not in arrays]:
            raise InputError(f"{path} is damaged: it lacks {', '.join(lacking)}")
        batches: list[dict[str, Any]] = [{} for _ in range(int(arrays.pop("batches")))]
        for name in [name for name in arrays if ":" in name]:
            number, _, key = name.partition(":")
            batches[int(number)][key] = arrays.pop(name)
        return arrays, batches

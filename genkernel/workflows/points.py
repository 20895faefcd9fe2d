"""Points, or samples of any shape, from files and arrays."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError, NonFiniteError

SUFFIXES = (".csv", ".npy")  # that hold points only; an .npz may hold images
NAMES = ("points", "modes", "x", "samples")  # arrays of an .npz, the first that is there
LABELS = ("y", "labels")  # the same, of their classes


def read_points(path: str | Path, what: str) -> Tensor:
    """Points ``[m, d]`` (or samples ``[m, ...]``) from an ``.npz``, an ``.npy`` or a ``.csv``.

    An ``.npz`` has them under ``points``, ``modes``, ``x`` or ``samples``, or as its only array beside labels. A
    ``.csv`` has one point per line; a first line of names is skipped.

    Args:
        what: for messages: ``"modes"``.

    Raises:
        MissingError: there is no such file.
        InputError: it cannot be read as points.
        NonFiniteError: a value is NaN or infinite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingError(f"there are no {what} at {str(path)!r}: give an .npz, .npy or .csv with one point per row")
    try:
        if path.suffix == ".csv":
            array = np.array(_rows(path), dtype=np.float64)
        else:
            opened = np.load(path, allow_pickle=False)
            array = opened if isinstance(opened, np.ndarray) else _only(opened)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"it holds {array.dtype}")
    except Exception as error:  # damaged archives, ragged rows and words each raise their own kind
        raise InputError(f"{path} cannot be read as {what}, one point per row: {error}") from error
    return as_samples(array, f"the {what} in {path}")


def read_labels(path: str | Path, count: int) -> Tensor | None:
    """Classes ``[count]`` int64 of the points in an ``.npz``, from its array ``y`` or ``labels``.

    Returns:
        None where the file is no ``.npz``, or has no such array of whole numbers from 0 on, one for each point.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".npz":
        return None
    with np.load(path, allow_pickle=False) as archive:
        found = next((archive[name] for name in LABELS if name in archive.files), np.empty(0))
    if found.size != count or found.dtype.kind not in "iu" or int(found.min()) < 0:
        return None
    return torch.from_numpy(found.reshape(-1).astype(np.int64))


def as_samples(given: Any, what: str) -> Tensor:
    """A tensor or array ``[m, *sample]`` as float32 (or float64 where it is) on the CPU.

    Raises:
        InputError: it is neither, or has no sample axis.
        NonFiniteError: a value is NaN or infinite.
    """
    if not isinstance(given, (torch.Tensor, np.ndarray)):
        raise InputError(f"{what} are a tensor, an array or a file, not {type(given).__name__}")
    if given.ndim < 2 or not len(given):
        raise InputError(f"{what} have shape [m, …] with one sample per row, not {tuple(given.shape)}")
    found = torch.as_tensor(given).detach().cpu()
    found = found if found.dtype is torch.float64 else found.float()
    if not torch.isfinite(found).all():
        raise NonFiniteError(f"{what} hold NaN or infinity")
    return found


def _rows(path: Path) -> list[list[float]]:
    with path.open(encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.reader(stream) if any(cell.strip() for cell in line)]
    if lines and not _are_numbers(lines[0]):
        lines = lines[1:]
    if lines and not _are_numbers(lines[0]):  # nor is what follows the names
        cells = lines[0]
        if len(cells) == 1 and (mark := next((m for m in ";\t|" if m in cells[0]), None)):
            raise ValueError(f"its values are separated by {_SEPARATORS[mark]}, and have to be by commas")
        raise ValueError(f"its values are numbers separated by commas, not {','.join(cells)[:40]!r}")
    rows = [[float(cell) for cell in line] for line in lines]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows differ in length")
    return rows


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True


def _only(archive: Any) -> Any:
    with archive:
        names = archive.files
        others = [n for n in names if n not in LABELS] or names
        name = next((n for n in NAMES if n in names), others[0] if len(others) == 1 else None)
        if name is None:
            raise ValueError(f"it has arrays {sorted(names)}, none of them named {', '.join(NAMES)}")
        return archive[name]

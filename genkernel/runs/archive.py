"""Tensors with a header in JSON, as one compressed ``.npz`` that holds no pickles."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.runs.atomic import explain, write_atomic

VERSION = 1


def save_archive(path: str | Path, kind: str, head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors and what JSON holds, atomically, into a folder that is made if need be.

    Args:
        kind: such as ``"genkernel.kernel"``, by which :func:`load_archive` knows its own.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    try:  # what took long to make is not lost for want of a folder
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, path.parent)) from error
    buffer = io.BytesIO()
    header = json.dumps({"format": kind, "version": VERSION, **head})
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez_compressed(buffer, header=np.array(header), **arrays)
    write_atomic(path, buffer.getvalue())
    return path


def load_archive(
    path: str | Path, kind: str, what: str, keys: Sequence[str], tensors: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and tensors of what :func:`save_archive` wrote.

    Args:
        what: the name of such a file in messages: ``"a kernel"``.
        keys: of the header.
        tensors: names of those that every such file has.
        optional: names of those that it may have.

    Raises:
        MissingError: there is no such file.
        InputError: it is something else, incomplete, or from a later version of genkernel.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"there is no file {path}, which should be {what}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not {what} saved by genkernel: it is no .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            head = json.loads(str(archive["header"]))
            found: dict[str, Any] = {
                name: torch.from_numpy(archive[name]) for name in archive.files if name != "header"
            }
        held, version = head["format"], head["version"]
    except Exception as error:
        raise InputError(f"{path} is not {what} saved by genkernel: {error}") from error
    if held != kind:
        raise InputError(f"{path} is not {what} saved by genkernel, but {held!r}")
    if version != VERSION:
        raise InputError(f"{path} is {what} of format version {version}, and this genkernel reads version {VERSION}")
    lacking = [*(key for key in keys if key not in head), *(name for name in tensors if name not in found)]
    unknown = sorted(found.keys() - {*tensors, *optional})
    if lacking or unknown:
        wrong = f"it lacks {', '.join(lacking)}" if lacking else f"nothing is known of {', '.join(unknown)} in it"
        raise InputError(f"{path} is not {what} saved by genkernel: {wrong}")
    return {key: head[key] for key in keys}, found

"""Inputs of a run that come in files of their own: weightings, an optimizer's state, conditioning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genkernel.errors import InputError, MissingError, UnsafeCheckpointError

# names under which training states keep their optimizer
_OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_state")


def read_schemes(given: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any] | None:
    """Loss weightings or samplers: a mapping as it is, or a JSON file.

    The file holds ``{"name": [[time, weight], ...], ...}``; weights between two times are
    interpolated, and outside the first and the last they stay constant.

    Raises:
        MissingError: there is no such file.
        InputError: it does not hold that.
    """
    if given is None or isinstance(given, Mapping):
        return given
    path = _existing(given, "weighting file", 'JSON of the form {"name": [[time, weight], ...]}')
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f'{path} has to hold {{"name": [[time, weight], ...]}}')
    return {name: _interpolated(path, name, points) for name, points in content.items()}


def _interpolated(path: Path, name: str, points: Any) -> Callable[[Any, Any], Any]:
    import numpy as np

    try:
        table = np.array(points, dtype=np.float64)
        good = table.ndim == 2 and table.shape[1] == 2 and len(table) > 0 and bool(np.isfinite(table).all())
        good = good and bool((np.diff(table[:, 0]) > 0).all())
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"{path}: {name!r} has to be a list of [time, weight] pairs with increasing times")
    return lambda t, log_snr: np.interp(t, table[:, 0], table[:, 1])


def read_optimizer(given: Any, *, trust_pickle: bool = False) -> Any:
    """An optimizer's state from a file; anything else is passed on.

    Raises:
        MissingError: there is no such file.
        UnsafeCheckpointError: reading it would run code from it.
        InputError: it is not a file that torch wrote.
    """
    if not isinstance(given, (str, Path)):
        return given
    path = _existing(given, "optimizer state", "a file written with torch.save(optimizer.state_dict(), path)")
    import pickle

    import torch

    from genkernel.checkpoints.weights import is_torch_file

    if not is_torch_file(path):
        raise InputError(
            f"{path} is not a file that torch wrote: give one written with torch.save(optimizer.state_dict(), path)"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        unsafe = "nsupported global" in str(error) or "weights_only" in str(error)
        if trust_pickle or not unsafe:
            raise InputError(f"{path} cannot be read as a file of torch.save") from error
        raise UnsafeCheckpointError(
            f"{path} holds more than tensors, and reading it would run code from it: save optimizer.state_dict() "
            "alone, or allow it with --trust-pickle (trust_pickle=True)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as a file of torch.save") from error
    for key in _OPTIMIZER_KEYS:
        if isinstance(content, dict) and key in content:
            return content[key]
    return content


def read_conditioning(given: Any) -> Any:
    """Arguments of the network from a ``.safetensors`` or ``.npz``; mappings and ``"zeros"`` are passed on.

    Arrays are named like the arguments; a dot makes a nested one (``added_cond_kwargs.text_embeds``).

    Raises:
        MissingError: there is no such file.
        InputError: it cannot be read.
    """
    if not isinstance(given, (str, Path)) or str(given) == "zeros":
        return given
    path = _existing(given, "conditioning", "'zeros', or a .safetensors or .npz with one array per argument")
    import torch

    try:
        if path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as archive:
                flat = {name: torch.from_numpy(archive[name]) for name in archive.files}
        else:
            from safetensors.torch import load_file

            flat = load_file(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read as .safetensors or .npz arrays: {error}") from error
    if not flat:
        raise InputError(f"{path} holds no arrays")
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested


def _existing(given: str | Path, what: str, form: str) -> Path:
    path = Path(given).expanduser()
    if not path.is_file():
        raise MissingError(f"there is no {what} at {str(given)!r}: give {form}")
    return path

"""Files of weights to tensors, without executing code from them.

safetensors first; pickles through ``torch.load(weights_only=True)``. A pickle that needs more
than tensors is refused with the names of what it would import; ``trust_pickle=True``
(``--trust-pickle``) is the only way to let it run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError, MissingError, UnsafeCheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# wrappers that leave their name in front of every parameter
_PREFIXES = ("module.", "_orig_mod.")
# where training scripts put the weights, in order of preference: averages are what is sampled with
_NESTED = ("ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "module", "net", "params")


# how torch.save began its files before they were zip archives: its magic number, pickled
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def read_state_dict(
    path: str | Path, *, trust_pickle: bool = False, key: str | None = None, option: str = "key="
) -> dict[str, Tensor]:
    """Tensors by name from one file, on the CPU, in the dtypes they were stored in.

    Args:
        path: ``.safetensors``, or a file written by ``torch.save``.
        trust_pickle: run the code a pickle asks for. Only for files you wrote yourself.
        key: which entry of a nested checkpoint holds the weights (``"ema"``, ``"state_dict"``).
            By default the file itself, or its only entry with tensors, or the first of
            ``ema``, ``state_dict``, ``model`` and the like.
        option: for messages: what the caller gives ``key`` with.

    Raises:
        MissingError: there is no such file.
        UnsafeCheckpointError: reading it would execute code from it.
        InputError: it cannot be read, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"no weights at {str(path)!r}: the file does not exist")
    loaded = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path, trust_pickle)
    return _unwrapped(_find_state(loaded, path, key, option))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefixes that wrappers left, in whatever order they were nested."""
    while state and (prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def a(value: Any) -> str:
    """The type of a value with its article, for messages: ``"an int"``."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def is_torch_file(path: Path) -> bool:
    """Whether a file is in either of the formats of ``torch.save``; runs nothing."""
    import zipfile

    with path.open("rb") as stream:
        if stream.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def unsafe_globals(path: str | Path) -> list[str]:
    """What a pickle imports beyond tensors, by static reading; empty when it is safe.

    Raises:
        InputError: the file is not one that ``torch.save`` wrote.
    """
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:
        pass  # the format before torch 1.6, or no checkpoint at all: only trying to read it tells
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        if named := _globals_in(error):
            return named
        raise _unreadable(path, error) from error
    return []


def stored_dtypes(files: tuple[Path, ...] | list[Path]) -> dict[str, int]:
    """Number of stored entries per dtype in safetensors files, from their headers alone."""
    from safetensors import safe_open

    counts: dict[str, int] = {}
    for file in files:
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    part = opened.get_slice(name)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    dtype = _DTYPES.get(part.get_dtype(), part.get_dtype().lower())
                    counts[dtype] = counts.get(dtype, 0) + size
        except Exception as error:
            raise InputError(f"{file} is not a readable safetensors file: {_first_line(error)}") from error
    return counts


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} is not a readable safetensors file: {_first_line(error)}") from error


def _pickle(path: Path, trust: bool) -> Any:
    import torch

    if not trust and (named := unsafe_globals(path)):
        shown = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
        raise UnsafeCheckpointError(
            f"{path} is a pickle that would run code on loading ({shown}); give a safetensors file, or allow it with "
            "trust_pickle=True (--trust-pickle) if you trust whoever wrote it"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path | str, error: Exception) -> InputError:
    """What is wrong with a file that torch does not read; for files that are not its own, torch says little."""
    path = Path(path)
    if path.is_file() and not is_torch_file(path):
        kind = "is empty" if not path.stat().st_size else "is not a file that torch.save wrote"
        return InputError(
            f"{path} cannot be read as a torch checkpoint, because it {kind}: give a .safetensors file, or one written "
            "with torch.save(network.state_dict(), path)"
        )
    return InputError(f"{path} cannot be read as a torch checkpoint: {_first_line(error)}")


def _find_state(loaded: Any, path: Path, key: str | None, option: str) -> dict[str, Tensor]:
    import torch

    if isinstance(loaded, torch.nn.Module):  # only ever from a trusted pickle
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds {a(loaded)}, not a dictionary of tensors")
    if key is not None:
        if key not in loaded:
            raise InputError(f"{path} has no entry {key!r}; it has {_names(loaded)}")
        loaded = _as_mapping(loaded[key])
        if loaded is None:
            raise InputError(f"the entry {key!r} of {path} is not a dictionary of tensors")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    nested = {str(k): m for k, v in loaded.items() if (m := _as_mapping(v)) and all(map(_is_tensor, m.values()))}
    if nested and len(tensors) <= len(nested):
        chosen = next((name for name in _NESTED if name in nested), None)
        chosen = chosen or (next(iter(nested)) if len(nested) == 1 else None)
        if chosen is None:
            raise InputError(f"{path} holds several sets of weights ({_names(nested)}): say which with {option}")
        return {str(k): v for k, v in nested[chosen].items()}
    if not tensors:
        raise InputError(f"{path} holds no tensors (its entries are {_names(loaded)})")
    return tensors


def _as_mapping(value: Any) -> Mapping[str, Any] | None:
    import torch

    if isinstance(value, torch.nn.Module):
        return value.state_dict()
    return value if isinstance(value, Mapping) and value else None


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _names(entries: Mapping[Any, Any]) -> str:
    shown = ", ".join(map(str, list(entries)[:6]))
    return f"{shown}, …" if len(entries) > 6 else shown or "none"


def _globals_in(error: Exception) -> list[str]:
    """The globals a ``weights_only`` refusal names."""
    named = re.findall(r"\bGLOBAL\s+([\w.]+)", str(error))
    return sorted({name.rstrip(".") for name in named if "." in name})


def _first_line(error: Exception) -> str:
    # torch wraps the reason of a refusal in a paragraph of advice
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return text.splitlines()[0] if text else type(error).__name__

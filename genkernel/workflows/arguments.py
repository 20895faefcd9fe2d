"""Arguments that the workflows share: their checks, and how they stand in ``run.json``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError
from genkernel.runs import Provenance
from genkernel.runs.provenance import INDIFFERENT

if TYPE_CHECKING:
    from torch import Tensor

#: float64 matrices latents × latents that a GAN run holds at a time: the kernel and its parts, distances, copies
#: (measured: the peak of a run with a discriminator and real samples grows by 92 bytes per pair of latents)
MATRICES = 12
DTYPES = ("float32", "float64", "bfloat16", "float16")


def check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} has to be a whole number of at least {least}, not {shown(value)}")


def check_memory(memory: str | int) -> None:
    from genkernel.tangent.plan import parse_memory

    parse_memory(memory)


def check_latents(latents: int, memory: str | int) -> None:
    """Raise InputError where the matrices of so many latents exceed the bound, or what the machine can give."""
    from genkernel.tangent.heap import available
    from genkernel.tangent.plan import parse_memory

    bound, free = parse_memory(memory), available()
    room, which = bound, f"memory={shown(memory)} allows"
    if free is not None and free < bound:
        room, which = free, f"the {_gib(free)} allow that are free on this machine"
    need = MATRICES * 8 * latents**2
    if need > room:
        most = math.isqrt(room // (MATRICES * 8))
        raise InputError(
            f"{latents} latents need about {_gib(need)} for matrices of {latents} × {latents} numbers, more "
            f"than {which}: at most {most} latents fit"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.0f} GiB" if size >= 10 * 2**30 else f"{size / 2**30:.2g} GiB"


def as_dtype(dtype: Any) -> Any:
    if dtype is None:
        return None
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"dtype is one of {', '.join(DTYPES)}, not {shown(dtype)}")
    return getattr(torch, dtype)


def check_device(device: Any) -> None:
    """Raise InputError unless it names a device of this machine, or is None."""
    import torch

    from genkernel.workflows.device import place

    if device is None:
        return
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise InputError(f"device is a name such as 'cpu' or 'cuda:1', not {shown(device)}")
    place(device)  # type: ignore[arg-type]


def stays_on(model: Any, device: Any) -> None:
    """Raise InputError where a model that is in memory lies on another device than was asked for."""
    import torch

    if device is None:
        return
    wanted = torch.device(device)
    if wanted.type != model.device.type or (wanted.index is not None and wanted.index != model.device.index):
        raise InputError(f"the model is on {model.device} and is never moved: move it to {device} first")


def whole_numbers(name: str, given: Any, count: int | None = None, of: str = "sample") -> Tensor:
    """Labels from a tensor, an array or a list.

    Args:
        name: for messages: ``"real_labels"``.
        count: how many there have to be; of: one for each what.

    Returns:
        ``[count]`` int64 on the CPU, none below 0.

    Raises:
        InputError: they are no such numbers.
    """
    import torch

    want = f"{name} are whole numbers from 0 on, one for each {of}"
    try:
        found = torch.as_tensor(given).detach().cpu()
    except Exception:  # words, ragged lists and objects each raise their own kind
        raise InputError(f"{want}, not {shown(given)}") from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or found.dim() != 1:
        have = shown(given) if not found.numel() else f"{str(found.dtype)[6:]} of shape {tuple(found.shape)}"
        raise InputError(f"{want}, not {have}")
    if count is not None and len(found) != count:
        raise InputError(f"{want}: there are {len(found)} for {count} {of}s")
    if not len(found):
        raise InputError(f"{want}, not {shown(given)}")
    found = found.long()
    if int(found.min()) < 0:
        raise InputError(f"{want}: the smallest is {int(found.min())}")
    return found


def shown(value: Any) -> str:
    """What was given, in one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"


def described(given: Any) -> str | None:
    """An argument for ``run.json``: its name, and a digest of what decides the numbers: a file's, tensors', code's."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if not path.is_file():
            return str(given)
        return f"{given} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})"
    from genkernel.tangent.fingerprint import fingerprint

    name, content = type(given).__name__, given
    if isinstance(given, Mapping):
        name = ", ".join(map(str, given))
        name = name if len(name) <= 30 else f"{len(given)} entries"  # the digest has to be in what a message shows
    elif callable(getattr(given, "state_dict", None)):  # an optimizer, whose other attributes are hooks and caches
        content = given.state_dict()
    digest = given.fingerprint() if callable(getattr(given, "fingerprint", None)) else fingerprint(content)
    return f"{name} (sha256 {digest[:16]})"


def shared_by_ranks(provenance: Provenance) -> dict[str, Any]:
    """What all ranks have to be given alike; paths and devices may differ."""
    own = INDIFFERENT | {"checkpoint", "data", "device"}
    common = {name: value for name, value in provenance.arguments.items() if name not in own}
    return {**common, "checkpoint": provenance.checkpoint.get("sha256"), "images": provenance.data["sha256"]}


def say_nothing(sentence: str) -> None:
    """What another rank than 0 says."""

"""float32 means float32: TF32 and bfloat16 shortcuts are off while kernels are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from genkernel.errors import InputError


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch reduced-precision matrix products and convolutions off; put the user's choice back."""
    places = _places()
    before = [(home, name, getattr(home, name)) for home, name, _ in places]
    try:
        for home, name, value in places:
            setattr(home, name, value)
        yield
    finally:
        for home, name, value in before:
            setattr(home, name, value)


def _places() -> list[tuple[Any, str, Any]]:
    """(where, attribute, value for full precision), per operator where torch has that (from 2.9 on).

    Its older global switches refuse to be read once someone has used the newer ones.
    """
    backends = torch.backends
    homes = [
        getattr(getattr(backends, library), operator, None)
        for library, operator in (
            ("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"),
            ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"),
        )
    ]  # fmt: skip
    modern = [(home, "fp32_precision", "ieee") for home in homes if _answers(home, "fp32_precision")]
    if modern:
        return modern
    return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]


def _answers(home: Any, name: str) -> bool:
    try:
        return isinstance(getattr(home, name), str)
    except (AttributeError, AssertionError, RuntimeError):
        return False


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating point dtype from itself or its name; None stays None.

    Raises:
        InputError: there is no such dtype, or it is none of floating point.
    """
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise InputError(f"dtype {dtype!r} is unknown: use 'float64', 'float32', 'bfloat16' or 'float16'")
        dtype = found
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype {dtype} is not a floating point type")
    return dtype

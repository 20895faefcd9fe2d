"""float32 means float32: TF32 and bfloat16 shortcuts are off while kernels are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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

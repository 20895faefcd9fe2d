"""How much memory a reading is given."""

from __future__ import annotations

import pytest
import torch

from genkernel.errors import InputError
from genkernel.monitor import headroom
from genkernel.monitor.headroom import LEAST, PART, Headroom

CPU = torch.device("cpu")


def test_what_is_given_is_given() -> None:
    assert Headroom("3MiB").bytes(CPU) == 3 * 2**20
    with pytest.raises(InputError):
        Headroom("much")


def test_the_bound_follows_what_is_free_but_not_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    room, free = Headroom(), [0]
    monkeypatch.setattr(headroom, "_peak", lambda: 100 * LEAST + free[0])
    monkeypatch.setattr(headroom, "_held", lambda: 100 * LEAST)
    given = []
    for factor in (0, 8, 9, 15, 7, 8, 16, 0):
        free[0] = factor * LEAST
        given.append(room.bytes(CPU) / LEAST)
    assert given == [1, 8 * PART, 8 * PART, 8 * PART, 7 * PART, 7 * PART, 16 * PART, 1]

"""Printed characters: the same from the same seed, inside the image, and different from one another."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from genkernel.data import printed_characters
from genkernel.data.printed import DIGITS, LETTERS
from genkernel.errors import InputError


def test_they_come_in_turn_and_from_the_seed_alone() -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = printed_characters("017", count=3, seed=4)
    assert found.images.shape == (9, 1, 28, 28) and found.images.dtype == torch.float32
    assert found.labels.tolist() == [0, 1, 2] * 3 and found.source == "printed 017"
    assert torch.equal(found.images, printed_characters("017", count=3, seed=4).images)
    assert not torch.equal(found.images, printed_characters("017", count=3, seed=5).images)
    assert torch.equal(state[0], torch.get_rng_state()) and random.getstate() == state[2]
    assert (np.random.get_state()[1] == state[1]).all()


def test_they_are_white_on_black_and_inside() -> None:
    found = printed_characters(DIGITS, count=4).images
    assert float(found.min()) == 0 and float(found.max()) <= 1 and (found.flatten(1).max(1).values > 0.7).all()
    assert 0.05 < float(found.mean()) < 0.25
    border = torch.cat([found[..., 0, :], found[..., -1, :], found[..., 0], found[..., -1]], -1)
    assert float(border.max()) == 0


@pytest.mark.parametrize("size", [16, 28, 32])
def test_size_rotation_and_place_are_what_was_asked_for(size: int) -> None:
    upright = printed_characters("H", count=6, size=size, height=(0.5, 0.5), rotation=0, shift=0).images
    rows, columns = ((upright[:, 0].amax(axis) > 0.1).sum(1) for axis in (2, 1))
    tall = torch.maximum(rows, columns)
    assert ((tall >= 0.5 * size - 1) & (tall <= 0.5 * size + 2)).all()
    weights = upright[:, 0].sum(1)
    centre = (weights * torch.arange(size)).sum(1) / weights.sum(1)
    assert (centre - (size - 1) / 2).abs().max() < 1.5
    moved = printed_characters("H", count=6, size=size, height=(0.5, 0.5), rotation=0, shift=3).images
    weights = moved[:, 0].sum(1)
    assert ((weights * torch.arange(size)).sum(1) / weights.sum(1)).std() > centre.std() + 0.5


def test_characters_can_be_told_apart() -> None:
    """The mean image of every digit is nearest to another draw's mean image of the same digit."""
    one, other = (
        printed_characters(DIGITS, count=20, seed=s, rotation=5, shift=0).images.reshape(20, 10, -1).mean(0)
        for s in (0, 1)
    )
    assert torch.cdist(one, other).argmin(1).tolist() == list(range(10))
    assert not set(DIGITS) & set(LETTERS) and not set("IOlo") & set(LETTERS) and len(set(LETTERS)) == len(LETTERS) == 48


@pytest.mark.parametrize(
    ("characters", "options", "words"),
    [
        ("", {}, "different ones"),
        ("11", {}, "different ones"),
        (" ", {}, "without ink"),
        ("1", {"count": 0}, "at least one"),
        ("1", {"size": 4}, "8 pixels"),
        ("1", {"height": (0.8, 0.2)}, "smallest ≤ largest"),
        ("1", {"height": (float("nan"), 0.5)}, "smallest ≤ largest"),
        ("1", {"rotation": -1}, "rotation"),
        ("1", {"shift": 14}, "less than half"),
    ],
)
def test_bad_input_is_said(characters: str, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        printed_characters(characters, **options)

"""What tells two GAN runs apart: digests of what was given, and numbers that networks and functions answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.gan import Generator
from genkernel.workflows.arguments import described
from genkernel.workflows.gan_identity import answers_of, other_answers, weights_of
from tests.gan.fake_result import planar_networks


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (lambda x: (-x).exp(), lambda x: (-x).exp() + 0.1 * (x.abs() < 1), False),  # small beside the largest value
        (lambda x: (-x).exp(), lambda x: (-x).exp() * (1 + 1e-6), True),
        (lambda x: x * 1e-9, lambda x: x * 2e-9, True),  # zero within rounding
        (lambda x: x / 0, lambda x: x / 0, True),
        (lambda x: x / 0, lambda x: x, False),
    ],
)
def test_losses_are_compared_logit_by_logit(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], same: bool
) -> None:
    generator, _ = planar_networks()
    mine, theirs = (json.loads(json.dumps(answers_of(generator, None, loss=f), allow_nan=False)) for f in (one, other))
    assert (other_answers(mine, theirs) == []) == same


def test_what_is_asked_leaves_no_trace_and_does_not_depend_on_random_numbers() -> None:
    generator, discriminator = planar_networks()
    first, state = answers_of(generator, discriminator), torch.random.get_rng_state()
    torch.rand(5)
    assert answers_of(generator, discriminator) == first
    torch.random.set_rng_state(state)
    answers_of(generator, discriminator)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_coarse_numbers_are_compared_coarsely() -> None:
    fine, _ = planar_networks()
    coarse = Generator(copy.deepcopy(fine.module).bfloat16(), (2,))
    assert answers_of(fine, None)["tolerance"] == 1e-3 and answers_of(coarse, None)["tolerance"] == 0.0625
    assert other_answers(answers_of(coarse, None), answers_of(fine, None)) == []


def test_weights_count_to_the_last_bit() -> None:
    one = nn.BatchNorm1d(3).double()
    other = copy.deepcopy(one)
    assert weights_of(one) == weights_of(other)
    with torch.no_grad():
        other.running_mean[1] += 1e-15
    assert weights_of(one) != weights_of(other)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"state": {0: torch.ones(2)}}, {"state": {0: torch.zeros(2)}}, "state"),
        ({"a" * 20: 1, "b" * 20: 2}, {"a" * 20: 1, "b" * 20: 3}, "2 entries"),
        ({"late": lambda t, s: t}, {"late": lambda t, s: 2 * t}, "late"),
        (
            gk.Preconditioner.diagonal({"w": torch.ones(2)}),
            gk.Preconditioner.diagonal({"w": torch.zeros(2)}),
            "Precond",
        ),
        (torch.optim.SGD([torch.ones(2)], lr=0.1), torch.optim.SGD([torch.ones(2)], lr=0.2), "SGD"),
        (np.ones(2), np.zeros(2), "ndarray"),
    ],
)
def test_arguments_are_described_with_what_is_in_them(one: Any, other: Any, name: str) -> None:
    assert described(one) == described(one) != described(other)
    text = described(one)
    assert text is not None and text.startswith(name) and " (sha256 " in text and len(text) < 60


def test_plain_arguments_are_described_as_they_are() -> None:
    assert described(None) is None and described("zeros") == "zeros"

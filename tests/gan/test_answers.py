"""A user's classifier, or features, asked about samples."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.gan.answers import answers


def test_what_is_asked_stays_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    state = {name: t.clone() for name, t in net.state_dict().items()}
    x, before = torch.randn(5, 3), torch.get_rng_state()
    first, second = answers(net, x), answers(net, x, batch_size=2)
    torch.testing.assert_close(first, second)  # evaluation mode: neither dropout nor statistics of a batch
    assert net.training and all(m.training for m in net)
    assert all(torch.equal(state[name], t) for name, t in net.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())


def test_functions_that_draw_or_write_do_not_reach_the_user() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        x += torch.rand(len(x), 1) + random.random() + np.random.rand()
        return x

    x = torch.zeros(4, 3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert answers(noisy, x).min() > 0 and not x.any()
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def test_samples_take_the_dtype_of_the_network() -> None:
    assert answers(nn.Linear(3, 2), torch.randn(4, 3, dtype=torch.float64)).dtype == torch.float32
    assert answers(nn.Linear(3, 2).double(), torch.randn(4, 3)).dtype == torch.float64


@pytest.mark.parametrize("bad", [lambda x: x[:, 0], lambda x: x[:2], lambda x: None, lambda x: x.numpy()])
def test_other_answers_are_refused(bad: object) -> None:
    with pytest.raises(InputError, match="features answers"):
        answers(bad, torch.randn(4, 3))  # type: ignore[arg-type]

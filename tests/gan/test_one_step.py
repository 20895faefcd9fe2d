"""The first order against real optimizer steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.one_step import one_step


def pair(activation: type[nn.Module] = nn.Tanh) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    gen = Generator(nn.Sequential(nn.Linear(4, 16), activation(), nn.Linear(16, 2)).double(), (4,))
    disc = Discriminator(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double(), (2,))
    return gen, disc


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_error_halves_with_the_step(optimizer: str) -> None:
    gen, disc = pair()
    batch = gen.draw(32, seed=1)
    before = {name: p.clone() for name, p in gen.module.state_dict().items()}
    found = one_step(gen, batch, disc.drive(gen.images(batch), "non-saturating"), optimizer=optimizer)
    assert ((found.ratios > 1.8) & (found.ratios < 2.2)).all(), found.ratios
    assert found.errors[0] < 0.5 and found.errors[-1] < 0.05
    np.testing.assert_allclose(found.etas[:-1] / found.etas[1:], 2)
    assert math.isnan(found.buffers)
    assert all(torch.equal(before[name], p) for name, p in gen.module.state_dict().items())
    assert all(p.grad is None for p in gen.module.parameters())


def test_the_real_step_is_that_of_training() -> None:
    """The step it compares with is what backward() and torch.optim.SGD make of the mean loss."""
    gen, disc = pair()
    batch = gen.draw(16, seed=1)
    drive = disc.drive(gen.images(batch), "non-saturating")
    found = one_step(gen, batch, drive, eta=0.1, halvings=1)
    start = gen.images(batch)
    optimizer = torch.optim.SGD(gen.module.parameters(), lr=0.1)
    nn.functional.softplus(-disc.module(gen.module(batch["z"]))).mean().backward()
    optimizer.step()
    assert found.movement[0] == pytest.approx(float((gen.images(batch) - start).norm()) / 4, rel=1e-10)


def test_running_statistics_are_a_part_of_their_own() -> None:
    torch.manual_seed(0)
    gen = Generator(nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Softplus(), nn.Linear(16, 2)).double(), (4,))
    _, disc = pair()
    batch = gen.draw(32, seed=1)
    state = {name: b.clone() for name, b in gen.module.named_buffers()}
    found = one_step(gen, batch, disc.drive(gen.images(batch), "hinge"))
    assert ((found.ratios > 1.8) & (found.ratios < 2.2)).all(), found.ratios
    assert found.buffers > 0
    assert all(torch.equal(state[name], b) for name, b in gen.module.named_buffers())


def test_what_is_refused() -> None:
    gen, disc = pair()
    batch = gen.draw(8, seed=1)
    drive = disc.drive(gen.images(batch), "kl")
    with pytest.raises(InputError, match="'sgd' or 'adam'"):
        one_step(gen, batch, drive, optimizer="lion")
    with pytest.raises(InputError, match="positive step size"):
        one_step(gen, batch, drive, eta=0.0)


def test_frozen_statistics_stay_those_of_the_reference() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Softplus(), nn.Linear(16, 2)).double()
    gen = Generator(net, (4,), batch_norm="frozen")
    _, disc = pair()
    batch = gen.draw(32, seed=1)
    for optimizer in ("sgd", "adam"):
        found = one_step(gen, batch, disc.drive(gen.images(batch), "hinge"), optimizer=optimizer)
        assert ((found.ratios > 1.8) & (found.ratios < 2.2)).all(), found.ratios
        assert math.isnan(found.buffers)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_spectral_norm_of_the_old_kind_after_a_training_step() -> None:
    """Its weight is then no leaf, and such a module cannot be copied."""
    torch.manual_seed(0)
    first = nn.utils.spectral_norm(nn.Linear(4, 16))
    net = nn.Sequential(first, nn.BatchNorm1d(16), nn.Softplus(), nn.Linear(16, 2)).double().train()
    net(torch.randn(8, 4).double())
    before = {name: t.clone() for name, t in net.state_dict().items()}
    gen = Generator(net, (4,))
    batch = gen.draw(32, seed=1)
    found = one_step(gen, batch, pair()[1].drive(gen.images(batch), "hinge"))
    assert found.buffers > 0 and net.training
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())

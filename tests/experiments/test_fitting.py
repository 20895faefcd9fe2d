"""One way to train, and points in the plane."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genkernel.errors import InputError
from genkernel.experiments import plane_points
from genkernel.experiments.fitting import accuracy, fit


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)).double()


def test_full_batches_are_gradient_descent_and_looks_are_where_they_were_asked_for() -> None:
    x, y = plane_points.disk_and_circle(20, 0.5, 0)
    ours, by_hand = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    by_hand.load_state_dict(ours.state_dict())
    seen: list[int] = []
    loss = fit(
        ours, x, y.double()[:, None], F.mse_loss, torch.optim.SGD(ours.parameters(), lr=0.1), 5,
        look=lambda step, net: seen.append(step), at=(0, 2, 5),
    )  # fmt: skip
    last = float("nan")
    for _ in range(5):
        value = F.mse_loss(by_hand(x), y.double()[:, None])
        gradients = torch.autograd.grad(value, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), gradients, strict=True):
                p -= 0.1 * g
        last = float(value.detach())
    assert seen == [0, 2, 5] and loss == pytest.approx(last)
    assert all(torch.allclose(p, q) for p, q in zip(ours.parameters(), by_hand.parameters(), strict=True))


def test_the_seed_decides_batches_and_dropout_and_the_random_state_stays() -> None:
    x, y = plane_points.disk_and_circle(30, 0.5, 0)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    nets = [_net() for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        fit(net, x, y.double()[:, None], F.mse_loss, torch.optim.Adam(net.parameters()), 7, batch=8, seed=seed)
        assert not net.training
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_it_stops_when_the_loss_is_small_enough() -> None:
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(2, 1).double()
    looks: list[int] = []
    target = x.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    loss = fit(
        net, x, target, F.mse_loss, optimizer, 10_000, until=1e-6, look=lambda k, _: looks.append(k), at=(10_000,)
    )
    assert loss < 1e-6 and not looks
    with pytest.raises(InputError):
        fit(net, x, target, F.mse_loss, optimizer, 0)


def test_accuracy_of_one_logit_is_that_of_its_sign() -> None:
    x = torch.tensor([[-1.0], [2.0], [3.0]])
    y = torch.tensor([0, 1, 0])
    assert accuracy(nn.Identity(), x, y) == pytest.approx(2 / 3)
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert accuracy(nn.Identity(), two, y) == 1


def test_points_are_where_their_classes_say() -> None:
    x, y = plane_points.around_an_ellipse(200, (0.8, 0.4), seed=1, gap=0.1)
    level = (x / torch.tensor([0.8, 0.4])).square().sum(1)
    assert x.shape == (200, 2) and int(y.sum()) == 100 and float(x.abs().max()) <= 1
    assert ((level > 1.1) == y.bool()).all() and ((level < 0.9) == ~y.bool()).all()
    x, y, normal = plane_points.beside_a_line(300, 0.1, seed=2)
    assert float(normal.norm()) == pytest.approx(1) and float(x.norm(dim=1).max()) <= 1
    assert ((x @ normal > 0.1) == y.bool()).all() and 0.4 < float(y.double().mean()) < 0.6
    assert torch.equal(plane_points.beside_a_line(300, 0.1, seed=2)[0], x)
    for wrong in (
        lambda: plane_points.around_an_ellipse(5, (1.2, 0.4), 0),
        lambda: plane_points.beside_a_line(5, 1, 0),
    ):
        with pytest.raises(InputError):
            wrong()

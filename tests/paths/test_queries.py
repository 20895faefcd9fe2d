"""Derivatives of followed outputs along directions, by each of the ways that they are taken."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from genkernel.paths.coordinates import Coordinates
from genkernel.paths.queries import Queries
from genkernel.tangent.jvp import WIDTH


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize(
    ("queries", "outputs", "count", "held"),
    [
        (2, 1, 5, 3),  # fewer rows than directions: the rows are held
        (9, 1, 5, 5 + WIDTH),  # fewer directions, but rows are cheap
        (2, 40, 5, None),  # many outputs: one directional derivative each
    ],
)
def test_every_way_gives_the_product_with_the_jacobian(layers, queries, outputs, count, held):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    coordinates = Coordinates(dict(net.named_parameters()))
    followed = Queries(net, coordinates, torch.randn(queries, 3).double(), layers=layers)
    theta = coordinates.flat(dict(net.named_parameters()))
    directions = torch.randn(count, coordinates.size).double()
    assert followed.rows_pay(count) == (held is not None or (layers and outputs == 1))
    if held is not None:
        assert followed.held(count) == held
    J = followed.jacobian(theta, None)
    found = dict(followed.derivatives(theta, None, enumerate(directions), count))
    for a, d in enumerate(directions):
        assert found[a].shape == (len(followed.layers), queries, outputs)
        torch.testing.assert_close(found[a].sum(0).flatten(), J @ d, rtol=1e-12, atol=1e-14)
        if layers:
            first = torch.zeros_like(d)
            first[: 6 * 3 + 6] = d[: 6 * 3 + 6]
            torch.testing.assert_close(found[a][0].flatten(), J @ first, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(followed.derivative(theta, None, directions[0]), found[0].sum(0), rtol=1e-12, atol=1e-14)


def test_directions_are_taken_one_after_the_other_where_the_rows_are_held():
    net = nn.Linear(3, 1)
    coordinates = Coordinates(dict(net.named_parameters()))
    followed = Queries(net, coordinates, torch.ones(1, 3))
    given: list[weakref.ref[torch.Tensor]] = []

    def directions():
        for a in range(8):
            assert sum(own() is not None for own in given) <= 1
            d = torch.ones(coordinates.size)
            given.append(weakref.ref(d))
            yield a, d
            del d

    assert len(followed.derivatives(coordinates.flat(dict(net.named_parameters())), None, directions(), 8)) == 8

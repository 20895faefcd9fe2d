"""Samples on an axis of their own, or merged with something before, behind or around them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkernel.tangent.layout import Layout, from_support, growing_axis

N = 3
#: name → (layout, how samples [n, 2, 4, 5] become the tensor)
ORDERS = {
    "alone": (Layout(0), lambda x: x),
    "second": (Layout(1), lambda x: x.transpose(0, 1)),
    "major": (Layout(0, 2), lambda x: x.flatten(0, 1)),
    "time first": (Layout(0, 2, before=2), lambda x: x.transpose(0, 1).flatten(0, 1)),
    "between": (Layout(0, 8, before=4), lambda x: x.permute(2, 0, 1, 3).flatten(0, 2)),
    "second, between": (Layout(1, 8, before=2), lambda x: x.permute(3, 1, 0, 2).flatten(1, 3)),
    "last": (Layout(2, 2), lambda x: x.permute(2, 3, 0, 1).flatten(2, 3)),
}


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> tuple[Layout, Tensor, Tensor]:
    layout, merge = ORDERS[request.param]
    x = torch.randn(N, 2, 4, 5)
    return layout, x, merge(x)


def test_samples_are_found_again(order: tuple[Layout, Tensor, Tensor]) -> None:
    layout, x, merged = order
    apart = layout.split(merged, N)
    assert apart.shape[0] == N
    for i in range(N):
        assert torch.equal(apart[i].flatten().sort().values, x[i].flatten().sort().values)
        part = layout.sample(merged, i, N)
        assert torch.equal(part.flatten().sort().values, x[i].flatten().sort().values)
        assert torch.equal(merged.index_select(layout.axis, layout.slots(i, N)), part)
    assert layout.fits(merged.shape, N)
    assert not layout.fits(merged.shape, N + 1)


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_is_read_from_where_gradients_are(name: str) -> None:
    layout, merge = ORDERS[name]
    shapes = [merge(torch.zeros(n, 2, 4, 5)).shape for n in (N, N + 1)]
    found = growing_axis(shapes[0], N, shapes[1], N + 1)
    assert found == Layout(layout.axis, layout.inner)
    supports = []
    for i in range(N):
        x = torch.zeros(N, 2, 4, 5)
        x[i] = 1.0
        supports.append(merge(x))
    assert from_support(found, supports, N) == layout
    supports[0] = torch.ones_like(supports[0])
    assert from_support(found, supports, N) is None


def test_inputs_are_merged_like_the_output() -> None:
    assert Layout(0, 8, before=4).like(Layout(1, 8)) == Layout(1, 8, before=4)
    assert Layout(0, 8, before=8).like(Layout(0, 2)) == Layout(0, 2, before=2)
    assert Layout(0, 8).like(Layout(0, 2)) == Layout(0, 2)
    assert Layout(0, 8, before=4).like(Layout(2)) == Layout(2)

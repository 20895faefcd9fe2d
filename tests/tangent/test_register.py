"""Rules of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.tangent.reference import kernel as naive
from genkernel.tangent.rules import find, register
from genkernel.tangent.rules.base import Arguments, Rule
from genkernel.tangent.rules.elementwise import broadcast_sum


class Floored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.floor = nn.Linear(4, 8), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(self.linear(x), self.floor)


class SoftMaximum(Rule):
    names = ("input", "other")
    keeps = frozenset({"input", "other"})

    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        arguments = Arguments(use, self.names)
        name = arguments.name_of(position)
        w, x = arguments.get(name), arguments.get("other" if name == "input" else "input")
        return broadcast_sum(B * torch.sigmoid(w - x), use.slots[position].shape, n, layout)


class Wrong(SoftMaximum):
    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        return broadcast_sum(B, use.slots[position].shape, n, layout)


@pytest.fixture
def net() -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield Floored().double()
    register(torch.logaddexp, None)


def _kernel(net: nn.Module) -> Any:
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)
    return gk.kernel(net, x, cotangents=gk.exact_trace(), progress=False)


def test_a_rule_takes_the_place_of_differentiating_call_by_call(net: nn.Module) -> None:
    before = _kernel(net)
    register(torch.logaddexp, SoftMaximum())
    after = _kernel(net)
    assert (
        "1 by call" in str(before.coverage)
        and "0 by call" in str(after.coverage)
        and "0 generic" in str(after.coverage)
    )
    assert torch.allclose(before.values, after.values, rtol=1e-12)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)
    assert torch.allclose(after.values, naive(gk.TangentModel(net), x, cotangents=gk.exact_trace()), rtol=1e-10)


def test_a_wrong_rule_is_found_out_by_the_proof(net: nn.Module) -> None:
    right = _kernel(net)
    register(torch.logaddexp, Wrong())
    found = _kernel(net)
    assert "1 by call" in str(found.coverage) or "1 generic" in str(found.coverage)
    assert torch.allclose(found.values, right.values, rtol=1e-12)


def test_it_goes_before_the_rules_of_the_engine_and_can_be_taken_back() -> None:
    engines, own = find(torch.lerp), SoftMaximum()
    try:
        register(torch.lerp, own)
        assert find(torch.lerp) is own
    finally:
        register(torch.lerp, None)
    assert find(torch.lerp) is engines


@pytest.mark.parametrize(("func", "rule"), [(torch.lerp, SoftMaximum), ("lerp", SoftMaximum()), ([], SoftMaximum())])
def test_what_is_no_function_or_no_rule_is_refused(func: Any, rule: Any) -> None:
    with pytest.raises(InputError):
        register(func, rule)

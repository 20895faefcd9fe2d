"""Rules of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genkernel as gk
from genkernel.errors import CaptureError, InputError
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


class Raises(SoftMaximum):
    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        raise KeyError("oops")


class KeepsTooLittle(SoftMaximum):
    keeps = frozenset({"input"})


class GivesATensor(SoftMaximum):
    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        return super().factor(use, position, B, n, layout).dense()


class SumsTooMuch(SoftMaximum):
    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        return broadcast_sum(B, torch.Size([1]), n, layout)


class WrongWhenLarge(SoftMaximum):
    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        if n > 4:
            raise IndexError("too many")
        return super().factor(use, position, B, n, layout)


@pytest.fixture
def net() -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield Floored().double()
    register(torch.logaddexp, None)


def _x(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1, 1, 24, dtype=dtype).reshape(6, 4)


def _kernel(net: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    return gk.kernel(net, _x(dtype), cotangents=gk.exact_trace(), progress=False)


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
    x = _x()
    assert torch.allclose(after.values, naive(gk.TangentModel(net), x, cotangents=gk.exact_trace()), rtol=1e-10)


def test_a_wrong_rule_is_found_out_by_the_proof(net: nn.Module) -> None:
    right = _kernel(net)
    register(torch.logaddexp, Wrong())
    found = _kernel(net)
    assert "1 by call" in str(found.coverage) or "1 generic" in str(found.coverage)
    assert torch.allclose(found.values, right.values, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Raises, "the rule Raises of torch.logaddexp raised KeyError: 'oops'"),
        (KeepsTooLittle, "the rule KeepsTooLittle of torch.logaddexp raised TypeError"),
        (KeepsTooLittle, "missing from keeps?"),
        (GivesATensor, "GivesATensor of torch.logaddexp returned a tensor of shape (3, 8), not a Factor"),
        (SumsTooMuch, "SumsTooMuch of torch.logaddexp returned gradients of shape (3, 1) where (3, 8) was due"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_calls_of_a_rule_that_fails_are_taken_another_way_and_it_is_named_once(
    net: nn.Module, rule: type[Rule], said: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    net.to(dtype)
    right = _kernel(net, dtype)
    register(torch.logaddexp, rule())
    with caplog.at_level(logging.WARNING, "genkernel"):
        found, again = _kernel(net, dtype), _kernel(net, dtype)
    assert found.coverage.by_call == again.coverage.by_call == ["floor"] and not found.coverage.generic
    assert said in str(found.coverage) and said in found.meta["coverage"]["failures"][0]
    assert caplog.text.count(f"the rule {rule.__name__} of") == 1
    assert torch.allclose(found.values, right.values, rtol=1e-12 if dtype == torch.float64 else 1e-5)
    caplog.clear()
    register(torch.logaddexp, rule())  # corrected, perhaps
    with caplog.at_level(logging.WARNING, "genkernel"):
        _kernel(net, dtype)
    assert caplog.text.count(f"the rule {rule.__name__} of") == 1


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 5e-4), (torch.float64, 1e-7)])
def test_what_is_off_by_more_than_the_documented_tolerance_is_found_out(
    net: nn.Module, dtype: torch.dtype, off: float
) -> None:
    class Off(SoftMaximum):
        def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
            return super().factor(use, position, B * (1 + off), n, layout)

    register(torch.logaddexp, Off())
    assert _kernel(net.to(dtype), dtype).coverage.by_call == ["floor"]


def test_only_the_calls_of_the_failing_rule_are_taken_another_way(net: nn.Module) -> None:
    register(torch.logaddexp, Raises())
    assert "1 by call" in str(_kernel(net).coverage)  # and the linear layer by its own rule


def test_a_rule_that_fails_after_the_proof_is_named_and_not_the_model(net: nn.Module) -> None:
    register(torch.logaddexp, WrongWhenLarge())
    with pytest.raises(CaptureError) as caught:
        _kernel(net)
    assert "model" not in str(caught.value)
    assert "WrongWhenLarge of torch.logaddexp raised IndexError: too many, on a batch of 6 samples" in str(caught.value)
    assert "register(torch.logaddexp, None)" in str(caught.value)
    with pytest.raises(CaptureError, match="the rule WrongWhenLarge of"):
        gk.sketch(net, _x(), dim=64, cotangents=gk.total(), progress=False)


def test_what_the_model_itself_raises_is_still_said_of_the_model(net: nn.Module) -> None:
    register(torch.logaddexp, Raises())
    with pytest.raises(InputError, match="the model does not run on samples of this batch"):
        gk.kernel(net, torch.zeros(6, 5, dtype=torch.float64), cotangents=gk.total(), progress=False)


class FailsInCall(SoftMaximum):
    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise ValueError("never")


class FailsInForget(SoftMaximum):
    keeps: Any = None


@pytest.mark.parametrize(
    ("rule", "said"), [(FailsInCall, "FailsInCall .* ValueError: never"), (FailsInForget, "FailsInForget .* TypeError")]
)
def test_a_rule_that_fails_in_the_forward_pass_is_named(net: nn.Module, rule: type[Rule], said: str) -> None:
    register(torch.logaddexp, rule())
    with pytest.raises(CaptureError, match=said):
        _kernel(net)


def test_a_call_that_the_function_itself_refuses_is_said_of_the_model(net: nn.Module) -> None:
    register(torch.logaddexp, FailsInCall())
    net.floor = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    with pytest.raises(InputError, match="the model does not run on samples of this batch"):
        _kernel(net)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.randn(1, 4)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x, self.token.expand(len(x), 4)], 1))


class NoOwn(Rule):
    names = ("tensors", "dim")

    def own(self, use: Any, position: int, B: Tensor) -> Tensor | None:
        return B  # of all that is joined


def test_the_gradient_of_an_argument_with_samples_of_its_own_is_looked_at_as_well() -> None:
    net = Joined().double()
    right = _kernel(net)
    try:
        register(torch.cat, NoOwn())
        found = _kernel(net)
    finally:
        register(torch.cat, None)
    assert "the rule NoOwn of torch.cat returned a tensor of shape (3, 8) as the gradient" in str(found.coverage)
    assert found.coverage.by_call == ["token"] and not found.coverage.generic
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


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return _swish_backward(ctx, gradients[0])


def _swish_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, beta = ctx.saved_tensors
    s = torch.sigmoid(beta * x)
    return gradient * (s + beta * x * s * (1 - s)), (gradient * x * x * s * (1 - s)).sum(0)


class SwishRule(Rule):
    names = ("x", "beta")
    keeps = frozenset({"x", "beta"})

    def factor(self, use: Any, position: int, B: Tensor, n: int, layout: Any) -> Any:
        arguments = Arguments(use, self.names)
        x, s = arguments.get("x"), torch.sigmoid(arguments.get("beta") * arguments.get("x"))
        if arguments.name_of(position) != "beta":
            return None
        return broadcast_sum(B * x * x * s * (1 - s), use.slots[position].shape, n, layout)


class Gated(nn.Module):
    def __init__(self, swish: Any) -> None:
        super().__init__()
        self.linear, self.beta, self.swish = nn.Linear(4, 8), nn.Parameter(torch.ones(8)), swish

    def forward(self, x: Tensor) -> Tensor:
        return self.swish(self.linear(x), self.beta)


@pytest.mark.parametrize("func", [Swish, Swish.apply])
def test_an_autograd_function_is_refused_with_what_to_do_instead(func: Any) -> None:
    with pytest.raises(InputError, match=r"autograd.Function Swish .* torch.library.custom_op"):
        register(func, SwishRule())
    register(func, None)  # nothing to take back
    found = _kernel(Gated(Swish.apply).double())
    assert found.coverage.generic == ["beta"]


@pytest.mark.parametrize("module", [nn.Linear, nn.Linear(2, 2), Floored, nn.Linear(2, 2).forward])
def test_a_module_is_refused_with_what_to_do_instead(module: Any) -> None:
    with pytest.raises(InputError, match=r"(Linear|Floored) is a module.* register the function"):
        register(module, SoftMaximum())
    assert find(F.linear) is not None


def test_a_class_is_refused() -> None:
    with pytest.raises(InputError, match="is a class"):
        register(Arguments, SoftMaximum())


def test_a_custom_operator_can_have_a_rule() -> None:
    def swish(x: Tensor, beta: Tensor) -> Tensor:
        return x * torch.sigmoid(beta * x)

    operator = torch.library.custom_op(
        "genkernel_tests::swish", swish, mutates_args=(), schema="(Tensor x, Tensor beta) -> Tensor"
    )
    operator.register_autograd(
        _swish_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    net = Gated(operator).double()
    before = _kernel(net)
    assert before.coverage.by_call == ["beta"] and not before.coverage.generic
    try:
        register(operator, SwishRule())
        after = _kernel(net)
        assert not after.coverage.by_call and not after.coverage.generic and not after.coverage.failures
        assert torch.allclose(after.values, before.values, rtol=1e-12)
        register(operator, Raises())
        assert "Raises of torch.ops.genkernel_tests.swish.default" in str(_kernel(net).coverage)
    finally:
        register(operator, None)
    assert _kernel(net).coverage.by_call == ["beta"]

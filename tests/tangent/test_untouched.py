"""Weights, buffers, random state, modes, flags, gradients, hooks and inputs: bit-equal before and after."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import GenkernelError
from genkernel.tangent import examine, kernel, reference
from tests.tangent.compare import BY_NAME, QUICK_OR_SLOW, relative_error
from tests.tangent.snapshot import Snapshot
from tests.zoo import REFUSALS, Case, Refusal
from tests.zoo.cases import Net


def unsettle(module: nn.Module) -> None:
    """Modes, gradients, flags and random states as a user in the middle of training may have them."""
    draw = random.Random(1)
    for m in module.modules():
        if not isinstance(m, torch.jit.ScriptModule):
            m.training = draw.random() < 0.5
    for p in module.parameters():
        if draw.random() < 0.5:
            p.grad = torch.full_like(p, draw.random())
    module.register_forward_hook(lambda module, args, out: None)
    torch.manual_seed(draw.randrange(1000))
    random.seed(draw.randrange(1000))
    np.random.seed(draw.randrange(1000))


@pytest.mark.parametrize("case", QUICK_OR_SLOW)
def test_after_a_kernel(case: Case) -> None:
    model = case.model()
    unsettle(model.module)
    x, y = case.batch(2), case.batch(1, seed=1)
    before = Snapshot(model.module, x, y)
    kernel(model, x, y, cotangents=gk.probes(2), memory=1)
    before.check()
    reference.kernel(model, x, cotangents=gk.total())
    before.check()


@pytest.mark.parametrize("name", ["conv_bn_relu", "dropout", "unet", "spectral_norm", "spectral_norm_hook"])
def test_a_model_in_train_mode_is_evaluated_and_comes_back_in_train_mode(name: str) -> None:
    case = BY_NAME[name]
    evaluated = case.model()
    training = case.model()
    training.module.train()
    x = case.batch(3)
    before = Snapshot(training.module, x)
    found = kernel(training, x, cotangents=gk.probes(2))
    before.check()
    assert all(m.training for m in training.module.modules())
    assert relative_error(found, reference.kernel(evaluated, case.batch(3), cotangents=gk.probes(2))) < 1e-10


@pytest.mark.parametrize("refused", REFUSALS, ids=repr)
def test_after_a_refusal(refused: Refusal) -> None:
    model, batch = refused.make()
    unsettle(model.module)
    x = batch(6, 0)
    before = Snapshot(model.module, x)
    with pytest.raises(GenkernelError):
        kernel(model, x, cotangents=gk.probes(2))
    before.check()


def test_forward_and_examine_and_wrapping() -> None:
    case = BY_NAME["conv_bn_relu"]
    module, x = case.module().train(), case.batch(4)
    before = Snapshot(module, x)
    model = gk.TangentModel(module)
    before.check()
    out = model.forward(x)
    before.check()
    assert not out.requires_grad
    with torch.no_grad():
        true = copy.deepcopy(module).eval()(x.clone())
    assert relative_error(out, true) < 1e-15
    examine(model, x)
    before.check()


class Stop(Exception):
    pass


def interrupting(
    call: Callable[..., Tensor] | None, error: type[BaseException]
) -> tuple[Callable[..., Tensor], dict[str, int]]:
    """A call that raises at its k-th forward or backward pass, in the middle of the module."""
    state = {"until": -1, "seen": 0}

    def tick(*_: Any) -> None:
        state["seen"] += 1
        if state["seen"] == state["until"]:
            raise error

    def interrupted(module: nn.Module, batch: Any) -> Tensor:
        handles = [list(module.modules())[-1].register_forward_hook(lambda m, args, out: tick())]
        try:
            out = module(**batch) if isinstance(batch, dict) else module(batch)
        finally:
            handles[0].remove()
        if out.requires_grad:
            out.register_hook(tick)
        return out

    return interrupted, state


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["conv_bn_relu", "gru_batch_first", "spectral_norm"])
def test_after_an_interruption_at_any_moment(name: str, error: type[BaseException]) -> None:
    case = BY_NAME[name]
    call, state = interrupting(case.call, error)
    model = gk.TangentModel(case.module(), call, params=case.params)
    unsettle(model.module)
    x = case.batch(2)
    before = Snapshot(model.module, x)
    for until in range(1, 1000):
        state.update(until=until, seen=0)
        try:
            kernel(model, x, cotangents=gk.probes(2), memory=1)
        except error:
            before.check()
        else:
            break
    assert 6 < until < 1000
    before.check()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_after_an_exception_in_a_cotangent(error: type[BaseException]) -> None:
    case = BY_NAME["conv_bn_relu"]
    model, x = case.model(), case.batch(4)
    unsettle(model.module)
    before = Snapshot(model.module, x)

    def fail(outputs: Tensor, batch: Any) -> Tensor:
        raise error

    with pytest.raises(error):
        kernel(model, x, cotangents=gk.cotangent(fail))
    before.check()


def test_a_cotangent_cannot_write_to_the_batch() -> None:
    case = BY_NAME["mlp"]
    model, x = case.model(), case.batch(4)
    before = Snapshot(model.module, x)

    def careless(outputs: Tensor, batch: Tensor) -> Tensor:
        batch.zero_()
        return outputs.mul_(2.0)

    with contextlib.suppress(GenkernelError):  # refusing is right, too
        kernel(model, x, cotangents=gk.cotangent(careless))
    before.check()


# ---------------------------------------------------------- models that write to themselves


def counted(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    net.mean.mul_(0.9).add_(x.detach().mean(), alpha=0.1)
    net.last = x.detach()
    net.plain.add_(1.0)
    net.history.append(1)
    return net.layer(x)


def test_buffers_and_tensors_that_a_forward_writes() -> None:
    """Registered buffers and plain tensor attributes, written in place and replaced."""
    net = Net(counted, layer=nn.Linear(3, 2), mean=torch.zeros(()), calls=torch.zeros((), dtype=torch.long)).double()
    net.plain = torch.zeros(2, dtype=torch.float64)  # neither parameter nor buffer
    net.last = torch.ones(1)
    net.history = []
    x = torch.randn(4, 3, dtype=torch.float64)
    before = Snapshot(net, x)
    kernel(net, x, cotangents=gk.total(), memory=1)
    before.check()


def test_a_tensor_left_behind_for_the_first_time_is_taken_away() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        net.features = torch.tanh(net.layer(x))
        return net.out(net.features)

    net = Net(forward, layer=nn.Linear(3, 4), out=nn.Linear(4, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    before = Snapshot(net, x)
    kernel(net, x, cotangents=gk.total())
    before.check()
    assert not hasattr(net, "features")
    with torch.no_grad():
        net(x)
    left = net.features
    kernel(net, x, cotangents=gk.total())
    assert net.features is left


def test_an_embedding_that_renormalises_its_weight_in_place() -> None:
    net = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(6, 2)).double()
    i = torch.randint(0, 5, (4, 2))
    true = reference.kernel(net, i, cotangents=gk.total())
    before = Snapshot(net, i)
    with contextlib.suppress(GenkernelError):  # refusing is right, too
        assert relative_error(kernel(net, i, cotangents=gk.total()), true) < 1e-10
    before.check()


def test_weights_in_one_memory_and_not_contiguous() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    flat = torch.randn(60, dtype=torch.float64)
    net[0].weight.data = flat[:24:2].view(4, 3)
    net[2].weight.data = flat[30:38].view(4, 2).t()
    x = torch.randn(4, 3, dtype=torch.float64)
    before = Snapshot(net, x)
    K = kernel(net, x, cotangents=gk.exact_trace())
    before.check()
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.exact_trace())) < 1e-10


def test_old_hooks_after_a_forward_with_gradients() -> None:
    """The computed weight is then a plain attribute with a graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    net(x).sum().backward()
    net.eval()
    left = net[0].weight
    before = Snapshot(net, x)
    K = kernel(net, x, cotangents=gk.total())
    before.check()
    assert net[0].weight is left
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.total())) < 1e-10


def test_inputs_that_require_gradients() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    before = Snapshot(net, x)
    K = kernel(net, x, cotangents=gk.total())
    before.check()
    assert not K.values.requires_grad
    assert relative_error(K, kernel(net, x.detach(), cotangents=gk.total())) == 0


@pytest.mark.parametrize("guard", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_inside_of_gradient_guards(guard: Any) -> None:
    case = BY_NAME["conv_bn_relu"]
    model, x = case.model(), case.batch(4)
    true = kernel(model, x, cotangents=gk.total())
    with guard():
        before = Snapshot(model.module, x)
        K = kernel(model, x, cotangents=gk.total())
        before.check()
    assert relative_error(K, true) < 1e-12


def test_inputs_from_inference_mode() -> None:
    case = BY_NAME["conv_bn_relu"]
    true = kernel(case.model(), case.batch(4), cotangents=gk.total())
    with torch.inference_mode():
        x = case.batch(4)
    assert x.is_inference()
    assert relative_error(kernel(case.model(), x, cotangents=gk.total()), true) < 1e-12


def test_training_goes_on_as_if_nothing_had_been() -> None:
    """The same steps of an optimizer with and without kernels in between, to the bit."""

    def train(watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = BY_NAME["conv_bn_relu"].module().train()
        net.append(nn.Dropout(0.3))
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for step in range(4):
            x = torch.randn(6, 2, 6, 6, dtype=torch.float64)
            loss = net(x).square().mean()
            if watch:
                kernel(net, x, cotangents=gk.probes(2, seed=step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [*net.parameters(), *net.buffers()]

    for a, b in zip(train(False), train(True), strict=True):
        assert torch.equal(a, b)

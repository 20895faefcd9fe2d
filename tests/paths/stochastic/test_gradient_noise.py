"""The covariance of a mini-batch gradient, against enumeration of all batches."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, RandomOutputError
from genkernel.paths.stochastic.gradient_noise import GradientNoise, gradient_noise_covariance
from genkernel.tangent import TangentModel


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 2)).double()


def data(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, 2, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def loss(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (module(x) - y).square().mean(1)


def gradients(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Per-sample gradients by the plainest route."""
    module = copy.deepcopy(module).eval()
    rows = []
    for x, y in zip(*batch, strict=True):
        found = torch.autograd.grad((module(x) - y).square().mean(), list(module.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


def every_batch(n: int, size: int, replacement: bool) -> list[list[int]]:
    if replacement:
        return [list(one) for one in itertools.product(range(n), repeat=size)]
    return [list(one) for one in itertools.combinations(range(n), size)]


def covariance(rows: Tensor) -> Tensor:
    away = rows - rows.mean(0)
    return away.T @ away / len(rows)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_the_population_against_all_batches(size: int, replacement: bool) -> None:
    n = 4 if replacement else 6
    size = min(size, n)
    module, batch = network(), data(n)
    each = gradients(module, batch)
    means = torch.stack([each[one].mean(0) for one in every_batch(n, size, replacement)])
    noise = gradient_noise_covariance(module, loss, batch, batch_size=size, replacement=replacement)
    expected = covariance(means)
    torch.testing.assert_close(noise.dense(), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(noise.diagonal(), expected.diagonal(), rtol=0, atol=1e-15)
    assert noise.trace() == pytest.approx(float(expected.trace()), abs=1e-15)
    torch.testing.assert_close(noise.mean, each.mean(0), rtol=0, atol=1e-15)
    assert list(noise.layout.values()) == [(3, 2), (3,), (2, 3), (2,)]


@pytest.mark.parametrize("replacement", [False, True])
def test_one_batch_is_unbiased(replacement: bool) -> None:
    """The mean over all batches of what one batch says is the covariance over all batches."""
    n, size = 5, 3
    module, (x, y) = network(), data(n)
    whole = gradient_noise_covariance(module, loss, (x, y), batch_size=size, replacement=replacement).dense()
    total, batches = torch.zeros_like(whole), every_batch(n, size, replacement)
    for one in batches:
        noise = gradient_noise_covariance(
            module, loss, (x[one], y[one]), batch_size=size, population=n, replacement=replacement
        )
        total += noise.dense() / len(batches)
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-15)


def test_fresh_data_and_the_whole_batch() -> None:
    module, batch = network(), data()
    fresh = gradient_noise_covariance(module, loss, batch, batch_size=8, population=math.inf)
    each = gradients(module, batch)
    torch.testing.assert_close(fresh.dense(), torch.cov(each.T) / 8, rtol=1e-13, atol=1e-16)
    assert gradient_noise_covariance(module, loss, batch, batch_size=6).trace() == 0


def test_products_and_draws_need_no_matrix() -> None:
    noise = gradient_noise_covariance(network(), loss, data(), batch_size=2)
    dense, generator = noise.dense(), torch.Generator().manual_seed(0)
    v = torch.randn(5, noise.parameters, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(noise.apply(v), v @ dense, rtol=0, atol=1e-15)
    torch.testing.assert_close(noise.apply(v[0]), dense @ v[0], rtol=0, atol=1e-15)
    # the map z → draw is a root of Σ: its Gram matrix is Σ itself
    root = noise.sample(torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, dense, rtol=0, atol=1e-15)
    draws = noise.sample(torch.randn(200_000, 6, generator=generator, dtype=torch.float64))
    spread = covariance(draws)
    diagonal = dense.diagonal()
    stderr = ((diagonal[:, None] * diagonal + dense.square()) / len(draws)).sqrt()
    assert ((spread - dense).abs() <= 5 * stderr + 1e-15).all()
    assert noise.sample(generator=torch.Generator().manual_seed(3)).shape == (noise.parameters,)


def test_low_rank_where_a_matrix_would_not_fit() -> None:
    noise = GradientNoise(torch.ones(2, 30_000, dtype=torch.float64), 0.5, torch.zeros(30_000, dtype=torch.float64))
    assert noise.trace() == 30_000
    with pytest.raises(InputError, match="use apply, diagonal, trace or sample"):
        noise.dense()


def branching(module: nn.Module, batch: Any) -> Tensor:
    """The same losses through a branch on values, which vmap cannot follow."""
    errors = loss(module, batch)
    return errors if bool(errors.detach().sum() >= 0) else -errors


def test_the_loop_gives_the_same_numbers() -> None:
    module, batch = network(), data()
    fast = gradient_noise_covariance(module, loss, batch, batch_size=2)
    slow = gradient_noise_covariance(module, branching, batch, batch_size=2)
    assert (fast.route, slow.route) == ("vmap", "loop")
    torch.testing.assert_close(slow.factor, fast.factor, rtol=0, atol=1e-15)


def test_selected_parameters_and_other_weights() -> None:
    module, batch = network(), data()
    other = {name: value + 0.1 for name, value in module.state_dict().items()}
    model = TangentModel(module, params="3.*").at(other)
    noise = gradient_noise_covariance(model, loss, batch, batch_size=2)
    assert list(noise.layout) == ["3.weight", "3.bias"] and noise.parameters == 8
    moved = network()
    moved.load_state_dict(other)
    whole = gradient_noise_covariance(moved, loss, batch, batch_size=2)
    torch.testing.assert_close(noise.factor, whole.factor[:, -8:], rtol=0, atol=1e-15)


def test_float32_models_are_read_in_float64() -> None:
    module = network().float()
    noise = gradient_noise_covariance(module, loss, tuple(part.float() for part in data()), batch_size=2)
    assert noise.factor.dtype == torch.float64
    assert module[0].weight.dtype == torch.float32


@pytest.mark.parametrize("function", [loss, branching])
def test_module_gradients_and_generators_are_untouched(function: Callable[..., Tensor]) -> None:
    module, batch = network().train(), data()
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    gradient_noise_covariance(module, function, batch, batch_size=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]
    assert all(m.training for m in module.modules())
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) and p.requires_grad
        assert p.grad is not None and bool((p.grad == 1).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 7}, "batch_size=7 of 6 samples: without replacement a batch holds at most 6$"),
        ({"batch_size": 2, "population": 5}, "smaller than the 6 samples"),
        ({"loss_fn": lambda m, b: loss(m, b).mean()}, "one loss per sample"),
        ({"loss_fn": lambda m, b: (m(b[0]) - b[1]).square()}, "one loss per sample"),
        ({"batch": tuple(part[:1] for part in data())}, "at least two samples"),
        ({"model": TangentModel(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), batch_norm="train")}, "batch norm"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": network(), "loss_fn": loss, "batch": data(), "batch_size": 2, **change}
    if "batch" in change:
        arguments["batch_size"] = 1
    model, loss_fn, batch = arguments.pop("model"), arguments.pop("loss_fn"), arguments.pop("batch")
    with pytest.raises(InputError, match=message):
        gradient_noise_covariance(model, loss_fn, batch, **arguments)


def test_random_and_infinite_losses_are_named() -> None:
    with pytest.raises(RandomOutputError, match="put them into the batch"):
        gradient_noise_covariance(
            network(), lambda m, b: loss(m, b) * torch.rand(len(b[0]), dtype=torch.float64), data(), batch_size=2
        )
    x, y = data()
    y[4] = math.inf
    with pytest.raises(NonFiniteError, match="sample 4"):
        gradient_noise_covariance(network(), loss, (x, y), batch_size=2)


def test_draws_want_numbers_of_the_right_shape() -> None:
    noise = gradient_noise_covariance(network(), loss, data(), batch_size=2)
    with pytest.raises(InputError, match="either z"):
        noise.sample()
    with pytest.raises(InputError, match=r"need \[6\] or \[k, 6\]"):
        noise.sample(torch.zeros(5))
    with pytest.raises(InputError, match="acts on vectors"):
        noise.apply(torch.zeros(3))

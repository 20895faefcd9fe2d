"""Frozen kernels against trainings of models that are linear in their parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import FrozenKernel, kernel_drift


def features(n: int, outputs: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(n, outputs, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def descended(J: Tensor, y: Tensor, start: Tensor, rate: float, steps: int) -> Tensor:
    """Weights of f = J θ after gradient descent on (1/2n) Σ ‖f - y‖²."""
    theta = start.clone()
    for _ in range(steps):
        theta = theta - rate * torch.einsum("nop,no->p", J, J @ theta - y) / len(J)
    return theta


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("rate", [0.05, 0.9])
def test_gradient_descent_on_a_linear_model_is_foreseen(outputs: int, rate: float) -> None:
    J, other = features(5, outputs), features(4, outputs, seed=1)
    y, theta = torch.randn(5, outputs).double(), torch.randn(7).double()
    K = torch.einsum("iap,jbp->ijab", J, J)
    cross = torch.einsum("iap,jbp->ijab", other, J)
    if outputs == 1:
        K, cross = K[..., 0, 0], cross[..., 0, 0]
    frozen = FrozenKernel(K, y, J @ theta)
    rate = rate * frozen.largest_rate  # 0.9: single modes alternate
    for steps in (0, 1, 7, 100):
        end = descended(J, y, theta, rate, steps)
        torch.testing.assert_close(frozen.after(steps, rate=rate), J @ end)
        torch.testing.assert_close(frozen.after(steps, rate=rate, cross=cross, initial=other @ theta), other @ end)


def test_gradient_flow_is_the_limit_of_small_steps_and_regression_that_of_time() -> None:
    J, other = features(5), features(3, seed=2)
    y = torch.randn(5, generator=torch.Generator().manual_seed(1)).double()
    K, cross = (torch.einsum("iap,jap->ij", z, J) for z in (J, other))
    frozen = FrozenKernel(K, y)
    gap = [
        float((frozen.after(steps, rate=2.0 / steps, cross=cross) - frozen.at(2.0, cross=cross)).norm())
        for steps in (1000, 2000)
    ]
    assert gap[0] / gap[1] == pytest.approx(2, rel=0.05)
    torch.testing.assert_close(frozen.at(math.inf, cross=cross), cross @ torch.linalg.solve(K, y))
    torch.testing.assert_close(frozen.at(math.inf), y)
    assert torch.equal(frozen.at(0.0), torch.zeros(5, dtype=torch.float64))


def test_null_directions_stay_where_they_were() -> None:
    K = torch.ones(2, 2).double()  # rank 1: the difference of the outputs cannot be learned
    frozen = FrozenKernel(K, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5]))
    for found in (frozen.at(math.inf), frozen.at(1e9), frozen.after(10_000, rate=0.5)):
        torch.testing.assert_close(found, torch.tensor([0.25, 0.75]).double())


def test_regression_leaves_out_what_is_rounding_in_the_kernel() -> None:
    """Eigenvalues of 1e-17 are positive or negative by chance, and targets outside of the span are divided by them."""
    J, other = features(30)[:, 0], features(4, seed=1)[:, 0]
    y = torch.randn(30, generator=torch.Generator().manual_seed(1)).double()
    frozen = FrozenKernel(J @ J.T, y)
    assert float(frozen._values[7:].max()) > 0  # there is something to leave out
    expected = torch.linalg.pinv(J) @ y
    torch.testing.assert_close(frozen.at(math.inf, cross=other @ J.T), other @ expected)
    torch.testing.assert_close(frozen.at(math.inf), J @ expected)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_drift_has_no_unit(size: float) -> None:
    K, L = features(5)[:, 0], features(5, seed=1)[:, 0]
    assert kernel_drift(size * K, size * L) == pytest.approx(kernel_drift(K, L))
    turned = kernel_drift(K.numpy()[::-1], L.numpy()[::-1])
    assert turned == pytest.approx(kernel_drift(K, L))


def test_drift_is_relative_to_the_first_kernel() -> None:
    K = torch.eye(3)
    assert kernel_drift(K, 1.5 * K) == pytest.approx(0.5) and kernel_drift(1.5 * K, K) == pytest.approx(1 / 3)
    net = torch.nn.Linear(2, 1)
    x = torch.randn(4, 2)
    one = gk.kernel(net, x, cotangents=gk.total(), progress=False)
    assert kernel_drift(one, one) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f.after(3, rate=f.largest_rate), "converges for rates"),
        (lambda f: f.after(-1, rate=0.1), "steps is not negative"),
        (lambda f: f.at(math.nan), "time is not negative"),
        (lambda f: f.at(1.0, cross=torch.ones(2, 4)), "training samples"),
        (lambda f: f.at(1.0, cross=torch.ones(2, 3), initial=torch.ones(3)), "initial has shape"),
        (lambda f: f.at(1.0, initial=torch.ones(3)), "belongs to cross"),
        (lambda f: FrozenKernel(torch.eye(3), torch.ones(4)), "targets have shape"),
        (lambda f: FrozenKernel(torch.eye(3), torch.ones(3), torch.ones(3, 1)), "shape of the targets"),
        (lambda f: FrozenKernel(torch.eye(3), torch.tensor([1.0, math.nan, 0.0])), "NaN"),
        (lambda f: kernel_drift(torch.eye(3), torch.eye(2)), "differ in shape"),
        (lambda f: kernel_drift(torch.zeros(2, 2), torch.eye(2)), "is zero"),
        (lambda f: kernel_drift(torch.eye(2), torch.full((2, 2), math.inf)), "NaN or infinite"),
    ],
)
def test_what_makes_no_sense_is_said(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(FrozenKernel(torch.eye(3), torch.ones(3)))

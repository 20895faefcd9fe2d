"""Kernels of infinite width against wide networks, closed forms and quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import infinite_width_nngp, infinite_width_ntk, ntk_mlp

pytestmark = pytest.mark.usefixtures("one_thread")

SMOOTH = ("erf", "tanh", "gelu", "sin", "silu", "softplus", "sigmoid")


def points(n: int = 6, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def averaged(function: Any, covariance: Any, nodes: int = 200) -> float:
    """E φ(u) φ(v), (u, v) ~ N(0, covariance), by quadrature in two dimensions."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / math.sqrt(2 * math.pi)
    L = np.linalg.cholesky(covariance)
    u = torch.from_numpy(L[0, 0] * z[:, None] + 0 * z)
    v = torch.from_numpy(L[1, 0] * z[:, None] + L[1, 1] * z)
    return float((function(u) * function(v) * torch.from_numpy(w[:, None] * w)).sum())


@pytest.mark.parametrize("activation", SMOOTH)
def test_averages_are_those_of_quadrature_in_two_dimensions(activation: str) -> None:
    from genkernel.spectra.infinite_width import ACTIVATIONS

    x = points(2)
    first = 1.3 * x @ x.T / 4 + 0.2
    found = infinite_width_nngp(x, depth=1, activation=activation, weight_variance=1.3, bias_variance=0.2)
    expected = 1.3 * averaged(ACTIVATIONS[activation], first.numpy()) + 0.2
    assert float(found[0, 1]) == pytest.approx(expected, rel=1e-7)


def test_series_and_closed_forms_are_the_same_kernel() -> None:
    options: dict[str, Any] = {"depth": 3, "weight_variance": 2.0, "bias_variance": 0.1}
    closed = infinite_width_ntk(points(), points(5, seed=1), activation="erf", **options)
    series = infinite_width_ntk(points(), points(5, seed=1), activation=lambda z: torch.erf(z), **options)
    torch.testing.assert_close(series, closed, rtol=1e-9, atol=1e-9)


def test_one_hidden_relu_layer_is_the_arc_cosine_kernel() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    # σ_w² = 2, d = 2: Σ¹ = x·x', E φφ = (sin θ + (π - θ) cos θ) / 2π, E φ'φ' = (π - θ) / 2π
    K = infinite_width_ntk(x, depth=1, weight_variance=2.0)
    assert K[0, 0] == pytest.approx(1 + 1) and K[0, 1] == pytest.approx(1 / math.pi) and abs(K[0, 2]) < 1e-12


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_same_samples_on_both_sides_are_one_kernel(activation: str) -> None:
    x = points()
    options: dict[str, Any] = {"depth": 2, "activation": activation, "bias_variance": 0.3}
    one, two = infinite_width_ntk(x, **options), infinite_width_ntk(x, x.clone(), **options)
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)  # ReLU's slope has a root at parallel inputs
    assert torch.equal(one, one.T) and float(torch.linalg.eigvalsh(one)[0]) > 0
    mirrored = infinite_width_ntk(torch.cat([x, -x]), **options)
    torch.testing.assert_close(mirrored[:6, :6], one)
    odd = infinite_width_ntk(torch.cat([x, -x]), depth=2, activation="sin")
    torch.testing.assert_close(odd[:6, 6:], -odd[:6, :6])  # odd activations without biases: odd functions


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_rotations_leave_it(activation: str) -> None:
    x = points(5, 7)
    turn = torch.linalg.qr(points(7, 7, 3))[0]
    before, after = (infinite_width_ntk(z, depth=2, activation=activation, bias_variance=0.1) for z in (x, x @ turn))
    torch.testing.assert_close(before, after)


def test_a_linear_network_has_its_kernel_at_every_width() -> None:
    net = ntk_mlp(4, 1, depth=0, weight_variance=1.7, bias_variance=0.3, outputs=2).double()
    found = gk.kernel(net, points(), cotangents=gk.blocks(), progress=False).values
    limit = infinite_width_ntk(points(), depth=0, weight_variance=1.7, bias_variance=0.3)
    for a in range(2):
        torch.testing.assert_close(found[:, :, a, a], limit)
    assert float(found[:, :, 0, 1].abs().max()) == 0
    torch.testing.assert_close(infinite_width_nngp(points(), depth=0, weight_variance=1.7, bias_variance=0.3), limit)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_wide_networks_converge_without_bias_at_the_root_of_the_width(activation: str) -> None:
    x = points(5)
    options: dict[str, Any] = {
        "depth": 2, "activation": activation, "weight_variance": 1.8, "bias_variance": 0.2
    }  # fmt: skip
    limit = infinite_width_ntk(x, **options)
    widths = (64, 256, 1024)
    seeds = {64: 40, 256: 20, 1024: 8}
    distances = []
    for width in widths:
        kernels = torch.stack(
            [
                gk.kernel(ntk_mlp(4, width, seed=s, **options), x.float(), cotangents=gk.total(), progress=False).values
                for s in range(seeds[width])
            ]
        )
        distances.append(float((kernels - limit).square().mean().sqrt()))
        along = (kernels * limit).sum((1, 2)) / limit.square().sum() - 1
        assert abs(float(along.mean())) < 4 * float(along.std()) / seeds[width] ** 0.5 + 2 / width
    slope = np.polyfit(np.log(widths), np.log(distances), 1)[0]
    assert -0.65 < slope < -0.35


def test_outputs_at_initialisation_have_the_covariance() -> None:
    x = points(3)
    options: dict[str, Any] = {"depth": 1, "weight_variance": 2.0, "bias_variance": 0.5}
    with torch.no_grad():
        outputs = torch.stack([ntk_mlp(4, 256, seed=s, **options)(x.float())[:, 0] for s in range(800)]).double()
    found = outputs.T @ outputs / len(outputs)
    torch.testing.assert_close(found, infinite_width_nngp(x, **options), rtol=0.2, atol=0.1)


def test_the_network_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two, other = ntk_mlp(3, 8, depth=2, seed=1), ntk_mlp(3, 8, depth=2, seed=1), ntk_mlp(3, 8, depth=2, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(4, 3)
    assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))
    assert one(x.reshape(4, 1, 3)).shape == (4, 1)


def test_a_sample_of_zeros_is_allowed() -> None:
    x = torch.cat([torch.zeros(1, 4), points(2).float()])
    for activation in ("relu", "tanh"):
        K = infinite_width_ntk(x, depth=2, activation=activation)
        assert torch.isfinite(K).all() and float(K[0].abs().max()) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "relo"}, "activation is one of"),
        ({"depth": -1}, "hidden layers"),
        ({"depth": 1.0}, "whole number"),
        ({"weight_variance": 0.0}, "positive"),
        ({"bias_variance": -1.0}, "not negative"),
        ({"activation": torch.abs}, "kink"),
        ({"activation": "tanh", "weight_variance": 1e5}, "smaller"),
        ({"y": torch.ones(2, 3)}, "samples of x have 4"),
        ({"x": torch.full((2, 4), math.nan)}, "NaN"),
        ({"x": torch.ones(4)}, "has shape"),
        ({"activation": torch.log}, "NaN or infinite"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        infinite_width_ntk(**{"x": points(), "depth": 1} | options)


def test_sizes_of_networks_are_positive() -> None:
    with pytest.raises(InputError, match="width has to be"):
        ntk_mlp(3, 0, depth=1)


def test_series_are_taken_in_inference_mode() -> None:
    x = points()
    for call in (infinite_width_ntk, infinite_width_nngp):
        expected = call(x, depth=2, activation="tanh")
        with torch.inference_mode():
            found = call(x * 1, depth=2, activation="tanh")
        assert torch.equal(found, expected) and not found.is_inference()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 10.5}, "width is a whole number"),
        ({"width": 0}, "at least 1"),
        ({"activation": torch.nn.Tanh}, r"Tanh\(\) may be one"),
        ({"activation": np.tanh}, "not numpy.tanh"),
        ({"activation": lambda x: x.sum()}, "returns something else"),
        ({"activation": ["relu"]}, "activation is one of"),
        ({"weight_variance": "a"}, "weight_variance is one number"),
    ],
)
def test_sizes_and_activations_that_are_none_are_refused(options: dict[str, Any], words: str) -> None:
    given = {"width": 4, "depth": 1, **options}
    with pytest.raises(InputError, match=words):
        ntk_mlp(7, **given)
    del given["width"]
    if "width" not in options:
        with pytest.raises(InputError, match=words):
            infinite_width_ntk(torch.eye(3), **given)
    assert ntk_mlp(3, 4, depth=1, activation=torch.nn.Tanh())(torch.eye(3)).shape == (3, 1)

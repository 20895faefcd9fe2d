"""Eigenvalues, modes and their extension, against closed forms and the matrix written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import mercer_decomposition, predict_risk


def net(outputs: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs)).double()


def points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_circle_has_the_eigenvalues_of_its_fourier_series():
    """k(s, t) = Σ_k a_k cos k(s - t) has eigenvalues a_0, a_k/2 (twice), and modes √2 cos kt, √2 sin kt."""
    t = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
    K = 1.0 + 0.8 * torch.cos(t[:, None] - t) + 0.3 * torch.cos(3 * (t[:, None] - t))
    m = mercer_decomposition(K)
    assert torch.allclose(m.values[:6], torch.tensor([1.0, 0.4, 0.4, 0.15, 0.15, 0.0], dtype=torch.float64), atol=1e-14)
    assert m.rank == 5 and m.trace == pytest.approx(2.1) and m.missing_trace == pytest.approx(0, abs=1e-12)
    assert m.modes[:, 0].abs().sub(1).abs().max() < 1e-12
    assert torch.allclose(m.modes[:, :5].square().mean(0), torch.ones(5, dtype=torch.float64))
    assert float(m.coefficients(math.sqrt(2) * torch.sin(3 * t)).square().sum()) == pytest.approx(1)
    other = torch.tensor([0.3, 2.0, 5.1], dtype=torch.float64)
    cross = 1.0 + 0.8 * torch.cos(other[:, None] - t) + 0.3 * torch.cos(3 * (other[:, None] - t))
    extended = m.extend(cross)
    assert extended.shape == (3, 5)
    # whatever basis the degenerate pairs have, their squares sum to 2 everywhere
    assert torch.allclose(extended[:, 1:3].square().sum(1), torch.full((3,), 2.0, dtype=torch.float64))
    assert torch.allclose(extended[:, 0].abs(), torch.ones(3, dtype=torch.float64))


def test_extended_to_the_samples_themselves_modes_are_what_they_were():
    model, x = net(), points(30)
    for cotangents in (gk.exact_trace(), gk.blocks()):
        K = gk.kernel(model, x, cotangents=cotangents)
        m = mercer_decomposition(K, 10)
        found = m.extend(K).reshape(len(m.vectors), -1)
        assert torch.allclose(found, m.modes[:, : m.rank], atol=1e-8)
    assert m.outputs == 2 and m.samples == 30 and m.missing_trace > 0
    assert m.trace == pytest.approx(m.missing_trace + float(m.values.sum()))


def test_operators_give_the_modes_of_the_matrix_and_what_is_outside_of_them():
    model, x = net(), points(80)
    whole = mercer_decomposition(gk.kernel(model, x, cotangents=gk.blocks()))
    outside = float(whole.values[8:].sum())
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)
    cut = predict_risk(mercer_decomposition(gk.kernel(model, x, cotangents=gk.blocks()), 8), y, 10)
    for seed in range(3):
        m = mercer_decomposition(gk.operator(model, x), 8, seed=seed)
        assert torch.allclose(m.values, whole.values[:8], rtol=1e-8)
        assert abs(m.missing_trace - outside) < 4 * m.trace_stderr and m.trace_stderr < 0.25 * outside
        found = predict_risk(m, y, 10)
        assert found.kappa == pytest.approx(cut.kappa, rel=0.5)
        assert any("is known to" in note for note in found.notes)


def test_errors_of_eigenvalues_over_probes_are_those_of_repetition():
    model, x = net(12), points(30)
    found = [
        mercer_decomposition(gk.kernel(model, x, cotangents=gk.probes(8, seed=seed)), 3, seed=0) for seed in range(40)
    ]
    spread = torch.stack([m.values for m in found]).std(0)
    said = torch.stack([m.stderr for m in found if m.stderr is not None]).square().mean(0).sqrt()
    assert torch.allclose(said / spread, torch.ones(3, dtype=torch.float64), atol=0.35)


def test_what_is_no_kernel_is_refused():
    eye = torch.eye(5, dtype=torch.float64)
    lopsided = eye.clone()
    lopsided[0, 1] = 0.5
    negative = eye.clone()
    negative[0, 0] = -1
    for given, words in (
        (lopsided, "not symmetric"),
        (negative, "positive"),
        (eye * math.nan, "NaN"),
        (eye[:3], "square"),
        (torch.zeros(2, 2, 2), "shape"),
    ):
        with pytest.raises(InputError, match=words):
            mercer_decomposition(given)
    m = mercer_decomposition(eye)
    for call in (
        lambda: mercer_decomposition(eye, 6),
        lambda: m.coefficients(torch.zeros(4)),
        lambda: m.extend(torch.zeros(3, 4)),
        lambda: mercer_decomposition(gk.kernel(net(), points(4), points(3, 1), cotangents=gk.exact_trace())),
    ):
        with pytest.raises(InputError):
            call()
    assert np.isclose(mercer_decomposition(torch.outer(torch.ones(4), torch.ones(4)).double()).effective_rank, 1)

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


def test_floors_of_matrices_and_of_operators():
    """rows · ε · λ_1 and √rows · ε · λ_1, whatever n is."""
    model, x = net(), points(30)
    for dtype, eps in (("float64", 2.0**-52), ("float32", 2.0**-23)):
        matrix = mercer_decomposition(gk.kernel(model, x, cotangents=gk.blocks(), dtype=dtype), 3)
        operator = mercer_decomposition(gk.operator(model, x, dtype=dtype), 3)
        assert matrix.floor == pytest.approx(60 * eps * float(matrix.values[0]), rel=1e-12)
        assert operator.floor == pytest.approx(60**0.5 * eps * float(operator.values[0]), rel=1e-12)
        assert float(operator.values[0]) == pytest.approx(float(matrix.values[0]), rel=1e-5)


def test_standard_errors_are_those_of_the_mean_over_probes():
    K = gk.kernel(net(12), points(20), cotangents=gk.probes(3, seed=1))
    m = mercer_decomposition(K, 2)
    assert K.per_probe is not None and m.stderr is not None
    forms = torch.stack([(m.vectors * (one @ m.vectors)).sum(0) / 20 for one in K.per_probe])
    assert torch.allclose(forms.mean(0), m.values)
    assert torch.allclose(m.stderr, forms.std(0, unbiased=True) / 3**0.5)


def test_arrays_in_low_precision_are_judged_by_it():
    phi = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        K = (phi @ phi.T).to(dtype)
        m = mercer_decomposition(K)
        assert m.floor == pytest.approx(40 * torch.finfo(dtype).eps * float(m.values[0]))
        assert m.rank <= 5
    assert mercer_decomposition((phi @ phi.T).numpy()).floor == mercer_decomposition(phi @ phi.T).floor
    with pytest.raises(InputError, match="positive semi-definite"):
        mercer_decomposition((phi @ phi.T).double())  # what was cast before passes for better than it is
    double = phi.double()
    assert mercer_decomposition((double @ double.T).numpy()).rank == 5
    whole = torch.tensor([[2, 1], [1, 2]])
    assert mercer_decomposition(whole).floor == pytest.approx(2 * 2.0**-52 * 1.5)
    assert mercer_decomposition([[2.0, 1.0], [1.0, 2.0]]).values.tolist() == pytest.approx([1.5, 0.5])  # type: ignore[arg-type]


def test_operators_of_few_rows_have_all_their_modes():
    model = net(1)
    for n, expected in ((3, 3), (16, 16), (20, 16)):
        assert len(mercer_decomposition(gk.operator(model, points(n))).values) == expected


def test_modes_of_a_linear_head_come_once_for_every_output():
    model = gk.TangentModel(net(10), params=["2.weight", "2.bias"])
    x = points(30)
    whole = mercer_decomposition(gk.kernel(model, x, cotangents=gk.blocks()), 16)
    for seed in range(3):
        assert torch.allclose(mercer_decomposition(gk.operator(model, x), 16, seed=seed).values, whole.values)


def test_it_is_known_of_which_kernels_no_residual_is():
    model, x = net(), points(6)
    for kernel, words in (
        (gk.kernel(model, x, cotangents=gk.blocks()), None),
        (gk.kernel(model, x, cotangents=gk.output(1)), None),
        (gk.kernel(net(1), x, cotangents=gk.exact_trace()), None),
        (gk.operator(model, x), None),
        (gk.kernel(model, x, cotangents=gk.exact_trace()), "sum over the outputs"),
        (gk.kernel(model, x, cotangents=gk.probes(6)), "sum over the outputs"),
        (gk.operator(model, x, cotangents=gk.exact_trace()), "sum over the outputs"),
        (gk.kernel(net(1), x, cotangents=gk.total()).normalized(), "cosines"),
    ):
        said = mercer_decomposition(kernel).mixed
        assert said is None if words is None else words in (said or "")


def test_kernels_modes_and_targets_that_make_no_sense_are_refused_in_words():
    eye = torch.eye(5, dtype=torch.float64)
    m = mercer_decomposition(eye)
    for call, words in (
        (lambda: mercer_decomposition(torch.zeros(0, 0)), "no samples"),
        (lambda: mercer_decomposition(eye, 2.5), "modes is a whole number"),
        (lambda: mercer_decomposition(None), "array of numbers"),
        (lambda: mercer_decomposition(eye + 1j * torch.zeros(5, 5)), "complex"),
        (lambda: m.extend(eye + 0j), "complex"),
        (lambda: m.coefficients(3.0), "not one number"),
        (lambda: m.coefficients(torch.full((5,), math.nan)), "NaN"),
        (lambda: m.coefficients(["a"] * 5), "one-hot rows"),
        (lambda: m.coefficients(torch.ones(5) + 0j), "complex"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    assert not m.coefficients(torch.ones(5, requires_grad=True)).requires_grad
    assert m.coefficients([0.1] * 5).tolist() == m.coefficients(np.full(5, 0.1)).tolist()

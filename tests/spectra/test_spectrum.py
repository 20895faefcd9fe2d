"""Everything that is read off one kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra.spectrum import analyze


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4)).double()


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_eigenvalues_are_those_of_the_cosine_kernel():
    K = gk.kernel(net(), X, cotangents=gk.exact_trace())
    found = analyze(K)
    plain = K.values / (K.norms_x[:, None] * K.norms_x[None]).sqrt()
    expected = torch.linalg.eigvalsh(plain).flip(0) / 20
    assert found.normalized and np.allclose(found.eigenvalues, expected, atol=1e-14)
    assert found.trace == pytest.approx(1) and found.stderr is None and math.isnan(found.effective_rank_stderr)
    raw = analyze(K, normalize=False)
    assert not raw.normalized and np.allclose(raw.eigenvalues, torch.linalg.eigvalsh(K.values).flip(0) / 20, atol=1e-12)
    assert np.allclose((raw.modes**2).mean(0), 1)


def test_probes_give_standard_errors_and_blocks_are_taken_as_they_are():
    found = analyze(gk.kernel(net(), X, cotangents=gk.probes(6)))
    assert found.stderr is not None and (found.stderr >= 0).all() and found.effective_rank_stderr > 0
    blocks = analyze(gk.kernel(net(), X, cotangents=gk.blocks()))
    assert not blocks.normalized and blocks.outputs == 4 and len(blocks.eigenvalues) == 80
    # 84 parameters and 80 rows, but the last layer's biases and weights repeat the same features per output
    assert blocks.rank <= 80


def test_errors_of_the_cosine_kernels_eigenvalues_are_those_of_repetition():
    wide = torch.nn.Sequential(torch.nn.Linear(3, 10), torch.nn.Tanh(), torch.nn.Linear(10, 24)).double()
    found = [analyze(gk.kernel(wide, X, cotangents=gk.probes(8, seed=seed))) for seed in range(40)]
    spread = np.std([one.eigenvalues[:2] for one in found], axis=0, ddof=1)
    said = np.sqrt(np.mean([one.stderr[:2] ** 2 for one in found if one.stderr is not None], axis=0))
    assert np.allclose(said / spread, 1, atol=0.4)
    ranks = [one.effective_rank for one in found]
    assert np.mean([one.effective_rank_stderr for one in found]) == pytest.approx(np.std(ranks, ddof=1), rel=0.4)


def test_errors_of_cosines_are_of_pseudo_values_not_of_each_probes_cosines():
    q = 4
    K = gk.kernel(net(), X, cotangents=gk.probes(q, seed=2))
    assert K.per_probe is not None
    parts = list(K.per_probe)

    def cosine(values: torch.Tensor) -> torch.Tensor:
        size = values.diagonal().sqrt()
        return values / size[:, None] / size

    whole = cosine(torch.stack(parts).mean(0))
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(whole / 20))

    def errors(matrices: list[torch.Tensor]) -> torch.Tensor:
        forms = torch.stack([(vectors * (one @ vectors)).sum(0) / 20 for one in matrices])
        return (forms.std(0, unbiased=True) / q**0.5)[:4]

    pseudo = [q * whole - (q - 1) * cosine((q * K.values - one) / (q - 1)) for one in parts]
    found = analyze(K)
    assert np.allclose(found.eigenvalues, values) and found.stderr is not None
    assert np.allclose(found.stderr[:4], errors(pseudo))
    assert not np.allclose(found.stderr[:4], errors([cosine(one) for one in parts]), rtol=0.1)


def test_errors_are_relative_to_the_variance_of_the_targets():
    K = gk.kernel(net(), X, cotangents=gk.exact_trace())
    y = X[:, 0] * X[:, 1]
    one, ten = (analyze(K, targets=c * y).targets for c in (1.0, 10.0))
    assert one is not None and ten is not None
    assert np.allclose(one.test_mse, ten.test_mse) and np.allclose(one.test_mse_stderr, ten.test_mse_stderr)
    assert np.allclose(one.power, ten.power) and 0.2 < one.test_mse[-1] < 2


def test_kernels_with_as_many_modes_as_a_size_have_a_report():
    phi = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = torch.nn.Linear(16, 1, bias=False).double()
    found = analyze(gk.kernel(linear, phi, cotangents=gk.total()), targets=phi[:, 0], normalize=False).targets
    assert found is not None and 16 not in found.samples and 8 in found.samples


def test_targets_that_are_modes_are_learned_in_their_order():
    K = gk.kernel(net(), X, cotangents=gk.exact_trace())
    modes = analyze(K).modes
    first, late = (analyze(K, targets=torch.tensor(modes[:, j])).targets for j in (1, 5))
    assert first is not None and late is not None
    assert first.learnability[-1] > late.learnability[-1] and first.test_mse[-1] < late.test_mse[-1]
    assert (np.diff(first.learnability) > 0).all() and first.kind == "values"
    classes = analyze(K, targets=torch.arange(20) % 3).targets
    assert classes is not None and classes.kind == "classes" and classes.outputs == 3
    assert classes.power.sum() == pytest.approx(1, abs=1e-8) and classes.samples.tolist() == [4, 8]


def test_names_of_classes_are_classes_and_shuffled_targets_are_what_alignment_is_read_beside():
    K = gk.kernel(net(), X, cotangents=gk.exact_trace())
    classes = (X[:, 0] > 0).long()
    one = analyze(K, targets=classes).targets
    other = analyze(K, targets=[("a", "b")[int(c)] for c in classes]).targets
    values = analyze(K, targets=classes.double() * 2 - 1).targets
    assert one is not None and other is not None and values is not None
    assert one.alignment == pytest.approx(other.alignment) == pytest.approx(values.alignment)
    assert one.alignment > one.alignment_shuffled and one.learnability[-1] > one.shuffled[1]
    noise = analyze(K, targets=torch.randn(20, generator=torch.Generator().manual_seed(5))).targets
    assert noise is not None and noise.shuffled[0] < noise.learnability[-1] < noise.shuffled[1]


def test_what_does_not_fit_is_refused():
    K = gk.kernel(net(), X, cotangents=gk.exact_trace())
    for targets, words in (
        (torch.zeros(3), "3 samples"),
        (torch.ones(20), "the same"),
        (torch.full((20,), torch.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=words):
            analyze(K, targets=targets)
    with pytest.raises(InputError, match="Kernel"):
        analyze(torch.eye(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two sides"):
        analyze(gk.kernel(net(), X, X[:5], cotangents=gk.exact_trace()))
    bad = gk.kernel(net(), X, cotangents=gk.exact_trace())
    bad.values[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        analyze(bad, normalize=False)

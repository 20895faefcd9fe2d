"""Alignment: definitions, and what the unbiased estimate is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import cka, kernel_target_alignment, knn_label_agreement, tangent_linear_separability


def features(seed: int, n: int = 60, d: int = 300) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment_with_targets_is_a_cosine_of_gram_matrices() -> None:
    x, label = features(0, 12, 4), torch.arange(12) % 3
    K, onehot = x @ x.T, torch.nn.functional.one_hot(label).double()
    Y = onehot @ onehot.T
    expected = float((K * Y).sum() / (K.norm() * Y.norm()))
    assert kernel_target_alignment(K, label) == pytest.approx(expected)
    assert kernel_target_alignment(K, Y) == pytest.approx(expected)
    assert kernel_target_alignment(K, onehot) == pytest.approx(expected)
    assert kernel_target_alignment(Y, label) == pytest.approx(1)


def test_independent_features_are_not_aligned_without_bias() -> None:
    pairs = [[features(2 * k + s) for s in (0, 1)] for k in range(20)]
    grams = [[f @ f.T for f in pair] for pair in pairs]
    biased = np.mean([cka(*pair, unbiased=False) for pair in grams])
    plain = [cka(*pair) for pair in grams]
    assert biased > 0.5 and abs(np.mean(plain)) < 3 * np.std(plain) / 20**0.5 + 1e-3


@pytest.mark.parametrize("unbiased", [True, False])
def test_alignment_is_invariant(unbiased: bool) -> None:
    x = features(0, 20, 5)
    y = torch.cat([x[:, :3], features(1, 20, 2)], 1)
    K, L = x @ x.T, y @ y.T
    found = cka(K, L, unbiased=unbiased)
    turned, _ = torch.linalg.qr(features(2, 5, 5))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    moved = x + 1.0 if not unbiased else x
    assert cka(3 * moved @ turned @ turned.T @ moved.T, L, unbiased=unbiased) == pytest.approx(found)
    assert cka(K[order][:, order], L[order][:, order], unbiased=unbiased) == pytest.approx(found)
    assert cka(L, K, unbiased=unbiased) == pytest.approx(found) and cka(K, K, unbiased=unbiased) == pytest.approx(1)


def test_the_unbiased_estimate_is_its_definition() -> None:
    """By sums over distinct indices (Song et al., 2012)."""
    x, y = features(0, 6, 3), features(1, 6, 3)
    K, L = x @ x.T, y @ y.T
    from itertools import permutations

    def hsic(K: torch.Tensor, L: torch.Tensor) -> float:
        total = 0.0
        for i, j, q, r in permutations(range(6), 4):
            total += float(K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]))
        return total / (6 * 5 * 4 * 3)

    assert cka(K, L) == pytest.approx(hsic(K, L) / (hsic(K, K) * hsic(L, L)) ** 0.5)


def test_what_has_no_alignment_is_said() -> None:
    K = features(0, 8, 3) @ features(0, 8, 3).T
    assert np.isnan(cka(K, torch.zeros(8, dtype=torch.long)))
    with pytest.raises(InputError, match="8 and 7 samples"):
        cka(K, torch.arange(7))
    with pytest.raises(InputError, match="not symmetric"):
        cka(features(0, 8, 8), K)
    with pytest.raises(InputError, match="NaN"):
        cka(K * torch.nan, K)
    with pytest.raises(InputError, match="at least 4"):
        cka(K[:3, :3], K[:3, :3])
    net = torch.nn.Linear(3, 2).double()
    cross = gk.kernel(net, features(0, 4, 3), features(1, 4, 3), cotangents=gk.exact_trace())
    with pytest.raises(InputError, match="different samples"):
        cka(cross, K[:4, :4])


@pytest.mark.parametrize("size", [1e-160, 1e-150, 1e-80, 1e80, 1e150, 1e160])
def test_alignment_does_not_know_the_unit_of_the_kernels(size: float) -> None:
    x, y = features(0, 20, 7), features(1, 20, 9)
    K, L = x @ x.T, y @ y.T
    for unbiased in (True, False):
        plain = cka(K, L, unbiased=unbiased)
        for one, other in ((size, size), (size, 1.0), (1.0, size)):
            assert cka(one * K, other * L, unbiased=unbiased) == pytest.approx(plain)
    assert kernel_target_alignment(size * K, size * L) == pytest.approx(kernel_target_alignment(K, L))
    assert np.isnan(cka(size * K, torch.full((20, 20), size, dtype=torch.float64)))


def test_kernels_of_any_layout_and_with_gradients() -> None:
    x, label = features(0, 12, 4), torch.arange(12) % 3
    K = x @ x.T
    plain = cka(K, label)
    assert cka(K.numpy()[::-1, ::-1], label.numpy()[::-1]) == pytest.approx(plain)
    assert cka(K.clone().requires_grad_(), label) == pytest.approx(plain)


def test_labels_are_classes_whatever_they_are_called() -> None:
    x = features(0, 40, 4)
    K, label = x @ x.T, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0.5).long()
    names = np.array(["a", "b", "c", "d"])[label.numpy()]
    columns = (label[:, None], names.tolist(), names, names.astype(object), names[:, None], label.int().numpy())
    near, apart = knn_label_agreement(K, label, 5), tangent_linear_separability(K, label, folds=2, C=1.0)
    for given in columns:
        assert cka(K, given) == cka(K, label) and kernel_target_alignment(K, given) == kernel_target_alignment(K, label)
        assert knn_label_agreement(K, given, 5).kernel.value == near.kernel.value  # type: ignore[union-attr]
        assert tangent_linear_separability(K, given, folds=2, C=1.0) == apart
    assert cka(K, label.double()) == cka(K, label.double()[:, None]) != cka(K, label)  # values
    with pytest.raises(InputError, match="one per sample"):
        cka(K, np.stack([names, names], 1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.randn(20, 20, 2, 2, generator=torch.Generator().manual_seed(0)), "blocks"),
        (torch.eye(20) + 0j, "complex"),
        (torch.tensor(3.0), "n samples"),
        (torch.zeros(0, 0), "n samples"),
        (None, "array of numbers"),
    ],
)
def test_what_is_no_gram_matrix_is_refused(given: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cka(given, torch.arange(20) % 2)
    with pytest.raises(InputError, match=words):
        cka(torch.arange(20) % 2, given)

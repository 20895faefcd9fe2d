"""Neighbours that share the label: by hand, by brute force, with ties, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import knn_label_agreement


def gram_of(seed: int, n: int = 40, d: int = 6) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.T


def brute(similarity: Tensor, labels: Tensor, k: int) -> list[float]:
    shares = []
    for i in range(len(labels)):
        others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -float(similarity[i, j]))[:k]
        shares.append(sum(bool(labels[j] == labels[i]) for j in others) / k)
    return shares


def test_chance_leaves_the_sample_itself_out() -> None:
    labels = torch.arange(100) % 10
    assert knn_label_agreement(gram_of(0, 100), labels).chance == pytest.approx(1 / 11)
    uneven = torch.tensor([0, 0, 0, 1])
    assert knn_label_agreement(gram_of(0, 4), uneven, 1).chance == pytest.approx(0.75 * 2 / 3)


@pytest.mark.parametrize("k", [1, 7, 39])
def test_it_is_what_counting_gives(k: int) -> None:
    K, labels = gram_of(1), torch.arange(40) % 3
    size = K.diagonal().sqrt()
    found = knn_label_agreement(K, labels, k).kernel
    expected = torch.tensor(brute(K / size[:, None] / size[None], labels, k), dtype=torch.float64)
    assert torch.allclose(found.per_sample, expected) and found.value == pytest.approx(float(expected.mean()))
    assert found.stderr == pytest.approx(float(expected.std()) / 40**0.5)
    by_products = torch.tensor(brute(K, labels, k), dtype=torch.float64)
    assert k == 39 or not torch.allclose(found.per_sample, by_products)  # directions, not lengths


def test_euclidean_neighbours_stand_beside() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    labels = torch.tensor([5, 5, 7, 7, 7, 5])
    found = knn_label_agreement(torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)), labels, 2, points=points)
    assert found.euclidean.per_sample.tolist() == [0.5, 0.5, 0, 0.5, 0.5, 0] == found.kernel.per_sample.tolist()
    assert found.gain == (0.0, 0.0)
    alone = knn_label_agreement(None, labels, 2, points=points)
    assert alone.kernel is None and alone.euclidean.value == found.euclidean.value
    with pytest.raises(InputError, match="give both"):
        _ = alone.gain


def test_ties_are_broken_by_nothing() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    found = knn_label_agreement(torch.eye(5), labels, 2)
    assert found.kernel.per_sample.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.25])
    assert found.kernel.value == pytest.approx(found.chance)
    # one is surely near, three tie for the other place
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    first = float(knn_label_agreement(None, labels, 2, points=points).euclidean.per_sample[0])
    assert first == pytest.approx((1 + 1 / 3) / 2)
    order = torch.tensor([4, 2, 0, 3, 1])
    again = knn_label_agreement(None, labels[order], 2, points=points[order]).euclidean
    assert again.value == pytest.approx(knn_label_agreement(None, labels, 2, points=points).euclidean.value)


def test_kernels_are_taken_as_they_come() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(12) % 2
    K = gk.kernel(net, x, cotangents=gk.exact_trace(), progress=False)
    whole = knn_label_agreement(K, labels, 3).kernel
    assert torch.equal(whole.per_sample, knn_label_agreement(K.normalized(), labels, 3).kernel.per_sample)
    assert torch.equal(whole.per_sample, knn_label_agreement(7 * K.values, labels, 3).kernel.per_sample)


@pytest.mark.parametrize(
    ("kernel", "labels", "k", "points", "words"),
    [
        (None, torch.arange(4) % 2, 1, None, "give one"),
        (torch.eye(4) * torch.nan, torch.arange(4) % 2, 1, None, "NaN"),
        (torch.eye(4), torch.arange(3) % 2, 1, None, "one per sample"),
        (torch.eye(4), torch.zeros(4), 1, None, "one class"),
        (torch.eye(4), torch.rand(4), 1, None, "whole numbers"),
        (torch.eye(4), torch.full((4,), torch.nan), 1, None, "whole numbers"),
        (torch.eye(4), torch.arange(4) % 2, 0, None, "not k = 0"),
        (torch.eye(4), torch.arange(4) % 2, 4, None, "up to 3"),
        (torch.eye(4), torch.arange(4) % 2, 1, torch.zeros(5, 2), "5"),
        (None, torch.arange(4) % 2, 1, torch.full((4, 2), torch.inf), "finite"),
        (-torch.eye(4), torch.arange(4) % 2, 1, None, "negative diagonal"),
    ],
)  # fmt: skip
def test_bad_input_is_said(kernel: Tensor, labels: Tensor, k: int, points: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        knn_label_agreement(kernel, labels, k, points=points)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_neighbours_do_not_hang_on_units(size: float) -> None:
    K, labels = gram_of(3), torch.arange(40) % 3
    points = torch.randn(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, scaled = (knn_label_agreement(c * K, labels, 5, points=c * points) for c in (1.0, size))
    assert torch.equal(scaled.kernel.per_sample, plain.kernel.per_sample)
    assert torch.equal(scaled.euclidean.per_sample, plain.euclidean.per_sample)


def test_numbers_of_neighbours_are_whole_and_arrays_of_any_layout() -> None:
    K, labels = gram_of(3), torch.arange(40) % 3
    with pytest.raises(InputError, match="k is a whole number"):
        knn_label_agreement(K, labels, 2.5)
    turned = knn_label_agreement(K.numpy()[::-1, ::-1], labels.numpy()[::-1], 5).kernel
    assert turned.value == pytest.approx(knn_label_agreement(K, labels, 5).kernel.value)

"""Clusters of latents: what they hold, and how others are put into them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError, NonFiniteError
from genkernel.gan.clusters import Clusters, by_class, by_kernel, by_label, k_means, nearest_mode


def blobs(counts: tuple[int, ...] = (30, 20, 10), seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    return centres[labels] + 0.2 * torch.randn(len(labels), 2, generator=draw), labels


def test_nearest_mode() -> None:
    x, labels = blobs()
    modes = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0], [50.0, 50.0]])
    found = nearest_mode(x, modes)
    np.testing.assert_array_equal(found.labels, labels.numpy())
    np.testing.assert_array_equal(found.sizes, [30, 20, 10, 0])
    np.testing.assert_allclose(found.occupancy.sum(), 1)
    assert found.fixed and found.names[3] == "mode 3" and found.assign is not None
    np.testing.assert_array_equal(found.assign(torch.tensor([[49.0, 49.0], [4.1, 0.0]])), [3, 0])
    order = found.order()
    assert (np.diff(found.labels[order]) >= 0).all() and sorted(order) == list(range(60))
    with pytest.raises(InputError, match="M ≥ 2"):
        nearest_mode(x, modes[:1])
    with pytest.raises(InputError, match="modes have shape"):
        nearest_mode(x, torch.zeros(3, 5))


def test_by_class_and_by_label() -> None:
    x, labels = blobs()
    found = by_class(x, lambda images: torch.stack([images[:, 0], -images[:, 0], images[:, 1]], 1), ["r", "l", "t"])
    np.testing.assert_array_equal(found.labels, labels.numpy())
    assert found.names == ["r", "l", "t"]
    given = by_label(labels, 5)
    assert given.count == 5 and given.sizes[4] == 0
    with pytest.raises(InputError, match="3 clusters need 3 names, not 2"):
        by_class(x, lambda images: images.new_zeros(len(images), 3), ["r", "l"])
    with pytest.raises(InputError, match="answers"):
        by_class(x, lambda images: images[:, 0])


@pytest.mark.parametrize("count", [None, 3])
def test_k_means_finds_what_is_there(count: int | None) -> None:
    x, labels = blobs()
    found = k_means(x, count=count)
    assert found.count == 3 and not found.fixed and "k-means" in found.by
    for k in range(3):
        assert len(set(found.labels[labels.numpy() == k])) == 1
    assert found.assign is not None
    np.testing.assert_array_equal(found.assign(x), found.labels)


def test_k_means_on_features_and_many_dimensions() -> None:
    x, labels = blobs()
    draw = torch.Generator().manual_seed(1)
    wide = x @ torch.randn(2, 300, generator=draw)
    for found in (k_means(wide, count=3), k_means(wide, lambda images: x[: len(images)], count=3)):
        assert all(len(set(found.labels[labels.numpy() == k])) == 1 for k in range(3))


def test_one_cluster_only() -> None:
    with pytest.raises(InputError, match="ignores its latent"):
        k_means(torch.ones(20, 3))
    with pytest.raises(NonFiniteError):
        k_means(torch.full((20, 3), float("nan")))
    with pytest.raises(InputError, match="cannot be put into 30"):
        k_means(torch.randn(20, 3), count=30)


def test_by_kernel() -> None:
    kernel = np.kron(np.eye(3), np.ones((5, 5))) * 0.8 + 0.1 + 0.1 * np.eye(15)
    found = by_kernel(kernel, 3)
    assert [len(set(found.labels[5 * k : 5 * k + 5])) for k in range(3)] == [1, 1, 1] and found.count == 3
    with pytest.raises(InputError):
        by_kernel(kernel, 15)


def test_empty_clusters_count() -> None:
    found = Clusters(np.array([0, 0, 2]), ["a", "b", "c"], "given")
    np.testing.assert_array_equal(found.sizes, [2, 0, 1])


def test_a_large_seed_and_an_outlier_among_many() -> None:
    points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    points[7] = 1e4
    for seed in (2**40, 1):
        found = k_means(points, seed=seed)
        assert found.count >= 2 and len(found.labels) == 3000

"""Stages are found where they are, and not where the kernel merely decays."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from genkernel.diffusion.locality import level_kernel
from genkernel.diffusion.resampling import Estimate
from genkernel.diffusion.stages import find_stages, partitions, silhouette, squared_distances
from tests.diffusion.fake_result import fake_levels
from tests.diffusion.test_locality import even_levels


def kernel_of(gram: np.ndarray, levels, images: int = 12, noise: float = 0.3, seed: int = 0):
    """Level kernel of images whose features are the levels' (with the given Gram matrix) plus noise of their own."""
    rng = np.random.default_rng(seed)
    size = len(gram)
    root = np.linalg.cholesky(gram + 1e-9 * np.eye(size))
    phi = np.concatenate([np.repeat(root[:, None], images, 1), noise * rng.normal(size=(size, images, 60))], -1)
    phi = phi.reshape(size * images, -1)
    index = np.repeat(np.arange(size), images), np.tile(np.arange(images), size)
    return level_kernel(Estimate(phi @ phi.T, normalize=True), *index, levels)


def blocks(sizes: list[int], within: float = 0.9, between: float = 0.1) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(labels[:, None] == labels[None], within, between) + (1 - within) * np.eye(len(labels))


@pytest.mark.parametrize("sizes", [[8, 16], [6, 10, 8], [3, 9, 4, 8]])
def test_block_kernels_give_back_their_blocks(sizes):
    levels = even_levels(24)
    found = find_stages(kernel_of(blocks(sizes), levels), levels)
    cuts = np.cumsum(sizes)[:-1]
    assert found.k == len(sizes)
    assert found.labels.tolist() == np.repeat(np.arange(len(sizes)), sizes).tolist()
    assert found.boundaries == [pytest.approx(levels.timesteps[c - 1 : c + 1].mean()) for c in cuts]
    assert found.boundaries_log_snr == [pytest.approx(levels.log_snr[c - 1 : c + 1].mean()) for c in cuts]
    assert min(found.stability) > 0.9 and found.decided
    assert max(found.stability) <= found.chosen_in_bootstrap[found.k]
    assert found.scores[found.k] > found.null_scores[found.k]


@pytest.mark.parametrize("width", [0.05, 0.2, 1.0])
def test_smooth_decay_in_time_has_no_stages(width):
    levels = even_levels(24)
    distance = np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    found = find_stages(kernel_of(np.exp(-distance / width), levels), levels)
    assert found.k == 1 and found.boundaries == [] and not found.labels.any()


def test_smooth_decay_in_log_snr_and_flat_kernels_have_no_stages():
    levels = fake_levels(24)
    distance = np.abs(levels.log_snr[:, None] - levels.log_snr[None])
    assert find_stages(kernel_of(np.exp(-distance / 2), levels), levels).k == 1
    assert find_stages(kernel_of(np.ones((24, 24)), levels), levels).k == 1


def test_without_error_bars_there_is_no_claim():
    levels = even_levels(24)
    assert find_stages(kernel_of(blocks([8, 16]), levels, images=3), levels).k == 1
    assert not find_stages(kernel_of(blocks([8, 16]), levels, images=3), levels).decided
    few = even_levels(3)
    assert find_stages(kernel_of(blocks([1, 2]), few), few).k == 1


def test_dynamic_programming_is_exact():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(9, 4)).cumsum(0)
    gram = phi @ phi.T
    found = partitions(gram, 4)
    for k in (2, 3, 4):

        def cost(cuts):
            edges = [0, *cuts, 9]
            return sum(((phi[a:b] - phi[a:b].mean(0)) ** 2).sum() for a, b in pairwise(edges))

        best = min(combinations(range(1, 9), k - 1), key=cost)
        assert (np.flatnonzero(np.diff(found[k])) + 1).tolist() == list(best)


def test_the_silhouette_is_the_usual_one():
    rng = np.random.default_rng(1)
    phi = rng.normal(size=(12, 3))
    distance = np.sqrt(squared_distances(phi @ phi.T))
    labels = np.repeat([0, 1, 2, 3], [5, 1, 4, 2])
    assert silhouette(distance, labels) == pytest.approx(
        silhouette_score(distance, labels, metric="precomputed"), rel=1e-9
    )
    assert silhouette(distance, np.zeros(12, dtype=int)) == 0

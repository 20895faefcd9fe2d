"""The kernel over latents against the reference, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.gan import Generator
from genkernel.gan.clusters import Clusters
from genkernel.gan.latent_kernel import agreement, between_clusters, latent_kernel, read
from genkernel.tangent import reference


def generator(outputs: int) -> Generator:
    torch.manual_seed(0)
    return Generator(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).double(), (4,))


CLUSTERS = Clusters(np.array([0, 1, 0, 1, 0, 0, 1, 0]), ["a", "b", "c"], "given")


def test_small_outputs_are_exact() -> None:
    gen = generator(3)
    batch = gen.draw(8, seed=0)
    found = latent_kernel(gen, batch)
    truth = reference.kernel(gen.tangent, batch, cotangents=gk.exact_trace())
    torch.testing.assert_close(found.values, truth, rtol=1e-9, atol=1e-12)
    seen = read(found, CLUSTERS)
    assert seen.probes == 0 and seen.stderr is None and np.isnan(seen.effective_rank_stderr)
    scale = truth.diag().sqrt()
    np.testing.assert_allclose(seen.normalized, truth / scale[:, None] / scale[None], rtol=1e-9)
    assert seen.eigenvalues.sum() == pytest.approx(8) and (np.diff(seen.eigenvalues) <= 0).all()
    assert 1 <= seen.effective_rank <= 8


def test_probes_come_with_errors_that_cover_the_truth() -> None:
    gen = generator(40)
    batch = gen.draw(8, seed=0)
    exact = read(latent_kernel_exactly(gen, batch), CLUSTERS)
    misses = []
    for seed in range(8):
        seen = read(latent_kernel(gen, batch, count=16, seed=seed), CLUSTERS)
        assert seen.probes == 16 and seen.stderr is not None and seen.stderr.shape == (8, 8)
        misses.append((seen.mean_off_diagonal - exact.mean_off_diagonal) / seen.mean_off_diagonal_stderr)
    assert np.mean(np.abs(misses) < 3) >= 0.75
    assert np.std(misses) < 3


def latent_kernel_exactly(gen: Generator, batch: dict[str, torch.Tensor]) -> gk.Kernel:
    return gk.kernel(gen.tangent, batch, cotangents=gk.exact_trace(), by=None)


def test_between_clusters_by_hand() -> None:
    draw = np.random.default_rng(0)
    values = draw.random((8, 8))
    found = between_clusters(values, CLUSTERS)
    a, b = np.flatnonzero(CLUSTERS.labels == 0), np.flatnonzero(CLUSTERS.labels == 1)
    assert found[0, 1] == pytest.approx(values[np.ix_(a, b)].mean())
    inside = values[np.ix_(a, a)]
    assert found[0, 0] == pytest.approx((inside.sum() - np.trace(inside)) / (len(a) * (len(a) - 1)))
    assert np.isnan(found[2]).all()


def test_agreement() -> None:
    draw = torch.Generator().manual_seed(0)
    updates = torch.randn(12, 3, generator=draw, dtype=torch.float64)
    unit = updates / updates.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).numpy()
    assert agreement(cosines, updates) == pytest.approx(1)
    assert agreement(-cosines, updates) == pytest.approx(-1)
    updates[0] = 0  # does not move: left out
    assert agreement(cosines, updates) == pytest.approx(1)

"""k-means and principal components: beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.gan.lloyd import lloyd, nearest, principal_axes


def points(n: int = 400, d: int = 6, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(5, d, generator=draw, dtype=torch.float64)
    which = torch.randint(5, (n,), generator=draw)
    return centres[which] + torch.randn(n, d, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_clusters_are_as_tight_as_those_of_scikit_learn(count: int, seed: int) -> None:
    from sklearn.cluster import KMeans

    x = points(seed=seed)
    found, theirs = lloyd(x, count, seed), KMeans(count, n_init=20, random_state=0).fit(x.numpy())
    assert found.inertia <= 1.01 * theirs.inertia_
    squares, labels = nearest(x, found.centres)
    assert torch.equal(labels, found.labels) and float(squares.sum()) == pytest.approx(found.inertia)
    for k in range(count):
        torch.testing.assert_close(found.centres[k], x[labels == k].mean(0))


def test_the_same_seed_gives_the_same_and_no_global_draw_is_taken() -> None:
    x, before = points(), torch.get_rng_state()
    one, other = lloyd(x, 4, 7), lloyd(x, 4, 7)
    assert torch.equal(one.centres, other.centres)
    assert torch.equal(principal_axes(x, 3, 7), principal_axes(x, 3, 7))
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_different_points_than_centres() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64).repeat(10, 1)
    found = lloyd(x, 5)
    assert found.inertia == 0 and found.centres.isfinite().all() and len(found.centres) == 5
    assert lloyd(x, 20).inertia == 0


@pytest.mark.parametrize("wide", [True, False])
def test_axes_are_principal_components(wide: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    n, d = (40, 200) if wide else (200, 40)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64) * (0.5 ** torch.arange(d).double()) + 100.0
    axes = principal_axes(x, 3)
    exact = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:3]
    np.testing.assert_allclose((axes.T @ exact.T).abs().numpy(), np.eye(3), atol=1e-6)

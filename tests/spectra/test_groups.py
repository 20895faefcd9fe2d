"""Spectra of groups: against features written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra.groups import group_spectra
from genkernel.tangent import Kernel


def features(seed: int, n: int, columns: slice, dims: int = 40) -> torch.Tensor:
    phi = torch.zeros(n, dims, dtype=torch.float64)
    width = len(range(dims)[columns])
    phi[:, columns] = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return phi


def test_groups_in_other_directions_share_nothing_and_those_in_the_same_do():
    phi = torch.cat([features(0, 32, slice(0, 2)), features(1, 32, slice(0, 2)), features(2, 32, slice(10, 12))])
    found = group_spectra(phi @ phi.T, np.repeat([0, 1, 2], 32), names=["a", "b", "c"])
    # two directions cannot fill the four that are compared
    assert found.directions == 4
    assert np.isnan(found.overlap).all()
    phi = torch.cat([features(0, 40, slice(0, 4)), features(1, 40, slice(0, 4)), features(2, 40, slice(10, 14))])
    found = group_spectra(phi @ phi.T, np.repeat([0, 1, 2], 40), names=["a", "b", "c"])
    assert found.directions == 4
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert np.allclose(found.overlap, expected, atol=1e-10)
    assert np.allclose(found.mode_share[:8].sum(1), 1)
    own = found.mode_share[:8, 2]
    assert np.allclose(own * (1 - own), 0, atol=1e-10)  # a mode is of group c or of the others
    assert np.allclose(found.trace, [float(phi[k : k + 40].square().sum(1).mean()) for k in (0, 40, 80)])


def test_overlap_is_that_of_subspaces_in_parameter_space():
    phi = torch.cat([features(s, 16, slice(0, 30), 30) for s in (0, 1)])
    found = group_spectra(phi @ phi.T, np.repeat([0, 1], 16))
    m = found.directions

    def leading(rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(rows, full_matrices=False).Vh[:m].T

    a, b = phi[:16], phi[16:]
    expected = [
        float((leading(left).T @ leading(right)).square().sum()) / m
        for left, right in ((a[::2], b[1::2]), (a[1::2], b[::2]))
    ]
    assert found.overlap[0, 1] == pytest.approx(np.mean(expected), rel=1e-9)
    ceiling = float((leading(a[::2]).T @ leading(a[1::2])).square().sum()) / m
    assert found.overlap[0, 0] == pytest.approx(ceiling, rel=1e-9)


def test_effective_ranks_are_of_each_group_alone_and_have_errors_over_probes():
    phi = torch.cat([features(0, 10, slice(0, 1)), features(1, 10, slice(5, 30))])
    found = group_spectra(phi @ phi.T, np.repeat([0, 1], 10))
    assert found.effective_rank[0] == pytest.approx(1) and 5 < found.effective_rank[1] < 10
    assert np.isnan(found.effective_rank_stderr).all()
    assert found.equal_size == 10 and np.allclose(found.equal_rank, found.effective_rank)
    phi = torch.cat([features(0, 30, slice(0, 40)), features(1, 6, slice(0, 40))])
    found = group_spectra(phi @ phi.T, np.repeat([0, 1], [30, 6]))
    assert found.equal_size == 6 and found.effective_rank[0] > 15
    assert found.equal_rank[0] == pytest.approx(found.equal_rank[1], abs=0.5)  # of the same distribution
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5)).double()
    K = gk.kernel(net, torch.randn(12, 3, dtype=torch.float64), cotangents=gk.probes(4))
    found = group_spectra(K, np.repeat([0, 1], 6))
    assert (found.effective_rank_stderr > 0).all()


def test_errors_of_effective_ranks_are_those_of_repetition():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 20)).double()
    x = torch.randn(12, 3, dtype=torch.float64)
    found = [group_spectra(gk.kernel(net, x, cotangents=gk.probes(6, seed=s)), np.repeat([0, 1], 6)) for s in range(40)]
    spread = np.std([one.effective_rank for one in found], axis=0, ddof=1)
    said = np.sqrt(np.mean([one.effective_rank_stderr**2 for one in found], axis=0))
    assert np.allclose(said / spread, 1, atol=0.4)


def test_groups_of_one_distribution_differ_no_more_than_random_deals_and_others_do():
    ps = []
    for seed in range(6):
        phi = torch.cat([features(10 * seed + g, 20, slice(0, 40)) for g in range(5)])
        ps.append(group_spectra(phi @ phi.T, np.repeat(np.arange(5), 20)).spread_p)
    assert min(ps) >= 0.01 and np.mean(ps) > 0.2
    phi = torch.cat([*(features(g, 20, slice(0, 40)) for g in range(4)), features(9, 20, slice(0, 3))])
    found = group_spectra(phi @ phi.T, np.repeat(np.arange(5), 20))
    assert found.spread_p == 0.01 and found.equal_rank[4] < found.shuffled[0]


def test_overlaps_of_badly_known_directions_are_relative_to_what_halves_share():
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(64, 4, generator=g, dtype=torch.float64) @ torch.eye(4, 200, dtype=torch.float64) * 3
    noise = torch.randn(64, 200, generator=g, dtype=torch.float64)
    phi = shared + noise * torch.cat([torch.full((32, 1), 0.35), torch.full((32, 1), 0.05)]).double()
    found = group_spectra(phi @ phi.T, np.repeat([0, 1], 32))
    assert found.overlap[0, 0] < found.overlap[0, 1] < found.overlap[1, 1]  # the diagonal is no ceiling
    assert found.relative[0, 1] == pytest.approx(1, abs=0.05) and np.allclose(np.diag(found.relative), 1)


def test_labels_that_do_not_fit_are_refused():
    K = torch.eye(6, dtype=torch.float64)
    for labels in ([0, 1], np.zeros(6), [0, 0, 0, 0, 0, -2]):
        with pytest.raises(InputError, match="group"):
            group_spectra(K, labels)
    with pytest.raises(InputError, match="group"):
        group_spectra(K, [0, 1, 2, 0, 1, 2], names=["a", "b"])
    found = group_spectra(K, [0, 0, 0, 0, 1, -1])
    assert np.isnan(found.effective_rank[1]) and found.sizes.tolist() == [4, 1]


def test_random_deals_are_treated_as_the_data_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of larger groups as many parts are averaged: means over fewer would spread more, and p be too large."""
    from genkernel.spectra import groups

    monkeypatch.setattr(groups, "SHUFFLES", 5)
    counted, plain = [], groups._eigenvalues

    def counting(K: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        counted.append(len(rows))
        return plain(K, rows)

    monkeypatch.setattr(groups, "_eigenvalues", counting)
    phi = features(0, 40, slice(0, 30))
    group_spectra(phi @ phi.T, np.repeat([0, 1, 2], [8, 16, 16]))
    assert counted.count(8) == 1 + (5 + 1) * (1 + 2 * groups.DRAWS)


def test_directions_that_are_rounding_in_float32_are_none():
    """Rank 2, so that the other two of four directions are rounding: of 1e-7, which is none in float64."""
    phi = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    K = phi @ phi.T
    for kernel in (K, Kernel(K.double(), K.diagonal(), K.diagonal(), symmetric=True, meta={"dtype": "float32"})):
        found = group_spectra(kernel, np.repeat([0, 1], 32))
        assert found.directions == 4 and np.isnan(found.overlap).all()


def test_labels_and_kernels_of_any_layout_and_with_gradients():
    phi = features(0, 20, slice(0, 30))
    K, labels = phi @ phi.T, np.arange(20) % 2
    plain = group_spectra(K, labels)
    turned = group_spectra(K.numpy()[::-1, ::-1], labels[::-1])
    assert np.allclose(turned.trace, plain.trace)
    assert np.allclose(group_spectra(K.clone().requires_grad_(), labels).effective_rank, plain.effective_rank)

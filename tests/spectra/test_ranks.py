"""Ranks, the rank gap, null spaces: THEORY's figures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra import null_space_energy, numerical_rank, tangent_rank_gap

INSIDE = torch.tensor([0.9, 0.5, 0.0, -0.3, -0.7], dtype=torch.float64)
DEAD = torch.tensor([0.9, 0.5, 0.0, -0.3, -1.5], dtype=torch.float64)
HEIGHTS = torch.tensor([0.5, -0.3, 0.8, 0.2, 0.6], dtype=torch.float64)
TRAINED, NEW = (torch.linspace(-end, end, count, dtype=torch.float64) for end, count in ((1, 40), (2, 60)))


def relu_features(x: Tensor, thresholds: Tensor) -> Tensor:
    """Of f = Σ_j a_j relu(x + b_j) in (a, b) ``[n, 10]``."""
    z = x[:, None] + thresholds
    return torch.cat([z.relu(), HEIGHTS * (z > 0)], 1)


def test_a_unit_that_no_training_sample_reaches_is_a_gap_of_two() -> None:
    good = tangent_rank_gap(relu_features(TRAINED, INSIDE), relu_features(NEW, INSIDE))
    assert (good.gap, good.trained.value, good.stable) == (0, 10, True)
    dead = tangent_rank_gap(relu_features(TRAINED, DEAD), relu_features(NEW, DEAD))
    assert (dead.gap, dead.trained.value, dead.mixed.value) == (2, 8, 10)
    assert dead.stable and dead.by_factor == {1e-2: 2, 1.0: 2, 1e2: 2}


def test_a_gap_that_hangs_on_the_tolerance_says_so() -> None:
    trained = torch.diag(torch.tensor([1.0, 1e-3, 0.0], dtype=torch.float64))
    new = torch.tensor([[0.0, 0.0, 3e-9]], dtype=torch.float64)
    found = tangent_rank_gap(trained, new, 1e-8)
    assert found.gap == 0 and found.by_factor[1e-2] == 1 and not found.stable


def test_ranks_are_of_features_and_not_of_their_squares() -> None:
    scales = torch.logspace(0, -11, 12, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    phi = (turned * scales).reshape(20, 2, 12)
    assert numerical_rank(phi).value == 12
    K = phi.reshape(40, 12) @ phi.reshape(40, 12).T
    assert int((torch.linalg.eigvalsh(K) > 40 * 2.2e-16).sum()) < 12
    assert numerical_rank(phi, 1e-5).value in (5, 6)


def test_ranks_near_the_size_of_a_sketch_are_refused() -> None:
    phi = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="may be the sketch's"):
        numerical_rank(phi, cap=20)
    assert numerical_rank(phi[:10], cap=20).value == 10


def test_a_stationary_residual_is_in_the_null_space() -> None:
    draw = torch.Generator().manual_seed(0)
    J = torch.randn(60, 19, generator=draw, dtype=torch.float64)
    r = torch.randn(60, generator=draw, dtype=torch.float64)
    start = null_space_energy(J, r)
    fitted = r - J @ torch.linalg.lstsq(J, r[:, None]).solution[:, 0]
    end = null_space_energy(J.view(30, 2, 19), 1e-3 * fitted.view(30, 2))
    assert (start.ranks == 19).all() and torch.allclose(start.random, torch.tensor(1 - 19 / 60))
    assert 0.4 < float(start.energy[-1]) < 0.9 < float(end.energy[-1]) == pytest.approx(1)
    assert end.rayleigh < 1e-20 < 1e-3 < start.rayleigh and end.norm == pytest.approx(1e-3 * float(fitted.norm()))
    expected = float((J.T @ r).norm() / (torch.linalg.svdvals(J)[0] * r.norm()))
    assert start.stationarity == pytest.approx(expected)


def test_bad_input_is_said() -> None:
    J = torch.eye(3, dtype=torch.float64)
    for residual, words in (
        (torch.zeros(3), "zero"),
        (torch.ones(4), "4 entries"),
        (torch.full((3,), torch.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=words):
            null_space_energy(J, residual)
    with pytest.raises(InputError, match="between 0 and 1"):
        null_space_energy(J, torch.ones(3), [2.0])
    with pytest.raises(InputError, match="nothing can be learned"):
        null_space_energy(0 * J, torch.ones(3))
    with pytest.raises(InputError, match="do not mix"):
        tangent_rank_gap(J, torch.ones(2, 4))
    with pytest.raises(InputError, match="one row per sample"):
        numerical_rank(torch.ones(3))

"""Numbers with known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.gan import measures
from genkernel.spectra.effective_number import entropy_number, participation


def test_entropy_numbers() -> None:
    assert entropy_number(np.array([3.0, 3.0, 3.0, 3.0])) == pytest.approx(4)
    assert entropy_number(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert entropy_number(np.zeros(3)) == 0
    assert measures.dominance(np.ones(8)) == pytest.approx(0)
    assert measures.dominance(np.eye(8)[0]) == pytest.approx(1 - 1 / 8)
    assert participation(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)


def test_coherence() -> None:
    same = torch.ones(5, 3)
    assert measures.signed_coherence(same) == pytest.approx(1)
    assert measures.axial_coherence(same) == pytest.approx(1)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None] * torch.tensor([[1.0, 2.0]])
    assert measures.axial_coherence(signs) == pytest.approx(1)  # an axis has no sign
    assert measures.signed_coherence(signs) == pytest.approx(-1 / 3)  # 2 pairs alike, 4 opposed
    axes = torch.eye(4)
    assert measures.axial_coherence(axes) == pytest.approx(1 / 4) and measures.signed_coherence(axes) == pytest.approx(
        0
    )
    assert math.isnan(measures.signed_coherence(torch.ones(1, 3)))
    assert math.isnan(measures.axial_coherence(torch.zeros(4, 3)))
    draw = torch.Generator().manual_seed(0)
    field = torch.randn(30, 7, generator=draw, dtype=torch.float64)
    unit = field / field.norm(dim=1, keepdim=True)
    pairs = (unit @ unit.T)[~torch.eye(30, dtype=torch.bool)]
    assert measures.signed_coherence(field) == pytest.approx(float(pairs.mean()))
    assert measures.axial_coherence(field) == pytest.approx(float(torch.linalg.eigvalsh(unit.T @ unit / 30)[-1]))
    lengths = torch.rand(30, 1, generator=draw, dtype=torch.float64) + 0.1
    assert measures.axial_coherence(field * lengths) == pytest.approx(measures.axial_coherence(field))


@pytest.mark.parametrize(("n", "d", "value"), [(512, 12288, 0.0028), (512, 784, 0.0063)])
def test_the_isotropic_null_is_that_of_the_theory(n: int, d: int, value: float) -> None:
    assert measures.axial_null(n, d) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("n", "d"), [(512, 2), (40, 300), (200, 100)])
def test_the_isotropic_null_is_what_isotropic_fields_have(n: int, d: int) -> None:
    draw = torch.Generator().manual_seed(7)
    found = [measures.axial_coherence(torch.randn(n, d, generator=draw)) for _ in range(20)]
    assert measures.axial_null(n, d) == pytest.approx(np.mean(found), rel=0.05)


def test_null_in_the_plane() -> None:
    assert measures.axial_null(512, 2) == pytest.approx(0.52, abs=0.02)
    assert measures.axial_null(7, 1) == 1 and measures.rescaled(1.0, 1.0) == 0
    assert measures.rescaled(0.5, 0.5) == 0 and measures.rescaled(0.75, 0.5) == pytest.approx(0.5)
    with pytest.raises(InputError):
        measures.axial_null(0, 2)


def test_spread_gain_is_the_rate_of_the_logarithm_of_the_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    g, u = torch.randn(2, 50, 3, generator=draw, dtype=torch.float64).unbind(0)
    h = 1e-6
    rate = (math.log(measures.total_variance(g + h * u)) - math.log(measures.total_variance(g - h * u))) / (2 * h)
    assert measures.spread_gain(g, u) == pytest.approx(rate, rel=1e-6)
    assert measures.spread_gain(g, -0.5 * (g - g.mean(0))) == pytest.approx(-1)
    assert measures.spread_gain(g, 3 * u, eta=3) == pytest.approx(measures.spread_gain(g, u))
    assert math.isnan(measures.spread_gain(torch.ones(4, 2), torch.ones(4, 2)))


def test_kernel_numbers() -> None:
    assert measures.kernel_effective_rank(np.eye(6)) == pytest.approx(6)
    assert measures.kernel_effective_rank(np.ones((6, 6))) == pytest.approx(1)
    assert measures.mean_off_diagonal(np.ones((3, 3))) == pytest.approx(1)
    assert measures.mean_off_diagonal(np.array([[1, 0.2], [0.4, 1]])) == pytest.approx(0.3)
    assert math.isnan(measures.mean_off_diagonal(np.ones((1, 1))))


def test_separation_is_the_area_under_the_roc_curve() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    for fake, real in (
        (draw.normal(size=30), draw.normal(size=17) + 1),
        (draw.integers(0, 4, 30).astype(float), draw.integers(1, 5, 17).astype(float)),  # ties
        (np.zeros(3), np.zeros(2)),
        (np.arange(3.0), np.arange(3.0) + 10),
    ):
        labels = np.repeat([0, 1], [len(fake), len(real)])
        expected = roc_auc_score(labels, np.concatenate([fake, real]))
        assert measures.separation(fake, real) == pytest.approx(expected)

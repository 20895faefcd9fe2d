"""Analytic and estimated scores, and the cosine with the gradient of a logit, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.gan import Discriminator
from genkernel.gan.scores import (
    GRID,
    Kde,
    Mixture,
    ScoreDifference,
    attainable,
    leave_one_out_likelihood,
    score_cosine,
    score_difference,
    scott,
    sensitivity,
)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ring(count: int = 8, radius: float = 2.0) -> Tensor:
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


class LogRatio(nn.Module):
    """The logit of the optimal discriminator between two mixtures with isotropic components."""

    def __init__(self, data: tuple[Tensor, float], generated: tuple[Tensor, float]):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.sides = data, generated

    def forward(self, x: Tensor) -> Tensor:
        logs = [
            torch.logsumexp(-(x[:, None] - means).square().sum(2) / (2 * variance), 1)
            - x.shape[1] / 2 * math.log(variance)
            - math.log(len(means))
            for means, variance in self.sides
        ]
        return self.scale * (logs[0] - logs[1])


# --------------------------------------------------------------------------------- mixtures


def test_one_gaussian_in_one_dimension() -> None:
    x = torch.linspace(-3, 5, 41, dtype=torch.float64)[:, None]
    p = Mixture([[0.7]], 0.25)
    torch.testing.assert_close(p.score(x), (0.7 - x) / 0.25, rtol=1e-13, atol=1e-13)
    expected = -((x[:, 0] - 0.7) ** 2) / 0.5 - 0.5 * math.log(2 * math.pi * 0.25)
    torch.testing.assert_close(p.log_density(x), expected, rtol=1e-13, atol=1e-13)


def test_one_gaussian_with_a_full_covariance() -> None:
    x, mean, cov = 2 * normal(30, 2), torch.tensor([1.0, -2.0]), torch.tensor([[0.6, 0.3], [0.3, 1.4]])
    p = Mixture(mean[None], cov)
    expected = torch.linalg.solve(cov.double(), (mean.double() - x).T).T
    torch.testing.assert_close(p.score(x), expected, rtol=1e-12, atol=1e-12)
    law = multivariate_normal(mean.double().numpy(), cov.double().numpy())
    np.testing.assert_allclose(p.log_density(x), law.logpdf(x.numpy()), rtol=1e-12)


@pytest.mark.parametrize("kind", ["variance", "variances", "matrix", "matrices"])
def test_mixtures_are_weighted_sums(kind: str) -> None:
    x, means, weights = 2 * normal(25, 2), ring(3), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    shear = torch.tensor([[0.8, 0.2], [0.2, 0.5]], dtype=torch.float64)
    eye, several = torch.eye(2, dtype=torch.float64), torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    different = torch.stack([shear, 2 * shear, shear.inverse()])
    given, matrices = {
        "variance": (0.4, 0.4 * eye.expand(3, 2, 2)),
        "variances": (several, several[:, None, None] * eye),
        "matrix": (shear, shear.expand(3, 2, 2)),
        "matrices": (different, different),
    }[kind]
    p = Mixture(means, given, weights)
    parts = torch.stack(
        [
            w / 8 * torch.from_numpy(multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy()))
            for m, c, w in zip(means, matrices, weights, strict=True)
        ]
    )
    pulls = torch.stack([torch.linalg.solve(c, (m - x).T).T for m, c in zip(means, matrices, strict=True)])
    torch.testing.assert_close(p.log_density(x), parts.sum(0).log(), rtol=1e-11, atol=1e-11)
    expected = (parts[:, :, None] * pulls).sum(0) / parts.sum(0)[:, None]
    torch.testing.assert_close(p.score(x), expected, rtol=1e-11, atol=1e-11)


def test_far_from_every_mode_the_nearest_pulls() -> None:
    p = Mixture(ring(), 0.02**2)
    x = torch.tensor([[300.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(p.score(x), (ring()[:1] - x) / 0.02**2, rtol=1e-12, atol=0)


def test_samples_of_any_shape_and_gradients_switched_off() -> None:
    p = Mixture(normal(3, 4).reshape(3, 1, 2, 2), 0.5)
    x = normal(5, 4, seed=1)
    with torch.no_grad():
        flat = p.score(x)
    with torch.inference_mode():
        there = Mixture(normal(3, 4), 0.5).score(x.clone())
    torch.testing.assert_close(p.score(x.reshape(5, 1, 2, 2)), flat, rtol=0, atol=0)
    torch.testing.assert_close(there, flat, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("means", "covariances", "weights", "says"),
    [
        (torch.zeros(3), 1.0, None, r"shape \[M, d\]"),
        (torch.zeros(3, 2), torch.ones(2), None, "covariances are one variance, 3 variances"),
        (torch.zeros(3, 2), -1.0, None, "positive definite"),
        (torch.zeros(1, 2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), None, "symmetric"),
        (torch.zeros(2, 2), 1.0, torch.tensor([1.0, 0.0]), "2 positive weights"),
    ],
)
def test_mixtures_that_are_none(means: Tensor, covariances: object, weights: Tensor | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Mixture(means, covariances, weights)


def test_mixtures_refuse_nan_and_other_dimensions() -> None:
    with pytest.raises(NonFiniteError):
        Mixture([[math.nan, 0.0]], 1.0)
    p = Mixture([[0.0, 0.0]], 1.0)
    with pytest.raises(InputError, match="3 dimensions, the density has 2"):
        p.score(torch.zeros(4, 3))
    with pytest.raises(NonFiniteError, match="points hold NaN"):
        p.log_density(torch.full((1, 2), math.nan))


# ------------------------------------------------------------------- kernel density estimates


@pytest.mark.parametrize("d", [1, 2, 5])
def test_estimates_are_mixtures_of_kernels(d: int) -> None:
    samples, x = normal(40, d), normal(15, d, seed=1)
    k, mixture = Kde(samples, 0.4), Mixture(samples, 0.16)
    torch.testing.assert_close(k.log_density(x), mixture.log_density(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(k.score(x), mixture.score(x), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        k.log_density(x), KernelDensity(bandwidth=0.4).fit(samples.numpy()).score_samples(x.numpy()), rtol=1e-10
    )


def test_each_sample_is_left_out_of_its_own_density() -> None:
    samples = normal(12, 2)
    k = Kde(samples, 0.5)
    for i in range(len(samples)):
        others = Mixture(samples[torch.arange(len(samples)) != i], 0.25)
        torch.testing.assert_close(k.score(samples)[i], others.score(samples[i : i + 1])[0], rtol=1e-11, atol=1e-11)
        assert float(k.log_density(samples)[i]) == pytest.approx(
            float(others.log_density(samples[i : i + 1])), rel=1e-12
        )
    assert not torch.allclose(k.score(samples)[:-1], k.score(samples[:-1]))  # some of them are points like any others


def test_many_points_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = normal(50, 2)
    whole = Kde(samples)
    expected = whole.score(samples), whole.log_density(samples)
    monkeypatch.setattr("genkernel.gan.scores._ENTRIES", 130)  # 2 rows at a time
    k = Kde(samples)
    assert k.bandwidth == whole.bandwidth
    torch.testing.assert_close((k.score(samples), k.log_density(samples)), expected, rtol=1e-12, atol=1e-12)
    mixture = Mixture(samples, 0.1)
    torch.testing.assert_close(mixture.score(samples[:7]), Mixture(samples, 0.1).score(samples)[:7])


def test_bandwidth_of_scott() -> None:
    samples = 3 * normal(200, 1)
    assert scott(samples) == pytest.approx(math.sqrt(gaussian_kde(samples.numpy().T).covariance[0, 0]), rel=1e-12)
    wide = normal(100, 2) * torch.tensor([1.0, 5.0])
    assert scott(wide) == pytest.approx(100 ** (-1 / 6) * math.sqrt(float(wide.var(0).mean())), rel=1e-12)


def test_bandwidth_by_cross_validation_is_that_of_scikit_learn() -> None:
    samples = torch.cat([0.3 * normal(12, 2), 0.3 * normal(12, 2, seed=1) + 3])
    choices = scott(samples) * GRID
    search = GridSearchCV(KernelDensity(), {"bandwidth": choices}, cv=LeaveOneOut()).fit(samples.numpy())
    k = Kde(samples, "cv")
    assert k.bandwidth == search.best_params_["bandwidth"] and not k.at_edge
    np.testing.assert_allclose(
        leave_one_out_likelihood(samples, choices), search.cv_results_["mean_test_score"], rtol=1e-9
    )


def test_samples_that_coincide_drive_the_bandwidth_to_the_end_of_the_grid() -> None:
    samples = normal(10, 2).repeat(2, 1)
    k = Kde(samples, "cv")
    assert k.at_edge and k.bandwidth == scott(samples) * GRID[0]


def test_narrow_modes_need_narrower_kernels_than_one_bump_of_the_same_spread() -> None:
    samples = ring().repeat(40, 1) + 0.05 * normal(320, 2)
    k, expected = Kde(samples), Mixture(ring(), 0.05**2).score(samples)
    error = {h: float((Kde(samples, h).score(samples) - expected).norm() / expected.norm()) for h in ("scott", "cv")}
    assert k.rule == "cv" and k.bandwidth < scott(samples) / 8
    assert error["cv"] < 0.5 < 0.9 < error["scott"]


@pytest.mark.parametrize(
    ("samples", "bandwidth", "says"),
    [
        (torch.zeros(20, 11), "scott", "11 dimensions says nothing: give features of at most 10"),
        (torch.zeros(1, 2), 0.5, "at least two samples"),
        (torch.ones(9, 2), "cv", "all samples are the same"),
        (torch.rand(9, 2), "silverman", "'scott', 'cv' or a positive number"),
        (torch.rand(9, 2), 0.0, "a bandwidth is a positive number"),
        (torch.rand(9, 2), math.nan, "a bandwidth is a positive number"),
        (torch.rand(9), 0.5, r"points are a tensor \[n, d\]"),
    ],
)
def test_estimates_that_cannot_be_made(samples: Tensor, bandwidth: str | float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Kde(samples, bandwidth)


# ----------------------------------------------------------------- the difference and its cosine


def test_the_logit_of_an_optimal_discriminator_has_the_score_difference_as_its_gradient() -> None:
    data, generated = (ring(), 0.09), (ring(3) + 0.3, 0.16)
    x = 2 * normal(50, 2)
    found = Discriminator(LogRatio(data, generated), (2,))
    gradient = -found.drive(x, "kl")
    s = score_difference(x, Mixture(*data), Mixture(*generated))
    torch.testing.assert_close(gradient, s.difference, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s.difference, s.attraction - s.repulsion, rtol=0, atol=0)
    cosine = score_cosine(gradient, s)
    np.testing.assert_allclose(cosine.per_sample, 1, rtol=0, atol=1e-12)
    assert cosine.mean == pytest.approx(1, abs=1e-12) and cosine.pooled == pytest.approx(1, abs=1e-12)
    assert cosine.undefined == 0


def test_cosines_by_hand() -> None:
    s = ScoreDifference(
        torch.tensor([[1, 0], [2, 2], [0, 0], [1, 1], [1e-200, 0]], dtype=torch.float64),
        torch.tensor([[0, 0], [2, 0], [0, 0], [0, 0], [0, 0]], dtype=torch.float64),
    )
    gradient = torch.tensor([[3.0, 4.0], [0.0, -5.0], [1.0, 1.0], [0.0, 0.0], [1e-200, 0.0]], dtype=torch.float64)
    found = score_cosine(gradient, s)
    np.testing.assert_allclose(found.per_sample, [0.6, -1, math.nan, math.nan, 1], rtol=1e-14)
    assert found.mean == pytest.approx(0.2, rel=1e-12) and found.undefined == 2
    assert found.pooled == pytest.approx((3 - 10) / math.sqrt((1 + 4 + 2) * (25 + 25 + 2)), rel=1e-14)


def test_estimates_come_closer_with_more_samples() -> None:
    """The generated density is nearly the data's: the hard case, in which estimation errors are as large as s."""
    data, generated = Mixture([[0.0, 0.0]], 1.0), Mixture([[0.5, 0.0]], 0.8)
    pooled = []
    for n in (100, 1600):
        x = math.sqrt(0.8) * normal(n, 2) + torch.tensor([0.5, 0.0])
        truth = score_difference(x, data, generated).difference
        pooled.append(score_cosine(truth, score_difference(x, data, Kde(x))).pooled)
    assert 0.4 < pooled[0] < pooled[1] < 0.95


def test_where_attraction_is_stronger_estimates_are_close() -> None:
    data, x = Mixture(ring(), 0.1**2), ring().repeat(25, 1) + 0.3 * normal(200, 2)
    truth = score_difference(x, data, Mixture(ring(), 0.3**2)).difference
    found = score_cosine(truth, score_difference(x, data, Kde(x)))
    assert found.mean > 0.98 and found.pooled > 0.99


def test_the_attainable_cosine_is_that_of_an_optimal_discriminator() -> None:
    data, generated = Mixture([[0.0, 0.0]], 1.0), Mixture([[0.5, 0.0]], 0.8)
    x = math.sqrt(0.8) * normal(300, 2) + torch.tensor([0.5, 0.0])
    k = Kde(x)
    actual = score_cosine(score_difference(x, data, generated).difference, score_difference(x, data, k))
    state = torch.get_rng_state()
    found = attainable(data, k, draws=4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.mean.shape == found.pooled.shape == (4,)
    assert found.mean.mean() == pytest.approx(actual.mean, abs=0.15) and actual.mean < 0.9
    again = attainable(data, k, draws=4, seed=1)
    np.testing.assert_array_equal(found.mean, again.mean)
    both = attainable(Kde(normal(300, 2, seed=5)), k, draws=1)
    assert -1 < float(both.mean[0]) < 1
    with pytest.raises(InputError, match="needs an estimate"):
        attainable(data, generated)  # type: ignore[arg-type]


def test_a_given_bandwidth_is_kept_when_samples_are_drawn_again() -> None:
    k = Kde(normal(30, 2), 0.7)
    again = k.redrawn(torch.Generator().manual_seed(0))
    assert again.bandwidth == 0.7 and again.samples.shape == (30, 2) and not torch.equal(again.samples, k.samples)


def test_sensitivity_to_the_bandwidth() -> None:
    data, x = Mixture([[0.0, 0.0]], 1.0), 0.7 * normal(80, 2)
    truth = score_difference(x, data, Mixture([[0.0, 0.0]], 0.49)).difference
    k = Kde(x, 0.4)
    found = sensitivity(x, data, k, truth)
    np.testing.assert_array_equal(found.bandwidths, [0.2, 0.4, 0.8])
    base = score_difference(x, data, k)
    assert found.changes[1] == 0 and found.mean[1] == score_cosine(truth, base).mean
    half = score_difference(x, data, Kde(x, 0.2))
    assert found.mean[0] == score_cosine(truth, half).mean and found.pooled[0] == score_cosine(truth, half).pooled
    assert found.changes[0] == pytest.approx(
        float((half.difference - base.difference).norm() / base.difference.norm()), rel=1e-12
    )
    real = Kde(normal(60, 2, seed=3), 0.5)
    both = sensitivity(x, real, k, truth, factors=(2.0,))
    wider = score_difference(x, Kde(real.samples, 1.0), Kde(x, 0.8))
    assert both.mean[0] == score_cosine(truth, wider).mean
    with pytest.raises(InputError, match="no bandwidth to vary"):
        sensitivity(x, data, data, truth)


def test_a_gradient_at_other_samples_is_refused() -> None:
    s = ScoreDifference(normal(4, 2), normal(4, 2, seed=1))
    with pytest.raises(InputError, match=r"shape \(3, 2\), the score difference \(4, 2\)"):
        score_cosine(normal(3, 2), s)
    with pytest.raises(NonFiniteError):
        score_cosine(torch.full((4, 2), math.inf), s)

"""Scores of novelty: kernel forms against features, THEORY's example, and areas under ROC curves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import Novelty, auroc, novelty, projection_distance

DEAD = torch.tensor([0.9, 0.5, 0.0, -0.3, -1.5], dtype=torch.float64)  # the last unit wakes up at x = 1.5
HEIGHTS = torch.tensor([0.5, -0.3, 0.8, 0.2, 0.6], dtype=torch.float64)


def relu_features(x: Tensor) -> Tensor:
    """Of f = Σ_j a_j relu(x + b_j) in (a, b) ``[n, 10]``."""
    z = x[:, None] + DEAD
    return torch.cat([z.relu(), HEIGHTS * (z > 0)], 1)


def features(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def from_features(phi: Tensor, star: Tensor, **options: float) -> Novelty:
    return novelty(phi @ phi.T, star @ phi.T, star.square().sum(1), **options)


def test_what_no_training_sample_reached_is_new() -> None:
    """THEORY §5: nothing is new up to the threshold of the dead unit, and then both of its coordinates are."""
    trained = torch.linspace(-1, 1, 40, dtype=torch.float64)
    x = torch.tensor([-2.0, 0.0, 1.0, 1.4, 1.6, 2.0], dtype=torch.float64)
    phi, star = relu_features(trained), relu_features(x)
    found = from_features(phi, star)
    dead = star[:, [4, 9]].square().sum(1) / star.square().sum(1).clamp_min(1e-300)
    assert torch.allclose(found.projection_distance.square(), dead, atol=1e-10)
    assert float(found.projection_distance[:4].max()) < 1e-5 < 0.1 < float(found.projection_distance[4])
    assert found.rank == 8 and found.ridge == 0 and "without gradient" in found.notes[0]  # every unit is off at -2
    assert float(found.projection_distance[0]) == 0


def test_kernel_forms_are_those_of_features() -> None:
    phi, star = features(20, 50), features(7, 50, seed=1)
    found = from_features(phi, star)
    _, _, V = torch.linalg.svd(phi, full_matrices=False)
    outside = star - star @ V.T @ V
    distance = outside.norm(dim=1) / star.norm(dim=1)
    assert torch.allclose(found.projection_distance, distance, atol=1e-10, rtol=0)
    assert torch.allclose(found.projection_distance, projection_distance(phi, star), atol=1e-10)
    assert torch.allclose(found.variance, outside.square().sum(1), atol=1e-10)
    hat = star @ torch.linalg.pinv(phi.T @ phi) * star
    assert torch.allclose(found.leverage, hat.sum(1), atol=1e-8)


@pytest.mark.parametrize("parameters", [9, 50])
def test_leverages_are_those_of_features_of_all_scales(parameters: int) -> None:
    """φᵀ (Φᵀ Φ)⁺ φ, which is the same in any unit of the features, and no matter of the ridge."""
    phi = features(20, parameters) * torch.logspace(0, 2, parameters, dtype=torch.float64)
    for scale in (1.0, 1e3):
        found = from_features(scale * phi, scale * phi)
        assert float(found.leverage.sum()) == pytest.approx(min(20, parameters), rel=1e-7)
    star = features(4, parameters, seed=1)
    hat = (star @ torch.linalg.pinv(phi)).square().sum(1)
    assert torch.allclose(from_features(phi, star).leverage, hat, rtol=1e-5)
    assert torch.allclose(from_features(phi, 3 * star, ridge=0.5).leverage, 9 * hat, rtol=1e-5)


@pytest.mark.parametrize("ridge", [1e-3, 0.7, 50.0])
@pytest.mark.parametrize("parameters", [9, 50])
def test_the_variance_with_a_ridge_is_that_in_parameter_space(ridge: float, parameters: int) -> None:
    phi, star = features(20, parameters), features(7, parameters, seed=1)
    eye = torch.eye(parameters, dtype=torch.float64)
    inverse = torch.linalg.inv(phi.T @ phi + ridge * eye)
    expected = ridge * ((star @ inverse) * star).sum(1)
    assert torch.allclose(from_features(phi, star, ridge=ridge).variance, expected, atol=1e-10)


def test_leverages_of_the_training_samples_sum_to_the_rank() -> None:
    phi = features(30, 8) @ features(8, 40, seed=1)
    found = from_features(phi, phi)
    assert found.rank == 8 and float(found.leverage.sum()) == pytest.approx(8, abs=1e-8)
    assert float(found.projection_distance.max()) < 1e-5
    away = torch.cat([phi[:1], torch.zeros(1, 40, dtype=torch.float64)], 0)
    away = away + 100 * torch.linalg.svd(phi)[2][-1]  # orthogonal to all of them
    blind = from_features(phi, away)
    assert torch.allclose(blind.leverage[1], torch.tensor(0.0, dtype=torch.float64), atol=1e-8)
    assert float(blind.projection_distance.min()) > 0.9


def test_kernels_of_several_outputs_are_stacked_or_each_by_itself() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    x, new = features(5, 3), features(4, 3, seed=1)
    phi, star = gk.tangent_features(net, x), gk.tangent_features(net, new)
    options = {"cotangents": gk.blocks(), "dtype": "float64", "progress": False}
    K, cross = gk.kernel(net, x, **options), gk.kernel(net, new, x, **options)
    stacked = novelty(K, cross, ridge=0.3)
    _, _, V = torch.linalg.svd(phi.flatten(0, 1), full_matrices=False)
    outside = star - star @ V.T @ V
    expected = outside.flatten(1).norm(dim=1) / star.flatten(1).norm(dim=1)
    assert stacked.rank == 10 and torch.allclose(stacked.projection_distance, expected, atol=1e-10)
    assert torch.allclose(stacked.projection_distance, novelty(K, cross, cross.norms_x).projection_distance)
    each = novelty(K, cross, ridge=0.3, outputs="each")
    assert each.rank == (5, 5) and each.leverage.shape == each.variance.shape == (4, 2)
    for o in range(2):
        alone = from_features(phi[:, o], star[:, o], ridge=0.3)
        assert torch.allclose(each.projection_distance[:, o], alone.projection_distance, atol=1e-9)
        assert torch.allclose(each.variance[:, o], alone.variance, atol=1e-9)


def test_kernels_bring_their_own_norms_and_have_to_belong_together() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    x, new = features(5, 3), features(4, 3, seed=1)
    options = {"dtype": "float64", "progress": False}
    K, cross = (gk.kernel(net, *xs, cotangents=gk.exact_trace(), **options) for xs in ((x,), (new, x)))
    found = novelty(K, cross)
    assert torch.equal(found.projection_distance, novelty(K.values, cross.values, cross.norms_x).projection_distance)
    angles = novelty(K.normalized(), cross.normalized())
    assert torch.allclose(angles.projection_distance, found.projection_distance)
    other = gk.kernel(net, new, x, cotangents=gk.total(), **options)
    with pytest.raises(InputError, match="cotangents: exact trace and sum of outputs"):
        novelty(K, other)
    with pytest.raises(InputError, match="normalised: False and True"):
        novelty(K, cross.normalized())
    with pytest.raises(InputError, match="x against x"):
        novelty(cross, cross)
    with pytest.raises(InputError, match="not of one kernel"):
        novelty(K.values, cross.values, 0.01 * cross.norms_x)


def test_tolerances_and_precision_are_said_in_words() -> None:
    phi, star = features(20, 9), features(3, 9, seed=1)
    assert from_features(phi, star).notes == ()
    low = from_features(phi, star, tolerance=1e-30)
    assert "below the rounding" in low.notes[0]
    net = torch.nn.Linear(3, 1)
    x = features(4, 3).float()
    single = [gk.kernel(net, *xs, cotangents=gk.total(), progress=False) for xs in ((x,), (x[:2], x))]
    assert any("low precision" in note for note in novelty(*single).notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trained": torch.full((4, 4), torch.nan)}, "trained has NaN"),
        ({"cross": torch.full((2, 4), torch.inf)}, "cross has NaN"),
        ({"own": torch.tensor([1.0, torch.nan])}, "own is"),
        ({"own": torch.tensor([1.0, -1.0])}, "own is"),
        ({"own": None}, "own="),
        ({"own": torch.ones(3)}, "not"),
        ({"cross": torch.ones(2, 5)}, "trained is"),
        ({"trained": torch.ones(4)}, "one number per pair"),
        ({"trained": -torch.eye(4)}, "zero"),
        ({"trained": torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.5]))}, "semi-definite"),
        ({"trained": torch.eye(4) + torch.triu(torch.ones(4, 4), 1)}, "not symmetric"),
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"tolerance": 1.5}, "between 0 and 1"),
        ({"outputs": "both"}, "'stacked' or 'each'"),
    ],
)
def test_bad_input_is_said(changes: dict, words: str) -> None:
    given = {"trained": torch.eye(4), "cross": 0.1 * torch.ones(2, 4), "own": torch.ones(2)} | changes
    with pytest.raises(InputError, match=words):
        novelty(given.pop("trained"), given.pop("cross"), given.pop("own"), **given)


def test_areas_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    known, new = draw.normal(size=70), draw.normal(size=50) + 0.8
    for a, b in ((known, new), (known.round(), new.round())):  # with ties
        expected = roc_auc_score(np.repeat([0, 1], [70, 50]), np.concatenate([a, b]))
        found = auroc(a, b)
        assert found.value == pytest.approx(expected) and found.low < found.value < found.high
        back = auroc(b, a)
        assert (back.value, back.low, back.high) == pytest.approx((1 - expected, 1 - found.high, 1 - found.low))
    assert auroc([0.0], [1.0]).value == 1 and auroc([1.0], [1.0]).value == 0.5


def test_the_interval_of_many_samples_is_delongs() -> None:
    """By all pairs, and on the scale of the logit; spreads differ, so that Hanley and McNeil's is the narrower."""
    draw = np.random.default_rng(3)
    known, new = draw.normal(size=80), 2.5 * draw.normal(size=30) + 1.5
    pairs = (new[None] > known[:, None]).astype(float)
    area = pairs.mean()
    deviation = (pairs.mean(1).var(ddof=1) / 80 + pairs.mean(0).var(ddof=1) / 30) ** 0.5
    odds = np.log(area / (1 - area)) + np.array([-1, 1]) * 1.959964 * deviation / (area * (1 - area))
    found = auroc(known, new)
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))), abs=1e-6)


@pytest.mark.parametrize("count", [5, 20, 200])
def test_perfect_separation_has_a_width(count: int) -> None:
    """The end is the area that is 1.96 of its standard errors (Hanley and McNeil's) below 1."""
    found, other = auroc(np.zeros(count), np.ones(count)), auroc(np.ones(count), np.zeros(count))
    low = found.low
    assert (found.value, found.high, other.value, other.low) == (1, 1, 0, 0) and other.high == pytest.approx(1 - low)
    q1, q2 = low / (2 - low), 2 * low**2 / (1 + low)
    variance = (low * (1 - low) + (count - 1) * (q1 - low**2 + q2 - low**2)) / count**2
    assert (1 - low) / variance**0.5 == pytest.approx(1.96, abs=1e-3)


def test_few_samples_have_no_interval() -> None:
    four, five = np.arange(4.0), np.arange(5.0) + 0.5
    for known, new in ((four, five), (five, four), ([0.0], [1.0])):
        found = auroc(known, new)
        assert np.isnan([found.low, found.high]).all() and 0 <= found.value <= 1
    tied = auroc(np.zeros(9), np.zeros(9))
    assert tied.value == 0.5 and tied.low < 0.4 and tied.high > 0.6


@pytest.mark.parametrize(("known", "new", "spread"), [(60, 60, 1.0), (60, 20, 2.5), (8, 8, 1.0)])
@pytest.mark.parametrize("area", [0.5, 0.9, 0.99])
def test_the_interval_covers_the_truth(known: int, new: int, spread: float, area: float) -> None:
    """95 %, or more where it is conservative: 400 draws, fewer than 91 % of which have a chance of one in thousands."""
    from statistics import NormalDist

    draw = np.random.default_rng(1)
    shift = NormalDist().inv_cdf(area) * (1 + spread**2) ** 0.5
    found = [auroc(draw.normal(size=known), spread * draw.normal(size=new) + shift) for _ in range(400)]
    assert np.mean([one.low <= area <= one.high for one in found]) > 0.91
    assert np.mean([one.high - one.low for one in found]) < 6 * (area * (1 - area) / min(known, new)) ** 0.5 + 2 / min(
        known, new
    )


@pytest.mark.parametrize("scores", [([np.nan], [1.0]), ([1.0], [np.inf]), ([], [1.0]), ([1.0], [])])
def test_areas_of_what_is_no_score_are_refused(scores: tuple) -> None:
    with pytest.raises(InputError, match="finite scores"):
        auroc(*scores)


# ----------------------------------------------------------------------- rounding and extremes


def graded(decades: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features ``[60, 200]`` with singular values 1 … 10^-decades, and their right singular vectors ``[60, 200]``."""
    left, right = torch.linalg.qr(features(60, 60, seed=seed))[0], torch.linalg.qr(features(200, 60, seed=seed + 1))[0]
    phi = left @ torch.diag(torch.logspace(0, -decades, 60, dtype=torch.float64)) @ right.T
    return phi, torch.linalg.svd(phi, full_matrices=False)[2]


def test_samples_in_badly_known_directions_are_no_mismatch() -> None:
    """Eigenvalues near the floor have errors of their own size, and k K⁺ k of what lies there exceeds k(x, x)."""
    hangs = 0
    for seed in range(5):
        phi, V = graded(9, seed)
        for j in range(0, 60, 5):
            found = from_features(phi, V[j : j + 1])
            hangs += any("hang on directions" in note for note in found.notes)
            assert j > 20 or (float(found.projection_distance) < 1e-2 and not found.notes)
    assert 5 <= hangs <= 50


def test_a_mismatch_of_one_small_sample_is_seen_beside_large_ones() -> None:
    phi, star = features(20, 50), features(3, 50, seed=1)
    star[1] *= 1e-5
    own = star.square().sum(1)
    novelty(phi @ phi.T, star @ phi.T, own)
    own[1] *= 0.01
    with pytest.raises(InputError, match="not of one kernel"):
        novelty(phi @ phi.T, star @ phi.T, own)
    own[1] = 0.0
    with pytest.raises(InputError, match="not of one kernel"):
        novelty(phi @ phi.T, star @ phi.T, own)


@pytest.mark.parametrize("size", [1e-160, 1e-80, 1e80, 1e160])
def test_scores_do_not_know_the_unit_of_the_kernel(size: float) -> None:
    phi, star = features(12, 30), features(4, 30, seed=1)
    star[2:] *= torch.tensor([[1e-3], [1e3]])
    K, k, own = phi @ phi.T, star @ phi.T, star.square().sum(1)
    plain, scaled = (novelty(c * K, c * k, c * own, ridge=0.3 * c) for c in (1.0, size))
    torch.testing.assert_close(scaled.projection_distance, plain.projection_distance)
    torch.testing.assert_close(scaled.variance / size, plain.variance)
    torch.testing.assert_close(scaled.leverage, plain.leverage)
    blocks = [
        torch.einsum("nop,mqp->nmoq", a, b) for a, b in ((phi[:, None], phi[:, None]), (star[:, None], phi[:, None]))
    ]
    each = novelty(size * blocks[0], size * blocks[1], size * own[:, None], outputs="each")
    torch.testing.assert_close(each.projection_distance[:, 0], plain.projection_distance)


def test_the_coarser_of_two_kernels_decides_the_tolerance() -> None:
    net = torch.nn.Linear(3, 1)
    x = features(6, 3)
    options = {"cotangents": gk.total(), "progress": False}
    fine = {"dtype": "float64", **options}
    K, cross = gk.kernel(net.double(), x, **fine), gk.kernel(net, x[:2], x, **fine)
    assert novelty(K, cross).tolerance == pytest.approx(6 * 2**-52)
    single = [gk.kernel(net.float(), *xs, **options) for xs in ((x.float(),), (x[:2].float(), x.float()))]
    for pair in ((K, single[1]), (single[0], cross), tuple(single)):
        assert novelty(*pair).tolerance == pytest.approx(6 * 2**-23)


def test_scores_of_any_layout_and_with_gradients() -> None:
    known, new = np.arange(6.0), np.arange(6.0) + 2.5
    plain = auroc(known, new)
    assert auroc(known[::-1], new[::-1]) == plain
    assert auroc(torch.tensor(known, requires_grad=True), torch.tensor(new, requires_grad=True)) == plain
    phi = features(6, 9)
    K = phi @ phi.T
    turned = novelty(K.numpy()[::-1, ::-1], K.numpy()[:2, ::-1], K.diagonal().numpy()[:2].copy()[::-1][::-1])
    assert float(turned.projection_distance.max()) < 1e-6 and turned.rank == 6
    novelty(K.clone().requires_grad_(), K[:2].clone().requires_grad_(), K.diagonal()[:2])

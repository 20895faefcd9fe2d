"""Attraction and repulsion in an analysis, on generators and discriminators whose densities are known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.analysis import analyze
from genkernel.gan.clusters import Clusters, nearest_mode
from genkernel.gan.score_report import obstacle, score_report
from genkernel.gan.scores import Mixture, score_difference
from genkernel.gan.stages import Real
from tests.gan.test_scores import LogRatio, normal

SIDE = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
SPREAD = 0.6  # of the generated samples around their two modes


class TwoModes(nn.Module):
    """The latent's third entry chooses one of two modes, the others are the place around it: p_g is a mixture."""

    def __init__(self, centres: Tensor = SIDE, spread: float = SPREAD):
        super().__init__()
        self.centres, self.spread = nn.Parameter(centres.clone()), nn.Parameter(torch.tensor(spread).double())

    def forward(self, z: Tensor) -> Tensor:
        return self.centres[(z[:, 2] > 0).long()] + self.spread * z[:, :2]


def judge(data: tuple[Tensor, float], sign: float = 1.0) -> Discriminator:
    """The optimal discriminator between the data and TwoModes, or its opposite."""
    module = LogRatio(data, (SIDE, SPREAD**2))
    nn.init.constant_(module.scale, sign)
    return Discriminator(module, (2,), output="logit")


def one(n: int) -> Clusters:
    return Clusters(np.zeros(n, dtype=np.int64), ["all"], "given")


def test_the_optimal_discriminator_reaches_what_is_attainable() -> None:
    """With analytic scores of the data and an estimate of p_g; ∇l is the true score difference itself."""
    data = (SIDE, 0.15**2)  # attraction is much the stronger
    gen, disc = Generator(TwoModes(), (3,)), judge(data)
    result, kept = analyze(
        gen, disc, latents=256, jacobians=4, modes=SIDE, mode_std=0.15, fresh=0, check=False, loss="non-saturating"
    )
    found = result.score
    assert found is not None and found.density_ratio and "the known modes" in found.data
    truth = score_difference(kept.samples, Mixture(*data), Mixture(SIDE, SPREAD**2))
    np.testing.assert_allclose(-disc.drive(kept.samples, "kl"), truth.difference, rtol=1e-9, atol=1e-9)
    assert found.cosine > 0.98 and found.pooled > 0.98 and found.undefined == 0
    assert abs(found.cosine - found.attainable) < 3 * found.attainable_std + 0.01
    assert found.attraction == pytest.approx(float(truth.attraction.norm(dim=1).mean()), rel=1e-9)
    assert found.repulsion == pytest.approx(float(truth.repulsion.norm(dim=1).mean()), rel=0.3)
    assert found.gradient == pytest.approx(float(truth.difference.norm(dim=1).mean()), rel=1e-9)
    fields = found.fields
    assert fields is not None and kept.drive is not None
    np.testing.assert_allclose(fields.attraction, truth.attraction, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(fields.descent, -kept.drive.double())
    np.testing.assert_allclose(
        found.difference, np.linalg.norm(fields.attraction - fields.repulsion, axis=1).mean(), rtol=1e-12
    )
    labels, table = result.clusters.labels, found.by_cluster
    for c in range(2):
        assert table.cosine[c] == pytest.approx(found.per_sample[labels == c].mean())
        assert table.attraction[c] == pytest.approx(np.linalg.norm(fields.attraction[labels == c], axis=1).mean())
    np.testing.assert_array_equal(found.sensitivity.factors, [0.5, 1, 2])
    assert found.sensitivity.mean[1] == found.cosine and math.isnan(found.real_bandwidth)


def test_where_samples_are_right_the_attainable_cosine_says_that_little_can_be_told() -> None:
    gen, data = Generator(TwoModes(), (3,)), (SIDE + 0.1, (0.9 * SPREAD) ** 2)
    result, _ = analyze(gen, judge(data), latents=256, jacobians=4, modes=data[0], mode_std=0.9 * SPREAD, check=False)
    found = result.score
    assert found is not None and found.cosine < 0.9 and found.attainable < 0.9
    assert found.cosine == pytest.approx(found.attainable, abs=0.2)


def test_the_opposite_of_the_optimal_discriminator() -> None:
    data, x = (SIDE, 0.15**2), TwoModes()(normal(200, 3))
    disc = judge(data, sign=-2.0)
    found = score_report(disc, x, one(200), disc.drive(x, "wgan"), "wgan", modes=SIDE, mode_std=0.15)
    assert found.cosine < -0.97 and found.attainable > 0.9
    assert not found.density_ratio and "no score difference" in found.reading


@pytest.mark.parametrize(
    ("loss", "ratio"),
    [("non-saturating", True), ("minimax", True), ("kl", True), ("lsgan", True), ("wgan", False), ("hinge", False)],
)
def test_what_a_cosine_says_depends_on_the_loss(loss: str, ratio: bool) -> None:
    x, disc = TwoModes()(normal(40, 3)), judge((SIDE, 0.2))
    found = score_report(disc, x, one(40), disc.drive(x, loss), loss, modes=SIDE, mode_std=0.4)
    assert found.density_ratio is ratio
    assert ("no score difference" in found.reading) is not ratio
    own = score_report(disc, x, one(40), disc.drive(x, loss), torch.neg, modes=SIDE, mode_std=0.4)
    assert not own.density_ratio and "not known" in own.reading and own.cosine == found.cosine


def test_real_samples_stand_in_for_modes_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    x, draw = TwoModes()(normal(300, 3)), normal(600, 2, seed=4)
    disc = judge((SIDE, 0.15**2))
    real = Real(SIDE[torch.arange(600) % 2] + 0.15 * draw, None)
    options = {"clusters": nearest_mode(x, SIDE), "drive": disc.drive(x, "kl"), "loss": "kl"}
    estimated = score_report(disc, x, real=real, **options)
    known = score_report(disc, x, real=real, modes=SIDE, mode_std=0.15, **options)
    assert estimated.data == "an estimate from 600 real samples" and estimated.real_bandwidth > 0
    assert "known modes" in known.data
    assert known.cosine > 0.97 and estimated.cosine > 0.85
    assert estimated.repulsion == known.repulsion and estimated.bandwidth == known.bandwidth
    with pytest.raises(InputError, match="need real samples, or known modes"):
        score_report(disc, x, **options)
    monkeypatch.setattr("genkernel.gan.score_report.MOST_REAL", 30)  # not fewer than there are generated ones
    assert score_report(disc, x, real=real, **options).data == "an estimate from 300 real samples"


def test_when_densities_cannot_be_estimated() -> None:
    disc = judge((SIDE, 0.2))
    real = Real(normal(50, 2), None)
    x = normal(50, 2, seed=1)
    assert obstacle(disc, x, real, None, None) is None and obstacle(disc, x, None, SIDE, 0.1) is None
    many, several = normal(50, 12), normal(50, 6)
    conditional = judge((SIDE, 0.2))
    conditional.classes = 3
    for given, says in (
        ((disc, many, Real(many, None), None, None), "samples have 12 dimensions, .* at most 10"),
        ((disc, several, Real(several, None), None, None), "in 6 dimensions .* about 2,790 samples, .* 50 generated"),
        ((disc, x, Real(x[:18], None), None, None), "about 19 samples, and there are 18 real ones"),
        ((disc, x, None, SIDE, None), "need real samples, or known modes"),
        ((disc, x, Real(torch.ones(50, 2), None), None, None), "all samples are the same"),
        ((conditional, x, real, None, None), "compares densities within each class"),
    ):
        found = obstacle(*given)
        assert found is not None
        assert re.search(says, found), found

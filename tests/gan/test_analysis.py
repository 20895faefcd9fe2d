"""The whole analysis on small generators: what is there, what is missing, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, ZeroGradientError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.analysis import STAGES, analyze, stratified
from genkernel.gan.clusters import Clusters
from genkernel.gan.indicators import INDICATORS, indicators
from genkernel.gan.transport import transport

ANGLES = torch.arange(8) * math.tau / 8
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def planar(seed: int = 0) -> tuple[Generator, Discriminator]:
    torch.manual_seed(seed)
    g = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    d = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    return Generator(g, (2,)), Discriminator(d, (2,))


class Images(nn.Module):
    """A convolutional generator with batch norm, conditional when ``classes`` is given."""

    def __init__(self, classes: int | None = None):
        super().__init__()
        self.embed = nn.Embedding(classes, 6) if classes else None
        self.net = nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh()
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = z if self.embed is None or y is None else z * self.embed(y)
        return self.net(z[:, :, None, None])


def critic(classes: int | None = None) -> nn.Module:
    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 4))
            self.head = nn.Linear(4, 1)
            self.project = nn.Embedding(classes, 4) if classes else None

        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            h = self.net(x)
            extra = 0 if self.project is None or y is None else (h * self.project(y)).sum(1, keepdim=True)
            return self.head(h) + extra

    return Critic()


def test_the_plane() -> None:
    gen, disc = planar()
    state = {name: p.clone() for name, p in gen.module.state_dict().items()}
    real = RING[torch.arange(40) % 8] + 0.02 * torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    stages: list[str] = []
    result, kept = analyze(
        gen, disc, latents=32, jacobians=10, fresh=8, modes=RING, mode_std=0.02, real=real,
        progress=lambda name, done, of: stages.append(name),
    )  # fmt: skip
    assert result.clusters.names[7] == "mode 7" and result.transport is not None
    assert result.points is not None and result.points.shape == (32, 2)
    assert result.point_updates is not None and result.point_updates.shape == (8, 32, 2)
    np.testing.assert_allclose(
        np.linalg.norm(result.point_updates, axis=2).sum(1),
        result.transport.share * np.linalg.norm(result.point_updates, axis=2).sum(),
        rtol=1e-5,
    )
    assert result.jacobian.singular_values.shape == (10, 2) and result.jacobian.exact
    assert result.kernel.probes == 0 and result.kernel.normalized.shape == (32, 32)
    assert {step.optimizer for step in result.one_step} == {"sgd", "adam"}
    assert result.coverage.modes is not None and result.coverage.frechet > 0
    assert result.drive is not None and 0 <= result.drive.separation <= 1
    assert stages == [name for name in STAGES if name != "game"] and list(result.meta["seconds"]) == stages
    assert kept.drive is not None and kept.drive.shape == (32, 2)
    assert all(torch.equal(state[name], p) for name, p in gen.module.state_dict().items())
    summary = result.to_summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {"amplification", "jacobian", "kernel", "coverage", "score", "discriminator", "per_cluster"} <= set(summary)
    assert summary["kernel"]["agreement_with_movement"] == pytest.approx(result.agreement)
    assert summary["score"]["cosine"] == pytest.approx(result.score.cosine)  # type: ignore[union-attr]
    assert "fields" not in summary["score"] and "normalized" not in summary["discriminator"]
    np.testing.assert_allclose(result.modes, RING.double())
    np.testing.assert_allclose(result.mode_std, 0.02)
    promised = {
        "driving_dominance",
        "occupancy_dominance",
        "axial_coherence",
        "coherence",
        "effective_clusters",
        "score",
    }
    assert promised | {"matrix"} <= set(summary["amplification"])
    found = indicators(result)
    assert set(found) == set(INDICATORS) and all(math.isfinite(v) for v in found.values())
    again, _ = analyze(gen, disc, latents=32, jacobians=10, fresh=8, modes=RING, mode_std=0.02, real=real)
    assert indicators(again) == found


def test_a_generator_alone() -> None:
    gen, _ = planar()
    result, kept = analyze(gen, latents=24, jacobians=4)
    assert result.transport is None and result.drive is None and kept.drive is None and not result.one_step
    assert any("no discriminator" in sentence for sentence in result.missing)
    assert any("no real samples" in sentence for sentence in result.missing)
    assert math.isnan(indicators(result)["score"]) and math.isfinite(indicators(result)["kernel_effective_rank"])
    assert "k-means" in result.clusters.by
    assert json.dumps(result.to_summary())


def test_images_with_batch_norm_and_classes() -> None:
    torch.manual_seed(0)
    gen = Generator(Images(4), (6,), classes=4)
    disc = Discriminator(critic(4), gen.output_shape, classes=4)
    result, _ = analyze(gen, disc, loss="hinge", latents=20, jacobians=5, probes=3, fresh=4, check=False)
    assert result.clusters.by == "the labels that the generator was given"
    np.testing.assert_array_equal(np.bincount(result.clusters.labels), [5, 5, 5, 5])
    assert result.kernel.probes == 3 and result.kernel.stderr is not None
    assert result.points is None and result.point_updates is None
    assert sorted(result.jacobian.latents) == list(result.jacobian.latents) and len(result.jacobian.latents) == 5
    assert (
        result.jacobian_by_cluster.log_volume.shape == (4,) and np.isfinite(result.jacobian_by_cluster.log_volume).all()
    )


def test_a_conditional_discriminator_needs_a_conditional_generator() -> None:
    gen = Generator(Images(), (6,))
    disc = Discriminator(critic(4), gen.output_shape, classes=4)
    with pytest.raises(InputError, match="the discriminator is conditional, the generator is not"):
        analyze(gen, disc, latents=12, jacobians=2, probes=2)


def test_stratified() -> None:
    clusters = Clusters(np.repeat([0, 1, 3], [50, 5, 1]), list("abcd"), "given")
    found = stratified(clusters, 10)
    assert len(set(found)) == 10
    assert np.bincount(clusters.labels[found], minlength=4).tolist()[2] == 0
    assert (np.bincount(clusters.labels[found], minlength=4)[[0, 1, 3]] >= 1).all()
    assert len(stratified(clusters, 1000)) == 56
    assert len(stratified(clusters, 2)) == 2


def test_what_is_refused() -> None:
    gen, disc = planar()
    for options, match in (
        ({"latents": 3}, "latents has to be"),
        ({"jacobians": 0}, "jacobians has to be"),
        ({"loss": "magic"}, "loss is one of"),
        ({"clusters": "shapes"}, "clusters is 'auto'"),
        ({"clusters": Clusters(np.zeros(5, dtype=np.int64), ["a"], "given")}, "5 latents"),
        ({"modes": torch.zeros(3, 5)}, "modes have shape"),
        ({"real": torch.zeros(30, 3)}, "real samples have shape"),
        ({"real_labels": torch.zeros(30, dtype=torch.long)}, "but no real samples"),
        ({"real": torch.zeros(30, 2), "real_labels": torch.zeros(29, dtype=torch.long)}, "labels are 30 whole numbers"),
    ):
        with pytest.raises(InputError, match=match):
            analyze(gen, disc, **{"latents": 16, "jacobians": 2, **options})
    with pytest.raises(InputError, match="as the generator makes them"):
        Discriminator(critic(), gen.output_shape)
    silent = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for p in silent.parameters():
            p.zero_()
        silent[0].bias.fill_(-1.0)
    silent[2].bias.requires_grad_(False)
    with pytest.raises(ZeroGradientError, match="no parameter of the generator moves any sample"):
        analyze(Generator(silent, (2,)), latents=16, jacobians=2)
    with torch.no_grad():
        gen.module[0].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        analyze(gen, disc, latents=16, jacobians=2)


class Ignoring(nn.Module):
    """One point, whatever the latent is; it may not even enter the graph."""

    def __init__(self, used: bool, at: float = 1.0):
        super().__init__()
        self.used, self.point = used, nn.Parameter(torch.full((2,), at))

    def forward(self, z: Tensor) -> Tensor:
        return self.point + 0 * z if self.used else self.point.expand(len(z), 2)


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("clusters", ["auto", 3])
def test_a_generator_that_ignores_its_latent(used: bool, clusters: str | int) -> None:
    _, disc = planar()
    real = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    result, _ = analyze(
        Generator(Ignoring(used), (2,)), disc, latents=24, jacobians=3, fresh=4, real=real, clusters=clusters
    )
    assert any("one cluster only" in sentence for sentence in result.missing)
    assert any("all samples are the same, so that they suggest no bandwidth" in sentence for sentence in result.missing)
    assert result.clusters.names == ["all"]
    assert (result.jacobian.rank == 0).all() and (result.jacobian.effective_rank == 0).all()
    assert (result.jacobian.log_volume == -math.inf).all()
    assert result.kernel.mean_off_diagonal == pytest.approx(1) and result.transport is not None
    assert len(result.one_step) == 2 and result.discriminator_kernel is not None and result.score is None
    assert result.per_cluster is not None and result.per_cluster.diversity[0] == 0
    assert json.dumps(result.to_summary())


def test_a_generator_at_the_origin_has_a_one_step_check() -> None:
    _, disc = planar()
    result, _ = analyze(Generator(Ignoring(True, at=0.0), (2,)), disc, latents=12, jacobians=2, fresh=0)
    assert all(np.isfinite(step.errors).all() and (step.etas > 0).all() for step in result.one_step)


def test_a_discriminator_that_drives_nothing_leaves_the_rest() -> None:
    """Constant: no gradient at all. Saturated: a gradient of the logit that the loss multiplies by zero."""
    gen, _ = planar()
    constant = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    nn.init.zeros_(constant[1].weight)
    saturated = nn.Linear(2, 1)
    nn.init.constant_(saturated.bias, -1000.0)
    for module, loss, flat in ((constant, "non-saturating", 1.0), (saturated, "minimax", 0.0)):
        disc = Discriminator(module, (2,), output="logit")
        result, kept = analyze(
            gen, disc, loss=loss, latents=32, jacobians=2, modes=RING, mode_std=0.1, real=torch.randn(30, 2)
        )
        (sentence,) = result.missing
        assert "constant, or saturated; so the kernel transport and the one-step check are missing" in sentence
        assert result.transport is None and not result.one_step and math.isnan(result.agreement)
        assert result.drive is not None and result.drive.flat == flat and result.drive.saturated == 1 - flat
        assert kept.drive is not None and not kept.drive.any()
        assert result.score is not None and result.discriminator_kernel is not None
        assert math.isnan(result.score.cosine) == bool(flat) and result.score.undefined == 32 * flat
        assert result.per_cluster is not None and np.isnan(result.per_cluster.share).all()
        assert math.isfinite(indicators(result)["kernel_effective_rank"])
        assert json.dumps(result.to_summary())


def test_the_agreement_is_that_of_kernel_and_movement() -> None:
    """By the definition: cosines of whole gradients against cosines of the updates, one pair at a time."""
    gen, disc = planar()
    result, kept = analyze(gen, disc, latents=12, jacobians=2, fresh=0, check=False)
    found = transport(gen, kept.batch, kept.drive, kept.clusters)  # type: ignore[arg-type]
    jacobians = []
    for z in kept.batch["z"]:
        x = gen.module(z[None])[0]
        rows = [torch.autograd.grad(v, list(gen.module.parameters()), retain_graph=True) for v in x]
        jacobians.append(torch.cat([torch.cat([g.flatten() for g in row]) for row in rows]))
    pairs = [(i, j) for i in range(12) for j in range(i)]
    cosine = torch.nn.functional.cosine_similarity
    kernel = [float(cosine(jacobians[i], jacobians[j], dim=0)) for i, j in pairs]
    movement = [float(cosine(found.total[i], found.total[j], dim=0)) for i, j in pairs]
    assert result.agreement == pytest.approx(spearmanr(kernel, movement).statistic, abs=0.01)


def test_labels_of_real_samples_reach_a_conditional_discriminator() -> None:
    torch.manual_seed(0)
    gen = Generator(Images(4), (6,), classes=4)
    disc = Discriminator(critic(4), gen.output_shape, classes=4)
    real, labels = torch.randn(30, *gen.output_shape), torch.arange(30) % 4
    options = {"latents": 16, "jacobians": 4, "probes": 2, "fresh": 0, "check": False, "real": real}
    without, _ = analyze(gen, disc, **options)
    assert without.drive is not None and without.drive.real is None and without.discriminator_kernel is None
    assert any("the conditional discriminator cannot judge them" in sentence for sentence in without.missing)
    assert any("not compared class by class" in sentence for sentence in without.missing)
    found, _ = analyze(gen, disc, real_labels=labels, **options)
    expected = disc.logits(real, labels)
    assert found.drive is not None and found.drive.real is not None
    assert found.drive.real.mean == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found.discriminator_kernel is not None and found.discriminator_kernel.real == 30
    assert not any("labels" in sentence for sentence in found.missing)
    assert found.per_cluster is not None and np.isfinite(found.per_cluster.relative_diversity).all()
    with pytest.raises(InputError, match="labels lie in"):
        analyze(gen, disc, real_labels=labels + 1, **options)


def test_labels_of_a_conditional_generator_come_before_what_a_classifier_sees() -> None:
    torch.manual_seed(0)
    gen = Generator(Images(4), (6,), classes=4)
    result, _ = analyze(gen, latents=16, jacobians=4, probes=2, classifier=lambda x: x.flatten(1)[:, :4])
    assert result.clusters.by == "the labels that the generator was given" and result.coverage.modes is not None
    table = result.per_cluster
    assert table is not None and table.recognised.sum() == pytest.approx(1)
    alone, _ = analyze(
        Generator(Images(), (6,)), latents=16, jacobians=4, probes=2, classifier=lambda x: x.flatten(1)[:, :4]
    )
    assert alone.clusters.by == "the classes of a classifier"
    assert alone.per_cluster is not None and np.isnan(alone.per_cluster.recognised).all()


def test_one_width_for_all_modes_or_one_for_each() -> None:
    gen, disc = planar()
    widths = torch.linspace(0.1, 0.8, 8)
    result, _ = analyze(gen, disc, latents=32, jacobians=2, modes=RING, mode_std=widths, check=False)
    np.testing.assert_allclose(result.mode_std, widths, rtol=1e-6)
    assert result.score is not None
    alone, _ = analyze(gen, disc, latents=32, jacobians=2, modes=RING, check=False)
    assert alone.modes is not None and alone.mode_std is None and alone.score is None
    assert any("they need real samples, or known modes with their standard deviation" in s for s in alone.missing)

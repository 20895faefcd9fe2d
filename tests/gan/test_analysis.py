"""The whole analysis on small generators: what is there, what is missing, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, ZeroGradientError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.analysis import analyze, stratified
from genkernel.gan.clusters import Clusters
from genkernel.gan.indicators import INDICATORS, indicators

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
    assert set(stages) == {"samples", "clusters", "coverage", "kernel", "jacobian", "drive", "transport", "one step"}
    assert kept.drive is not None and kept.drive.shape == (32, 2)
    assert all(torch.equal(state[name], p) for name, p in gen.module.state_dict().items())
    summary = result.to_summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {"amplification", "jacobian", "kernel", "coverage"} <= set(summary)
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
    ):
        with pytest.raises(InputError, match=match):
            analyze(gen, disc, **{"latents": 16, "jacobians": 2, **options})
    constant = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    nn.init.zeros_(constant[1].weight)
    with pytest.raises(ZeroGradientError, match="constant"):
        analyze(gen, Discriminator(constant, (2,), output="logit"), latents=16, jacobians=2)
    with pytest.raises(InputError, match="as the generator makes them"):
        Discriminator(critic(), gen.output_shape)
    with torch.no_grad():
        gen.module[0].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        analyze(gen, disc, latents=16, jacobians=2)


def test_a_generator_that_ignores_its_latent() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point = nn.Parameter(torch.ones(2))

        def forward(self, z: Tensor) -> Tensor:
            return self.point + 0 * z

    _, disc = planar()
    result, _ = analyze(Generator(Constant(), (2,)), disc, latents=12, jacobians=3, check=False)
    assert any("one cluster only" in sentence for sentence in result.missing)
    assert result.clusters.names == ["all"]
    assert (result.jacobian.rank == 0).all() and (result.jacobian.effective_rank == 0).all()
    assert (result.jacobian.log_volume == -math.inf).all()

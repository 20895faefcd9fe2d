"""Cluster → cluster contributions along a GAN's training, discriminator steps in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import genkernel as gk
from genkernel.errors import InputError
from genkernel.experiments.gan_path import record_gan
from genkernel.gan import Generator
from genkernel.gan.contributions import cluster_contributions, cluster_groups
from genkernel.models.gan_losses import LOSSES
from genkernel.models.gan_training import gan_training
from genkernel.models.gans import RECIPES
from genkernel.paths.reference import NaiveRecording

pytestmark = pytest.mark.usefixtures("one_thread")


def half(images):
    return (images.flatten(1)[:, 0] > 0).long()


def test_a_dcgan_with_batch_norm_against_the_naive_recording():
    recipe = replace(
        RECIPES["mnist"]["healthy"],
        batch=6,
        generator={"size": 8, "width": 4, "latent": 3},
        discriminator={"size": 8, "width": 4},
    )
    training = gan_training(recipe, torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    net = training.generator.double()
    training.discriminator.double()
    gen = Generator(net)
    followed = gen.draw(4, stream=3)
    loss = LOSSES[recipe.loss].generator

    def losses(generator, z):
        return loss(training.discriminator(generator(z))).flatten(1).mean(1)

    groups = cluster_groups(gen, half)
    naive = NaiveRecording(net, training.generator_optimizer)
    kept = {}

    def before(z):
        path.batch(z)
        held = [(b, b.clone()) for m in (net, training.discriminator) for b in m.buffers()]
        kept["gradients"] = naive.gradients(losses, z, groups(None, z).tolist(), together=True)
        for buffer, value in held:
            buffer.copy_(value)

    with gk.record(
        net,
        training.generator_optimizer,
        losses,
        groups=groups,
        queries=followed,
        query_call=gen.tangent.call,
        rule="midpoint",
        modules=[training.discriminator],
        verbose=False,
    ) as path:
        training.before_generator_step = before
        begun = naive.begin()
        for step in range(5):
            training.step(step)
            naive.take(begun, kept["gradients"], 1.0, training.generator_optimizer.param_groups[0]["lr"])
            begun = naive.begin()
    parts = path.contributions()
    expected = naive.contributions(gen.tangent.call, followed, nodes=1)
    for source in (0, 1):
        torch.testing.assert_close(parts.values[parts.sources.index(source)], expected[source], rtol=1e-8, atol=1e-12)
    assert parts.sources[-1] == "buffers" and parts.gap_rel < 0.05


def test_recording_changes_nothing_in_the_training(tmp_path):
    recipe = replace(RECIPES["ring"]["healthy"], steps=12, batch=32)
    parts = record_gan(recipe, tmp_path, progress=False)
    plain = gan_training(recipe)
    for step in range(12):
        plain.step(step)
    again = load_file(tmp_path / "G.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in plain.generator.state_dict().items())
    assert parts.gap_rel < 0.05 and len(parts.meta["query_clusters"]) == 20


def test_the_maps_hold_together(tmp_path):
    recipe = replace(RECIPES["ring"]["healthy"], steps=15, batch=64)
    parts = record_gan(recipe, tmp_path, progress=False)
    found = cluster_contributions(parts, parts.meta["query_clusters"], [f"mode {i}" for i in range(8)])
    assert found.net.shape == (4, len(found.queries), 8)
    assert found.occupancy.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.gross_share.sum(1), 1)
    assert ((found.effective_clusters >= 1) & (found.effective_clusters <= 8)).all()
    assert 0 <= found.foreign_share[0] <= 1 and found.buffers == 0
    np.testing.assert_allclose(found.signed[0].sum(1), 1, atol=0.1)
    with pytest.raises(InputError, match="not numbers of the 2 clusters"):
        cluster_contributions(parts, parts.meta["query_clusters"], ["a", "b"])


def test_images_need_to_be_told_apart(tmp_path):
    with pytest.raises(InputError, match="needs assign="):
        record_gan(replace(RECIPES["mnist"]["healthy"], steps=1), tmp_path, torch.rand(4, 1, 32, 32))

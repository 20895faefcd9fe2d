"""Noise level → noise level contributions: against the naive recording, and against what a map has to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.diffusion.contributions import (
    NoiseBuckets,
    level_kernels,
    massed_rows,
    noise_level_contributions,
    noise_level_queries,
)
from genkernel.diffusion.locality import window_mask
from genkernel.errors import InputError
from genkernel.paths.maps import contribution_matrix
from genkernel.paths.reference import NaiveRecording
from tests.diffusion.tiny import tiny_denoiser, tiny_images

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(module, batch):
    return (module(batch["x"], batch["t"]) - batch["target"]).square().flatten(1).mean(1)


def recorded(steps=30, timed=True, rule="midpoint", naive=False, seed=0):
    """A tiny denoiser trained with Adam, recorded by level."""
    den = tiny_denoiser(timed=timed, seed=seed)
    net = den.module.train()
    buckets = NoiseBuckets(den.schedule, 5)
    queries = noise_level_queries(den, tiny_images(8, 1), buckets, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    x0 = den.prepare(tiny_images(64)).double()
    beside = NaiveRecording(net, optimizer)
    draw = torch.Generator().manual_seed(seed)
    with gk.record(
        net,
        optimizer,
        losses,
        groups=buckets.groups(),
        queries=queries.batch,
        query_call=den.tangent.call,
        rule=rule,
        windows=6,
        verbose=False,
    ) as path:
        for _ in range(steps):
            ids = torch.randint(64, (16,), generator=draw)
            t = torch.randint(1000, (16,), generator=draw)
            noise = torch.randn(16, 1, 4, 4, generator=draw, dtype=torch.float64)
            batch = {"x": den.noisy(x0[ids], t, noise), "t": t, "target": noise}
            path.batch(batch, ids=ids)
            gradients = beside.gradients(losses, batch, buckets.of(t).tolist()) if naive else {}
            begun = beside.begin()
            optimizer.zero_grad()
            losses(net, batch).mean().backward()
            optimizer.step()
            beside.take(begun, gradients, 1.0, 3e-3)
    return path.contributions(), queries, buckets, den, beside


def test_every_bucket_is_what_the_naive_recording_says():
    parts, queries, _, den, naive = recorded(steps=8, naive=True)
    expected = naive.contributions(den.tangent.call, queries.batch, nodes=1)
    for a, source in enumerate(parts.sources):
        torch.testing.assert_close(parts.values[a], expected[source], rtol=1e-9, atol=1e-13)


def test_the_maps_hold_together():
    parts, queries, buckets, _, _ = recorded()
    maps = noise_level_contributions(parts, queries.bucket, buckets)
    assert maps.stretches[0] == (0, 30) and len(maps.stretches) == 4
    assert maps.net.shape == maps.gross.shape == (4, 5, 5)
    assert (maps.gross >= maps.net - 1e-12).all()
    np.testing.assert_allclose(maps.gross[0], maps.gross[1:].sum(0))
    np.testing.assert_allclose(maps.signed[0].sum(1), 1, atol=0.02)  # Adam without decay: data alone
    assert maps.mass.sum() == pytest.approx(1) and maps.gap < 0.02
    assert (maps.index_gross <= 1).all() and maps.window == 200


def test_the_index_is_zero_without_and_one_with_locality():
    mass = np.array([0.1, 0.4, 0.3, 0.2])
    mask = window_mask(np.arange(4.0), 1)
    np.testing.assert_allclose(massed_rows(np.tile(mass, (4, 1)), mass, mask), 0, atol=1e-12)
    np.testing.assert_allclose(massed_rows(np.eye(4), mass, mask), 1)


def test_buckets_and_queries():
    den = tiny_denoiser()
    buckets = NoiseBuckets(den.schedule, 4)
    assert buckets.of(torch.tensor([0, 249, 250, 999])).tolist() == [0, 0, 1, 3]
    assert np.all(np.diff(buckets.log_snr()) < 0)
    queries = noise_level_queries(den, tiny_images(3), buckets, 2)
    assert torch.equal(buckets.of(queries.times), queries.bucket) and len(queries.batch["x"]) == 8
    again = noise_level_queries(den, tiny_images(3), buckets, 2)
    assert torch.equal(again.batch["x"], queries.batch["x"])
    with pytest.raises(InputError, match="two or more"):
        NoiseBuckets(den.schedule, 1)
    with pytest.raises(InputError, match="times lie between"):
        buckets.of([1200])
    with pytest.raises(InputError, match="at least one query"):
        noise_level_queries(den, tiny_images(1), buckets, 0)


def test_the_kernels_own_maps_leave_a_sample_with_itself_out():
    _, _, buckets, den, _ = recorded(steps=2)
    found = level_kernels(den, tiny_images(20, 2), buckets, per_bucket=3, probes=4)
    samples = noise_level_queries(den, tiny_images(20, 2), buckets, 3)
    values = gk.kernel(den.tangent, samples.batch, cotangents=gk.probes(4, seed=0), progress=False).values.numpy()
    block = values[:3, :3]
    assert found.raw[0, 0] == pytest.approx((block.sum() - np.trace(block)) / 6)
    assert found.raw[0, 1] == pytest.approx(values[:3, 3:6].mean())
    assert np.abs(found.normalized).max() <= 1 and found.index_raw <= 1
    with pytest.raises(InputError, match="per_bucket is 2 or more"):
        level_kernels(den, tiny_images(4), buckets, per_bucket=1)


def test_other_groups_are_refused():
    parts, queries, _buckets, den, _ = recorded(steps=4)
    with pytest.raises(InputError, match="not the 4 noise buckets"):
        noise_level_contributions(parts, queries.bucket, NoiseBuckets(den.schedule, 4))
    with pytest.raises(InputError, match="one group per query"):
        contribution_matrix(parts, [0, 1])
    with pytest.raises(InputError, match="kind is"):
        contribution_matrix(parts, queries.bucket, "sum")
    with pytest.raises(InputError, match="stretch goes from one edge"):
        contribution_matrix(parts, queries.bucket, "net", [(0, 99)])
    with pytest.raises(InputError, match="group 1 of the queries"):
        contribution_matrix(parts, torch.where(queries.bucket == 1, 2, queries.bucket))

"""The experiment on alignment and accuracy, on a few architectures and images made here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.experiments.cka_accuracy import experiment as study
from genkernel.experiments.cka_accuracy import networks
from genkernel.experiments.cka_accuracy import outcome as results
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

FOUR = ("MLP 16", "CNN 8-16, batch norm", "transformer 24 × 1", "MLP 64 × 3, tanh")
TINY = study.Setting(
    architectures=FOUR, seeds=2, trained=40, tested=30, looked=20, steps=(0, 1, 2, 4), resamples=40
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (120, 28, 28), dtype=np.uint8)
    y = np.arange(120) % 10
    np.savez(folder / "fashion-mnist.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y[::-1])
    return folder


@pytest.mark.parametrize("name", networks.ARCHITECTURES)
def test_every_architecture_classifies_and_knows_one_image_from_another(name: str) -> None:
    net = networks.build(name, 0).eval()
    x = torch.rand(3, 1, networks.SIDE, networks.SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = net(x)
        assert out.shape == (3, networks.CLASSES)
        assert torch.allclose(out[1:], net(x[1:]), atol=1e-5)  # a function of one image
        assert float((out[0] - out[1]).abs().max()) > 1e-4
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), networks.build(name, 0).parameters(), strict=True))


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = networks.Attention(6), nn.MultiheadAttention(6, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.inward.weight)
        theirs.in_proj_bias.copy_(ours.inward.bias)
        theirs.out_proj.weight.copy_(ours.outward.weight)
        theirs.out_proj.bias.copy_(ours.outward.bias)
        x = torch.randn(2, 5, 6)
        assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)


def test_rank_correlations() -> None:
    rng = np.random.default_rng(0)
    assert results.rank_correlation([1, 2, 3, 9], [0, 1, 5, 6]) == pytest.approx(1)
    assert math.isnan(results.rank_correlation([1, 1, 1], [1, 2, 3])) and math.isnan(results.rank_correlation([1], [1]))
    cause = rng.normal(size=2000)
    one, other = (cause + 0.3 * rng.normal(size=2000) for _ in range(2))  # alike because of the third alone
    assert results.rank_correlation(one, other) > 0.8
    assert abs(results.rank_correlation(one, other, cause)) < 0.15
    assert results.rank_correlation(one, one + 0.1 * cause, rng.normal(size=2000)) > 0.9
    assert math.isnan(results.rank_correlation(one, one, one))


def test_intervals_over_architectures() -> None:
    a = np.arange(12.0)
    low, high = results.resampled(results.rank_correlation, [a, a + 0.1], 200, 0)
    assert low == pytest.approx(1) and high == pytest.approx(1)
    noise = np.random.default_rng(1).normal(size=12)
    low, high = results.resampled(results.rank_correlation, [a, noise], 400, 0)
    assert low < results.rank_correlation(a, noise) < high and high - low > 0.5
    assert results.resampled(results.rank_correlation, [a, noise], 400, 0) == (low, high)
    assert math.isnan(results.resampled(results.rank_correlation, [a[:3], a[:3]], 50, 0)[0])


def test_images_to_look_at_are_none_of_those_for_the_accuracy(data: Path) -> None:
    images = study.draw(data, TINY, 3)
    assert images.x.shape == (40, 1, 14, 14) and len(images.held) == len(images.held_y) == 20 and len(images.test) == 30
    assert float(torch.cdist(images.held.flatten(1), images.test.flatten(1)).min()) > 0.1
    assert images.x.dtype == torch.float32 and float(images.x.min()) >= 0 and float(images.x.max()) <= 1


def test_without_images_every_claim_is_undecided() -> None:
    found = study.run(progress=False, setting=TINY)
    assert len(found.claims) == 7 and {claim.holds for claim in found.claims} == {"undecided"}


def test_the_whole_of_it(data: Path) -> None:
    assert experiment("cka-accuracy") is study.run
    assert len(networks.ARCHITECTURES) >= 12
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY, data=data, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 7
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json.dumps(json_ready(found.numbers))
    assert to_bytes(found.figures["cka-accuracy"], "png")[:4] == b"\x89PNG"

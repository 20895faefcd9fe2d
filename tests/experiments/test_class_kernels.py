"""The experiment on class blocks, on few images made here."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.errors import InputError, MissingError
from genkernel.experiments.class_kernels import experiment as study
from genkernel.experiments.class_kernels import task
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = task.Setting(seeds=2, per_class=3, shown=2, epochs=1, permuted_epochs=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the place of digits and of emoji, six pictures of every kind under names out of its ranges."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 256, (300, 28, 28), dtype=np.uint8)
    np.savez(
        folder / "mnist.npz", x_train=digits, y_train=np.arange(300) % 10, x_test=digits[:10], y_test=np.arange(10)
    )
    names = [f"{ranges[0][0]:x}-{k:x}" for ranges in task.KINDS.values() for k in range(0xFE00, 0xFE06)]
    pictures = rng.integers(0, 256, (len(names), 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "emoji32.npz", x=pictures, name=np.array(names))
    return folder


def test_kinds_are_of_code_points_and_leave_skin_tones_out() -> None:
    kinds = list(task.KINDS)
    for name, kind in (
        ("1f1e6-1f1e8", "flags"),
        ("1f600", "faces"),
        ("270d-fe0f", "hands"),
        ("1f469-200d-1f680", "people"),
        ("1f697", "vehicles"),
        ("1f408-200d-2b1b", "animals"),
    ):
        found = task.kind_of(name)
        assert found is not None and kinds[found] == kind
    assert task.kind_of("1f44d-1f3fd") is None and task.kind_of("00a9-fe0f") is None
    spans = sorted(span for ranges in task.KINDS.values() for span in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(spans))  # no point is of two kinds
    assert len(kinds) == task.CLASSES


def test_a_picture_counts_once(tmp_path: Path) -> None:
    pictures = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    pictures[2] = 255
    np.savez(tmp_path / "e.npz", x=pictures, name=np.array(["1f600", "1f601", "1f602", "00a9"]))
    x, y = task.emoji(tmp_path / "e.npz")
    assert x.shape == (2, 3, 32, 32) and y.tolist() == [1, 1] and float(x[1].min()) == 1
    np.savez(tmp_path / "other.npz", x=pictures)
    with pytest.raises(InputError, match="x and name"):
        task.emoji(tmp_path / "other.npz")


def test_draws_are_balanced_and_standardised_and_do_not_overlap(data: Path) -> None:
    for name, channels, size in ((task.DIGITS, 1, 28), (task.EMOJI, 3, 32)):
        images = task.draw(data, name, TINY, 4)
        assert images.x.shape == (30, channels, size, size) and images.held.shape == (20, channels, size, size)
        assert torch.bincount(images.y).tolist() == [3] * 10 and torch.bincount(images.held_y).tolist() == [2] * 10
        assert torch.allclose(images.x.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4)
        assert torch.allclose(images.x.std((0, 2, 3)), torch.ones(channels), atol=1e-4)
        apart = torch.cdist(images.x.flatten(1), images.held.flatten(1))
        assert float(apart.min()) > 0.1
        assert torch.equal(images.x, task.draw(data, name, TINY, 4).x)
    with pytest.raises(MissingError):
        task.draw(data / "none", task.DIGITS, TINY, 0)


def test_structures_are_those_of_gradients_written_out() -> None:
    """Of a linear network W x + b: the trace kernel is O (x·x' + 1), as is the sum of logits'; the label's has no more
    than images of one class."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Linear(4, task.CLASSES)).double()
    x, y = torch.randn(8, 1, 3, 3, dtype=torch.float64), torch.arange(8) // 2
    found = study._structures(net, x, y, keep=True)
    hidden = net[1](x.flatten(1)).detach()
    own = hidden @ hidden.T + 1
    inputs = x.flatten(1) @ x.flatten(1).T + 1
    W = net[2].weight.detach()
    total = task.CLASSES * own + inputs * float(W.sum(0) @ W.sum(0))
    scale = total.diagonal().sqrt()
    assert np.allclose(found[study.SUM].cosines, total / torch.outer(scale, scale), atol=1e-9)
    label = own * (y[:, None] == y) + inputs * (W[y] @ W[y].T)
    scale = label.diagonal().sqrt()
    cosines = label / torch.outer(scale, scale)
    same = (y[:, None] == y) & ~torch.eye(8, dtype=torch.bool)
    assert found[study.OWN].within == pytest.approx(float(cosines[same].mean()), abs=1e-9)
    bare = study._structures(net, x, y, keep=False)[f"{study.TRACE}, without last layer"]
    scale = inputs.diagonal().sqrt()
    assert bare.within == pytest.approx(float((inputs / torch.outer(scale, scale))[same].mean()), abs=1e-9)


def test_without_images_every_claim_is_undecided() -> None:
    found = study.run(progress=False, setting=TINY)
    assert len(found.claims) == 9 and {claim.holds for claim in found.claims} == {"undecided"}
    assert not found.figures


def test_the_whole_of_it(data: Path) -> None:
    assert experiment("class-kernels") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY, data=data, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 9
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json.dumps(json_ready(found.numbers))
    assert set(found.figures) == {"class-kernels", "class-kernels-sum", "class-kernels-means"}
    assert to_bytes(found.figures["class-kernels-means"], "png")[:4] == b"\x89PNG"

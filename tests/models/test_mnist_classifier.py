"""The classifier of digits: its training on a few shapes, and what it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genkernel import assets
from genkernel.data import load_images
from genkernel.errors import InputError, MissingError, OutputError
from genkernel.models.mnist_classifier import (
    ClassifierRecipe,
    MNISTClassifier,
    accuracy,
    digit_coverage,
    load_classifier,
    train_classifier,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ClassifierRecipe(steps=3, batch=8)


@pytest.fixture
def shapes() -> tuple[Tensor, Tensor]:
    """Bars at ten heights."""
    labels = torch.arange(20) % 10
    images = torch.zeros(20, 1, 32, 32)
    for i, label in enumerate(labels.tolist()):
        images[i, 0, 3 * label : 3 * label + 3] = 1
    return images, labels


def test_saved_classifier_is_loaded_again(shapes: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    before = torch.get_rng_state()
    trained = train_classifier(*shapes, shapes, tmp_path, SHORT, progress=False)
    assert torch.equal(before, torch.get_rng_state()) and not trained.training
    again = load_classifier(tmp_path)
    x = torch.rand(4, 1, 32, 32) * 2 - 1
    assert torch.equal(trained(x), again(x)) and again.features(x).shape == (4, 64)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["test_accuracy"] == accuracy(again, *shapes) and record["test_images"] == 20
    assert record["parameters"] == sum(p.numel() for p in again.parameters())


def test_training_repeats_with_its_seed(shapes: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x = torch.zeros(1, 1, 32, 32)
    first, again, other = (
        train_classifier(*shapes, shapes, tmp_path, replace(SHORT, seed=seed), progress=False)(x) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_it_cannot_learn_from(shapes: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    images, labels = shapes
    for x, y, says in (
        (images[..., :28, :28], labels, r"\[n, 1, 32, 32\]"),
        (images, labels[:3], "with n classes"),
        (images, labels + 1, "digits 0 … 9, not 1 … 10"),
    ):
        with pytest.raises(InputError, match=says):
            train_classifier(x, y, shapes, tmp_path / "out", SHORT, progress=False)
    with pytest.raises(InputError, match="steps must be at least 1"):
        replace(SHORT, steps=0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        train_classifier(*shapes, shapes, tmp_path / "file" / "out", SHORT, progress=False)
    with pytest.raises(MissingError, match="holds no classifier"):
        load_classifier(tmp_path)


class Oracle(nn.Module):
    """Sure of the digit that the first pixel names, unsure where it is negative."""

    def forward(self, x: Tensor) -> Tensor:
        named = (x[:, 0, 0, 0] * 10).round()
        logits = torch.zeros(len(x), 10)
        sure = named >= 0
        logits[sure, named[sure].long()] = 20.0
        return logits


def test_modes_of_one_and_of_three_channels() -> None:
    coverage = digit_coverage(Oracle())
    x = torch.zeros(10, 1, 32, 32)
    x[:, 0, 0, 0] = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, -1, -1]) / 10
    found = coverage(x)
    assert (found.modes, found.of, found.share) == (4, 10, 0.8) and found.counts[:4] == [1, 1, 1, 5]
    stacked = torch.zeros(3, 3, 32, 32)
    stacked[0, :, 0, 0] = torch.tensor([1, 2, 3]) / 10
    stacked[1, :, 0, 0] = torch.tensor([9, 0, 5]) / 10
    stacked[2, :, 0, 0] = torch.tensor([9, -1, 5]) / 10  # unsure of one channel
    found = coverage(stacked)
    assert (found.modes, found.of) == (2, 1000) and found.counts[123] == 1 and found.counts[905] == 1
    with pytest.raises(InputError, match="32, 32"):
        coverage(torch.zeros(2, 1, 28, 28))


def test_shipped_classifier_knows_digits() -> None:
    """The 64 shipped digits were shrunk to 16×16, so it sees them blurred."""
    digits = load_images(assets.path("mnist-16.npz"), size=32)
    network = load_classifier(assets.path("mnist-classifier"))
    assert isinstance(network, MNISTClassifier) and digits.labels is not None
    assert accuracy(network, digits.images, digits.labels) > 0.9
    assert json.loads((assets.path("mnist-classifier") / "training.json").read_text())["test_accuracy"] >= 0.97

"""Classifiers of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.models.paper_classifiers import ThreeStageCNN, perceptron


def test_the_networks_of_section_5_1() -> None:
    digits = ThreeStageCNN()
    colour = ThreeStageCNN(3, 32, head=(256, 128))
    assert digits(torch.zeros(2, 1, 28, 28)).shape == colour(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in digits.parameters()) == 98_442  # as in the benchmark's W1
    widths = [m.out_features for m in colour.modules() if isinstance(m, nn.Linear)]
    assert widths == [256, 128, 10] and sum(isinstance(m, nn.Dropout) for m in colour.modules()) == 2


def test_images_that_pooling_leaves_nothing_of_are_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        ThreeStageCNN(size=7)


def test_a_perceptron_takes_samples_of_any_shape() -> None:
    net = perceptron(12, (5, 4), classes=3)
    assert net(torch.zeros(2, 3, 2, 2)).shape == (2, 3)
    assert perceptron(12, ())(torch.zeros(1, 12)).shape == (1, 10)

"""Classes of samples, and draws that treat them alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.classifier.labels import balanced, class_indices
from genkernel.errors import InputError


def test_whole_numbers_and_one_hot() -> None:
    assert class_indices(torch.tensor([0, 2, 1]), 3).tolist() == [0, 2, 1]
    assert class_indices(torch.eye(3)[[2, 0]], 2).tolist() == [2, 0]
    for bad in ([0.5, 1.0], [-1, 0], [0, 1, 2]):
        with pytest.raises(InputError):
            class_indices(bad, 2)


def test_classes_take_turns() -> None:
    labels = np.array([0] * 50 + [1] * 30 + [2] * 3)
    found = balanced(labels, 33)
    assert (np.diff(found) > 0).all()
    assert np.bincount(labels[found]).tolist() == [15, 15, 3]
    assert np.array_equal(balanced(labels, 33), found) and not np.array_equal(balanced(labels, 33, seed=1), found)
    assert balanced(labels, 1000).tolist() == list(range(83))

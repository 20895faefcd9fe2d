"""New samples beside held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.classifier import Classifier
from genkernel.classifier.extrapolation import Seen, extrapolation
from genkernel.classifier.results import Extrapolation
from genkernel.errors import InputError
from genkernel.tangent import exact_trace, kernel
from tests.classifier.toys import blobs, mlp, trained

Run = Callable[..., tuple[Extrapolation, list[str]]]


@pytest.fixture(scope="module")
def run() -> Run:
    x, y = blobs(60)
    clf = Classifier(trained(mlp(), x, y))
    K = kernel(clf.tangent, x, cotangents=exact_trace())

    seen = Seen(x, y.numpy(), np.arange(3), K, exact_trace())

    def of(new: Any, labels: Any = None, held_out: Any = None) -> tuple[Extrapolation, list[str]]:
        return extrapolation(clf, seen, new, None if labels is None else np.asarray(labels), held_out)

    return of


def test_training_samples_are_not_new(run: Run) -> None:
    x, y = blobs(60)
    found, notes = run(x[:12], y[:12].numpy())
    assert found.new.distance.max() < 1e-2
    assert found.new.rank_gap <= 1 / 12  # copies raise singular values, one of which may be at the tolerance
    assert found.accuracy == 1.0 and found.new.followed == 1.0 and (found.new.nearest == y[:12].numpy()).all()
    assert found.by_similarity is None and "0 of 12" in notes[-1]


def test_samples_from_elsewhere_are_further_than_held_out_ones(run: Run) -> None:
    held, _ = blobs(40, seed=5)
    draw = torch.Generator().manual_seed(0)
    far = 12 * torch.randn(40, 2, generator=draw)
    found, _ = run(far, held_out=held)
    assert found.newness is not None and found.held_out is not None
    assert found.new.distance.mean() > found.held_out.distance.mean() and found.newness.value > 0.7
    assert found.new.rank_gap >= found.held_out.rank_gap and found.labels is None


def test_similarities_are_those_of_the_cross_kernel(run: Run) -> None:
    x, y = blobs(60)
    new, labels = blobs(60, seed=3, spread=1.6)
    found, _ = run(new, labels.numpy())
    clf = Classifier(trained(mlp(), x, y))
    cosines = kernel(clf.tangent, new, x, cotangents=exact_trace()).normalized().values
    for c in range(3):
        np.testing.assert_allclose(found.new.similarity[:, c], cosines[:, y == c].mean(1), atol=1e-6)
        assert found.matrix is not None and found.accuracy_per_class is not None
        np.testing.assert_allclose(found.matrix[c], found.new.similarity[labels.numpy() == c].mean(0))
    right = found.new.predictions == labels.numpy()
    assert found.accuracy == pytest.approx(right.mean()) and (~right).sum() >= 8
    assert found.by_similarity is not None and found.by_confidence is not None
    told = found.new.similarity[np.arange(60), found.new.predictions]
    pairs = [
        (told[i] > told[j]) + 0.5 * (told[i] == told[j]) for i in np.flatnonzero(right) for j in np.flatnonzero(~right)
    ]
    assert found.by_similarity.value == pytest.approx(np.mean(pairs))


def test_classes_without_training_samples(run: Run) -> None:
    with pytest.raises(InputError, match=r"classes \[7\]"):
        run(torch.randn(3, 2), [0, 1, 7])

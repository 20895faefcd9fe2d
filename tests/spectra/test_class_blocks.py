"""Mean similarities by class, and their errors, beside loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.spectra.class_blocks import class_blocks


def features(n: int, seed: int = 0, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    centres = torch.randn(3, 12, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return shift * centres[y] + torch.randn(n, 12, generator=draw, dtype=torch.float64), y


def by_hand(x: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, float, float]:
    unit = x / x.norm(dim=1, keepdim=True)
    K, n = (unit @ unit.T).numpy(), len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    classes = sorted(set(y.tolist()))
    matrix = np.array(
        [
            [np.mean([K[i, j] for i, j in pairs if y[i] == a and y[j] == b] or [math.nan]) for b in classes]
            for a in classes
        ]
    )
    within = np.mean([K[i, j] for i, j in pairs if y[i] == y[j]])
    return matrix, float(within), float(np.mean([K[i, j] for i, j in pairs if y[i] != y[j]]))


def test_means_and_jackknife_errors_are_those_of_loops() -> None:
    x, y = features(13)
    found = class_blocks(x @ x.T, y)
    matrix, within, between = by_hand(x, y)
    np.testing.assert_allclose(found.matrix.numpy(), matrix, rtol=1e-12)
    assert (found.within, found.between) == pytest.approx((within, between), rel=1e-12)
    assert found.sizes.tolist() == [5, 4, 4] and found.contrast == pytest.approx(within - between)
    left = np.array([by_hand(x[torch.arange(13) != i], y[torch.arange(13) != i])[1:] for i in range(13)])
    for error, values in (
        (found.within_stderr, left[:, 0]),
        (found.between_stderr, left[:, 1]),
        (found.contrast_stderr, left[:, 0] - left[:, 1]),
    ):
        assert error == pytest.approx(math.sqrt(12 / 13 * ((values - values.mean()) ** 2).sum()), rel=1e-9)


def test_errors_are_as_large_as_what_other_samples_change() -> None:
    found = [class_blocks(x @ x.T, y) for x, y in (features(45, seed) for seed in range(60))]
    spread = np.std([one.contrast for one in found], ddof=1)
    assert 0.8 < np.mean([one.contrast_stderr for one in found]) / spread < 1.3


def test_single_samples_and_names() -> None:
    x, _ = features(4)
    found = class_blocks(x @ x.T, ["b", "a", "b", "c"])
    assert found.sizes.tolist() == [1, 2, 1]
    assert [math.isnan(v) for v in found.matrix.diagonal().tolist()] == [True, False, True]
    alone = class_blocks(x @ x.T, [0, 1, 2, 3])
    assert math.isnan(alone.within) and math.isfinite(alone.between)
    with pytest.raises(InputError, match="one class"):
        class_blocks(x @ x.T, [0, 0, 0, 0])

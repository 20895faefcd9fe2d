"""Balanced samples of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genkernel.data import load_images
from scripts.make_samples import balanced, main


def test_classes_take_turns() -> None:
    labels = np.repeat(np.arange(4), [50, 3, 20, 20])
    keep = balanced(labels, 16, seed=0)
    assert len(set(keep)) == 16
    assert labels[keep][:12].tolist() == [0, 1, 2, 3] * 3 and labels[keep][12:].tolist() == [0, 2, 3, 0]
    assert not np.array_equal(keep, balanced(labels, 16, seed=1))


def test_without_classes_it_is_a_random_subset_in_order() -> None:
    keep = balanced(np.zeros(100, np.int64), 10, seed=0)
    assert len(set(keep)) == 10 and (np.diff(keep) > 0).all() and keep[-1] > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_written_sample_is_what_was_loaded(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "in.npz", x=rng.integers(0, 256, (20, 12, 12, 3), np.uint8), y=np.arange(20) % 2)
    words = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz"), "--size", "6", "--channels", str(channels)]
    main([*words, "--count", "8"])
    found = load_images(tmp_path / "out.npz")
    assert tuple(found.images.shape) == (8, channels, 6, 6)
    assert found.labels is not None and found.labels.tolist() == [0, 1] * 4
    whole = load_images(tmp_path / "in.npz", size=6, channels=channels).images
    nearest = (whole[None] - found.images[:, None]).abs().flatten(2).amax(2).amin(1)
    assert (nearest <= 0.5 / 255 + 1e-6).all()

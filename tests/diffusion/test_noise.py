"""Noise depends on its key and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.diffusion.noise import keyed_noise, keyed_noise_batch
from genkernel.errors import InputError

SHAPE = (1, 4, 4)


def test_same_key_same_noise_whatever_the_layout():
    levels = [3.0, 250.0, 999.0]
    images = [0, 1, 2, 3]
    grid_images = [i for _ in levels for i in images]
    grid_levels = [t for t in levels for _ in images]
    whole = keyed_noise_batch(SHAPE, 7, grid_images, grid_levels)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = keyed_noise_batch(SHAPE, 7, [grid_images[k] for k in order], [grid_levels[k] for k in order])
    assert torch.equal(whole[order], shuffled)
    # a subset of the levels, at another position in the list
    subset = keyed_noise_batch(SHAPE, 7, images, [999.0] * 4)
    assert torch.equal(whole[8:], subset)
    assert torch.equal(keyed_noise(SHAPE, 7, 2, 250), whole[6])


def test_every_part_of_the_key_matters():
    keys = [(0, 0, 10, 0), (1, 0, 10, 0), (0, 1, 10, 0), (0, 0, 11, 0), (0, 0, 10, 1), (0, 0, None, 0), (0, 0, 0.0, 0)]
    keys += [(2**32, 0, 10, 0), (0, 2**40, 10, 0), (0, 0, 10.000001, 0)]
    drawn = [keyed_noise(SHAPE, seed, image, level, draw) for seed, image, level, draw in keys]
    for a in range(len(keys)):
        for b in range(a):
            assert not torch.equal(drawn[a], drawn[b]), (keys[a], keys[b])


def test_it_is_standard_normal_and_uncorrelated():
    rows = torch.stack([keyed_noise((500,), 0, image, level) for image in range(20) for level in (1.0, 2.0)]).numpy()
    flat = rows.ravel()
    assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
    assert abs(flat.var() - 1) < 4 * np.sqrt(2 / flat.size)
    assert abs((flat**4).mean() - 3) < 4 * np.sqrt(96 / flat.size)
    correlation = np.corrcoef(rows)[~np.eye(len(rows), dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(500)


def test_global_generators_are_untouched_and_dtypes_agree():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    wide, narrow = keyed_noise((5,), 0, 0, 1.0), keyed_noise((5,), 0, 0, 1.0, dtype=torch.float32)
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(state, np.random.get_state()[1])
    assert wide.dtype == torch.float64 and torch.equal(wide.to(torch.float32), narrow)
    assert keyed_noise((0,), 0, 0).shape == (0,) and keyed_noise((3,), 0, 0).shape == (3,)


def test_frozen_values():
    """The stream itself is part of the contract: results must be reproducible across versions."""
    expected = [-1.7223805044410065, -0.12707317730162854, -1.4969717024929965, 0.9819401902394819]
    assert keyed_noise((4,), 0, 3, 250.0).tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("key", [(-1, 0, 1.0, 0), (0, -1, 1.0, 0), (0, 0, float("nan"), 0), (0, 0, 1.0, -1)])
def test_bad_keys(key):
    with pytest.raises(InputError):
        keyed_noise(SHAPE, *key)


def test_levels_must_match_images():
    with pytest.raises(InputError):
        keyed_noise_batch(SHAPE, 0, [0, 1], [1.0])

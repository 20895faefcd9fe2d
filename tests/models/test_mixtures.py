"""Planar mixtures, and how their modes are counted."""

from __future__ import annotations

import math

import pytest
import torch

from genkernel.errors import InputError
from genkernel.models.coverage import count_modes
from genkernel.models.mixtures import MIXTURES, grid, ring


def test_modes_lie_where_they_should() -> None:
    assert ring().modes.shape == (8, 2) and grid().modes.shape == (25, 2)
    torch.testing.assert_close(ring(radius=3.0).modes.norm(dim=1), torch.full((8,), 3.0))
    assert sorted({x for x, _ in grid(3, 1.5).centres}) == [-1.5, 0.0, 1.5]
    assert {tuple(m) for m in grid().modes.tolist()} == {
        (float(x), float(y)) for x in range(-2, 3) for y in range(-2, 3)
    }


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_covers_itself(name: str) -> None:
    mixture = MIXTURES[name]()
    n = 20_000
    samples = mixture.draw(n, torch.Generator().manual_seed(0))
    found = mixture.coverage(samples)
    assert found.modes == found.of == len(mixture.centres) and found.samples == n
    good = 1 - math.exp(-4.5)  # of a round Gaussian in the plane, within three standard deviations
    assert abs(found.share - good) < 4 * math.sqrt(good * (1 - good) / n)
    assert found.effective > 0.999 * found.of
    nearest = torch.cdist(samples, mixture.modes).argmin(1)
    spread = (samples - mixture.modes[nearest]).std()
    assert float(spread) == pytest.approx(mixture.std, rel=0.02)


def test_draws_repeat_with_their_generator_and_leave_the_global_one() -> None:
    before = torch.get_rng_state()
    first, again = (ring().draw(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())


def test_what_counts_as_covered() -> None:
    nearest = torch.tensor([0] * 96 + [1] * 3 + [2])  # a fair share of 4 modes is 25, a tenth of it 2.5
    good = torch.ones(100, dtype=torch.bool)
    found = count_modes(nearest, good, 4)
    assert (found.modes, found.of, found.counts) == (2, 4, [96, 3, 1, 0])
    assert found.share == 1.0
    p = torch.tensor([0.96, 0.03, 0.01], dtype=torch.float64)
    assert found.effective == pytest.approx(math.exp(float(-(p * p.log()).sum())), rel=1e-12)
    good[:90] = False
    found = count_modes(nearest, good, 4)
    assert (found.modes, found.share, found.counts) == (2, 0.1, [6, 3, 1, 0])
    assert "2 of 4 modes, 10.0% good samples" in str(found)


def test_no_good_sample() -> None:
    found = ring().coverage(torch.full((10, 2), 100.0))
    assert (found.modes, found.share, found.effective) == (0, 0.0, 0.0)


def test_samples_that_are_no_numbers_cover_nothing() -> None:
    assert ring().coverage(torch.full((10, 2), math.nan)).modes == 0


def test_samples_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"shape \[n, 2\], not \(4, 3\)"):
        ring().coverage(torch.zeros(4, 3))
    with pytest.raises(InputError, match="one mode and one mark"):
        count_modes(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool), 3)

"""Rank gaps from Gram matrices are those of the features."""

from __future__ import annotations

import pytest
import torch

from genkernel.errors import InputError
from genkernel.spectra.gram_ranks import gram_rank_gap


@pytest.mark.parametrize("inside", [0, 2, 5])
def test_the_gap_counts_directions_outside(inside: int) -> None:
    draw = torch.Generator().manual_seed(inside)
    trained = torch.randn(6, 40, generator=draw, dtype=torch.float64)
    within = torch.randn(inside, 6, generator=draw, dtype=torch.float64) @ trained
    new = torch.cat([within, torch.randn(5 - inside, 40, generator=draw, dtype=torch.float64)])
    every = torch.cat([trained, new])
    found = gram_rank_gap(every @ every.T, 6, torch.float64)
    assert found.gap == 5 - inside and found.trained.value == 6


def test_what_is_no_gram_matrix() -> None:
    for gram, trained in ((torch.eye(4)[:3], 2), (torch.eye(4), 0), (torch.eye(4), 4)):
        with pytest.raises(InputError, match="Gram"):
            gram_rank_gap(gram, trained)

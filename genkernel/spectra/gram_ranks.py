"""Tangent ranks from a Gram matrix, where the features themselves do not fit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.ranks import RankGap, tangent_rank_gap


def gram_rank_gap(gram: Tensor, trained: int, dtype: torch.dtype = torch.float32) -> RankGap:
    """The rank that new samples add, from the Gram matrix of all gradients (THEORY §5).

    Its square root has the singular values and ranks of the gradients, and one column per sample instead of one per
    parameter. Rounding of a Gram matrix hides singular values below √(samples × precision) of the largest: that is the
    tolerance, and smaller directions do not count.

    Args:
        gram: ``[n + m, n + m]``, training samples first.
        trained: n.
        dtype: that gradients were computed in.

    Raises:
        InputError: not square, or there are no samples on one side.
    """
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1] or not 0 < trained < len(gram):
        raise InputError(
            f"the Gram matrix is of n training samples and of new ones, [n + m, n + m] with 0 < n = {trained}, not "
            f"{tuple(gram.shape)}"
        )
    values, vectors = torch.linalg.eigh((gram.double() + gram.T.double()) / 2)
    rows = vectors * values.clamp_min(0).sqrt()
    precision = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps ** 1.5)
    return tangent_rank_gap(rows[:trained], rows[trained:], math.sqrt(len(rows) * precision))

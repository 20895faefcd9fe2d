"""What the replicates of one case give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Trained:
    """One case, all replicates.

    Attributes:
        structure: its name.
        start: "random", or the standard deviation of the noise on the exact weights.
        length, ones: of the training sequences.
        parameters: of one network.
        squares, wrong: mean squared error and share of wrong places by number of ones 0 … n ``[n + 1, R]``.
    """

    structure: str
    start: str | float
    length: int
    ones: int
    parameters: int
    squares: Tensor
    wrong: Tensor

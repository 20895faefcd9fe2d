"""What one network of one case gives, and what averages of kernels give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Deviation:
    """How far a kernel is from invariant, relative to its Frobenius norm; the largest of some transformations.

    Attributes:
        one: of K(Tx, x') from K(x, x').
        both: of K(Tx, Tx').
        output: of f(Tx) from f(x), relative to f(x).
    """

    one: float
    both: float
    output: float


@dataclass(frozen=True)
class Reading:
    """One network.

    Attributes:
        untrained, trained: deviations before and after.
        accuracy: of samples like those that were learned; ``moved`` of transformed ones.
    """

    untrained: Deviation
    trained: Deviation
    accuracy: float
    moved: float


@dataclass(frozen=True)
class Averages:
    """Kernels of fully connected networks, averaged over starts.

    Attributes:
        starts: how many ``[k]``.
        one, both: deviations of the mean kernel under a shift of one side and of both ``[replicates, k]``.
    """

    starts: tuple[int, ...]
    one: Array
    both: Array

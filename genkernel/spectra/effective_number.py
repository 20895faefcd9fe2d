"""How many parts a distribution of weights amounts to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def entropy_number(weights: Any) -> float:
    """e^{H(p)} of p = weights/Σ weights: the effective number of equal parts; 0 where all weights are 0.

    Of eigenvalues it is the effective rank (Roy and Vetterli, 2007).
    """
    values: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    total = float(values.sum())
    if total <= 0:
        return 0.0
    p = values / total
    return float(np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))))


def participation(weights: Any) -> float:
    """1/Σ p² of p = weights/Σ weights."""
    p = np.asarray(weights, dtype=np.float64) / max(float(np.sum(weights)), 1e-300)
    return 1.0 / max(float(np.sum(p**2)), 1e-300)

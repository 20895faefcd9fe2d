"""Orders of convergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genkernel.paths.stochastic.weak_error import fit_slope

# How far a fitted slope may be from the order it is taken for. Fits go over few octaves from an η that is not small, so
# a tenth is too strict; half is where the next order begins.
WITHIN = 0.3
HALFWAY = 1.5  # between the first and the second order


def slope(rates: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of log error over log rate; NaN where an error is zero or not finite."""
    y = np.asarray(errors, dtype=np.float64)
    if not np.isfinite(y).all() or (y <= 0).any():
        return float("nan")
    return fit_slope(rates, y).value


def has_order(value: float, order: int) -> bool | None:
    """Whether a slope is that of an order; None where there is no slope."""
    return None if np.isnan(value) else bool(abs(value - order) <= WITHIN)


def below_halfway(value: float) -> bool | None:
    """Whether a slope is nearer to the first order than to the second; None where there is no slope."""
    return None if np.isnan(value) else bool(value < HALFWAY)
